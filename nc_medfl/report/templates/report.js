"use strict";
// Columns sort by a click on their header; without this script the tables stand as they were written.
(function () {
  function key(cell) {
    return cell.hasAttribute("data-sort") ? Number(cell.getAttribute("data-sort")) : null;
  }
  function sort(table, column, header) {
    var body = table.tBodies[0];
    var numeric = false;
    Array.prototype.forEach.call(body.rows, function (row) {
      if (key(row.cells[column]) !== null) numeric = true;
    });
    // Numbers fall first, words rise first.
    var before = header.getAttribute("aria-sort");
    var rising = before ? before === "descending" : !numeric;
    var rows = Array.prototype.slice.call(body.rows);
    rows.sort(function (a, b) {
      var x = a.cells[column], y = b.cells[column];
      var order;
      if (numeric) {
        var p = key(x), q = key(y);
        if (p === null || q === null) return (p === null) - (q === null);
        order = p - q;
      } else {
        order = x.textContent.localeCompare(y.textContent);
      }
      return rising ? order : -order;
    });
    Array.prototype.forEach.call(table.tHead.rows[0].cells, function (other) {
      other.removeAttribute("aria-sort");
    });
    header.setAttribute("aria-sort", rising ? "ascending" : "descending");
    rows.forEach(function (row) { body.appendChild(row); });
  }
  Array.prototype.forEach.call(document.querySelectorAll("table:not(.pairs)"), function (table) {
    Array.prototype.forEach.call(table.tHead.rows[0].cells, function (header, column) {
      var button = document.createElement("button");
      button.type = "button";
      button.textContent = header.textContent;
      button.addEventListener("click", function () { sort(table, column, header); });
      header.textContent = "";
      header.appendChild(button);
    });
  });
  var given = document.getElementById("slider-data");
  if (given) slide(JSON.parse(given.textContent));

  function slide(data) {
    function part(name) { return document.getElementById("slider-" + name); }
    function fill(select, names, usable) {
      names.forEach(function (name, k) {
        var option = document.createElement("option");
        option.value = k;
        option.textContent = name;
        option.disabled = !usable(k);
        select.appendChild(option);
      });
    }
    var site = part("site"), finding = part("finding"), range = part("range");
    function curve() { return data.curves[site.value][finding.value]; }
    function percent(value) { return value === null ? "undefined" : (100 * value).toFixed(1) + "%"; }
    function ratio(a, b) { return b > 0 ? a / b : null; }
    function show() {
      var found = curve(), k = Number(range.value), words = "Too few positives or negatives here to show this.";
      var numbers = { sensitivity: null, specificity: null, ppv: null, npv: null };
      part("threshold").textContent = data.thresholds[k].toPrecision(3);
      range.setAttribute("aria-valuetext", "threshold " + data.thresholds[k].toPrecision(3));
      if (found) {
        var p = found[0], sensitivity = found[1][k] / 1000, alarms = found[2][k] / 1000;
        numbers = {
          sensitivity: sensitivity, specificity: 1 - alarms,
          ppv: ratio(sensitivity * p, sensitivity * p + alarms * (1 - p)),
          npv: ratio((1 - alarms) * (1 - p), (1 - alarms) * (1 - p) + (1 - sensitivity) * p)
        };
        words = "Of 1,000 such images, " + Math.round(1000 * (sensitivity * p + alarms * (1 - p))) + " are flagged, " +
          Math.round(1000 * alarms * (1 - p)) + " of them wrongly, and " + Math.round(1000 * (1 - sensitivity) * p) +
          " with the finding are missed.";
        var used = data.chosen[site.value][finding.value];
        if (used !== null) words += " The evaluation used the threshold " + used.toPrecision(3) + ".";
      }
      Object.keys(numbers).forEach(function (name) { part(name).textContent = percent(numbers[name]); });
      part("words").textContent = words;
    }
    function start() {
      var used = data.chosen[site.value][finding.value];
      var best = 0;
      data.thresholds.forEach(function (value, k) {
        if (Math.abs(value - used) < Math.abs(data.thresholds[best] - used)) best = k;
      });
      range.value = used === null ? Math.floor(data.thresholds.length / 2) : best;
      show();
    }
    fill(site, data.sites, function () { return true; });
    fill(finding, data.findings, function (k) { return data.curves.some(function (c) { return c[k] !== null; }); });
    range.max = data.thresholds.length - 1;
    site.addEventListener("change", start);
    finding.addEventListener("change", start);
    range.addEventListener("input", show);
    document.getElementById("slider").addEventListener("submit", function (event) { event.preventDefault(); });
    document.getElementById("slider").hidden = false;
    finding.selectedIndex = data.findings.findIndex(function (_, k) { return data.curves[0][k] !== null; });
    start();
  }
  // What is folded away is printed too, and no table from the middle.
  window.addEventListener("beforeprint", function () {
    Array.prototype.forEach.call(document.querySelectorAll(".scroll, figure"), function (part) { part.scrollLeft = 0; });
    Array.prototype.forEach.call(document.querySelectorAll("details"), function (part) { part.open = true; });
  });
})();
