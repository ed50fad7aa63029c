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
  // What is folded away is printed too.
  window.addEventListener("beforeprint", function () {
    Array.prototype.forEach.call(document.querySelectorAll("details"), function (part) { part.open = true; });
  });
})();
