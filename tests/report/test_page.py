"""The page: what it shows, what it never shows, and that it needs nothing but itself."""

from __future__ import annotations

import csv
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import pytest
from made_up_run import SITES, make_run

from nc_medfl.errors import UserError
from nc_medfl.evaluation import read_metrics, write_metrics
from nc_medfl.labels import Vocabulary
from nc_medfl.report import write_comparison, write_report
from nc_medfl.report.reading import plain

VOID = {"meta", "link", "br", "img", "hr", "input"}


class _Page(HTMLParser):
    """Elements with their attributes and the text; complains of an element that isn't closed in its place."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def _html(folder: Path) -> str:
    return write_report(folder).read_text(encoding="utf-8")


def _change_run(folder: Path, **changes) -> None:
    run = json.loads((folder / "run.json").read_text()) | changes
    (folder / "run.json").write_text(json.dumps(run))


@pytest.fixture(scope="module")
def html(finished_run: Path) -> str:
    return _html(finished_run)


def test_the_page_lies_in_the_run_folder_and_is_whole(finished_run, html):
    assert write_report(finished_run) == finished_run / "report.html"
    page = _Page(html)
    sections = [a["id"] for tag, a in page.elements if tag == "section"]
    assert sections == [
        *("summary", "reading", "sites", "findings", "each-site", "curves", "reliability", "thresholds", "labels"),
        *("rounds", "updates", "collapse", "fairness", "settings", "limits"),
    ]
    links = [a["href"] for tag, a in page.elements if tag == "a" and "download" not in a]
    assert set(links) - {"#main"} == {f"#{name}" for name in sections}


def test_the_page_asks_for_nothing_outside_itself(html):
    for tag, attributes in _Page(html).elements:
        for name in ("src", "href", "xlink:href", "data", "action"):
            address = attributes.get(name)
            assert address is None or address.startswith(("#", "data:")), (tag, address)
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    addresses = set(re.findall(r"https?://[^\"' <]+", html))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_the_same_folder_gives_the_same_bytes(own_run):
    first = write_report(own_run).read_bytes()
    assert write_report(own_run).read_bytes() == first


def test_ids_are_unique_and_every_figure_is_described(html):
    elements = _Page(html).elements
    ids = [a["id"] for _, a in elements if "id" in a]
    assert len(ids) == len(set(ids))
    figures = [a for tag, a in elements if tag == "svg"]
    assert len(figures) == 14
    for figure in figures:
        assert figure["role"] == "img"
        assert figure["aria-labelledby"] in ids
    references = set(re.findall(r"url\(#([^)]+)\)", html)) | set(re.findall(r'xlink:href="#([^"]+)"', html))
    assert references <= set(ids)


def test_figures_follow_the_theme_and_hold_plain_text(html):
    assert not re.search(r"#0[ab]0[ab]0\d", html)
    assert "var(--accent)" in html
    assert "mathdefault" not in html
    assert "Date" not in html.split("<svg")[1]


def test_the_headline_is_the_pooled_macro_auc_with_its_interval_and_coverage(finished_run, html):
    rows = read_metrics(finished_run)
    row = rows[(rows.site == "pooled") & (rows.finding == "macro") & (rows.metric == "auc")].iloc[0]
    text = _Page(html).text
    assert f"{row['value']:.3f} 95% interval {row['low']:.3f} to {row['high']:.3f}, over 14 of 14 findings" in text
    assert "Chosen round 14 of 16" in text


def test_a_folder_with_metrics_alone_has_a_page(own_run):
    for path in own_run.iterdir():
        if path.name != "metrics.csv":
            path.unlink()
    text = _Page(_html(own_run)).text
    assert "Consolidation" in text
    assert "4 sites, 14 findings" in text


def test_numbers_over_few_images_of_a_site_are_withheld_on_the_page_of_all(own_run):
    rows = read_metrics(own_run)
    chosen = (rows.site == "county") & (rows.finding == "Mass")
    rows.loc[chosen, ["n_positive", "value", "low", "high"]] = [3, 0.98765, 0.9, 0.99]
    write_metrics(rows, own_run)
    html = _html(own_run)
    assert "0.98765" not in html
    assert "withheld: fewer than 5 positives or negatives" in html


def test_every_site_and_finding_has_its_numbers(finished_run, html):
    rows = read_metrics(finished_run)
    text = _Page(html).text
    for site in ("st_mary", "riverside", "uni_clinic", "county", "pooled"):
        for row in rows[
            (rows.group == "all") & (rows.site == site) & (rows.metric == "auc") & rows.low.notna()
        ].to_dict("records"):
            few = min(row["n_positive"], row["n_annotated"] - row["n_positive"]) < 5
            if row["finding"] != "micro" and not few:
                assert f"{row['value']:.3f} {row['low']:.3f}–{row['high']:.3f}" in text


def test_the_floor_stands_beside_f1(html):
    table = html.split('id="table-findings-pooled"')[1].split("</thead>")[0]
    headers = re.findall(r"<th scope=\"col\">([^<]+)</th>", table)
    assert headers.index("F1 floor") == headers.index("F1") + 1


def test_an_undefined_number_is_a_dash_with_its_reason(html):
    # Third finding at the second site: never positive. Sixth at the third: not read for.
    by_site = html.split('id="table-auc-by-site"')[1].split("</ol>")[0]
    consolidation = by_site.split(">Consolidation<")[1].split("</tr>")[0]
    assert re.search(r'<td class="n u" title="no positive">–<sup>\d</sup>', consolidation)
    emphysema = by_site.split(">Emphysema<")[1].split("</tr>")[0]
    assert 'title="no annotated image">–<sup>' in emphysema
    assert re.search(r"<li><span>\d</span> no positive</li>", by_site)
    assert "nan" not in _Page(html).text.lower().replace("holds a nan in", "")


def test_refused_and_missing_updates_are_listed(html):
    text = _Page(html).text
    assert "64 updates from 4 sites: 62 accepted, 1 missing, 1 refused." in text
    assert "16 riverside refused holds a NaN in backbone.conv1.weight" in text


@pytest.mark.parametrize("name", ["rounds.csv", "collapse.csv", "updates.csv", "label_statistics.csv"])
def test_an_absent_file_is_named_and_the_rest_is_shown(own_run, name):
    (own_run / name).unlink()
    text = _Page(_html(own_run)).text
    assert f"Not in the run folder, so not shown: {name}." in text
    assert f"{name} is absent" in text
    assert "Sites side by side" in text


def test_without_any_optional_file_the_page_still_stands(own_run):
    for name in ("rounds.csv", "collapse.csv", "updates.csv", "label_statistics.csv"):
        (own_run / name).unlink()
    _change_run(own_run, settings={}, versions={}, fingerprints={}, best_round=None, ended=None)
    assert "so not shown: rounds.csv, collapse.csv, updates.csv, label_statistics.csv." in _Page(_html(own_run)).text


@pytest.mark.parametrize("name", ["rounds.csv", "collapse.csv", "updates.csv", "label_statistics.csv"])
def test_a_table_with_headers_only_is_no_error(own_run, name):
    path = own_run / name
    path.write_text(path.read_text().splitlines()[0] + "\n")
    assert f"{name} is absent or empty" in _html(own_run)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("run.json", "{", "damaged"),
        ("run.json", '{"schema_version": 99}', "Upgrade"),
        ("metrics.csv", None, "nc-medfl evaluate"),
        ("rounds.csv", "round,site\n1,A\n", "no column 'split'"),
        ("updates.csv", "round,site,outcome,reason,n_samples\nx,A,accepted,,3\n", "not a table of numbers"),
    ],
)
def test_a_missing_or_damaged_file_is_one_line(own_run, name, content, words):
    if content is None:
        (own_run / name).unlink()
    else:
        (own_run / name).write_text(content)
    with pytest.raises(UserError, match=words) as error:
        write_report(own_run)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_no_path_and_no_key_reaches_the_page(own_run):
    key = "0f" * 16
    with (own_run / "updates.csv").open("a", newline="") as stream:
        csv.writer(stream).writerow([9, "county", "refused", f"cannot read /data/mary/scan.dcm of {key}", ""])
    html = _html(own_run)
    for secret in ("/srv/secret", "weights.pt", "/data/mary", "scan.dcm", key, str(own_run), "/tmp/"):
        assert secret not in html
    assert "cannot read (path) of (key)" in html
    assert "a file (not named here)" in html


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see /home/x/y.dcm, please", "see (path), please"),
        ("'~/store' is empty", "'(path)' is empty"),
        ("in runs/first/store/manifest.parquet", "in (path)"),
        (r"C:\scans\mary.dcm is bad", "(path) is bad"),
        (r"\\server\share\a.dcm is bad", "(path) is bad"),
        ("3.2 images/s, and/or 5", "3.2 images/s, and/or 5"),
        ("mean over 3 of 4 sites", "mean over 3 of 4 sites"),
        ("patient " + "ab" * 16, "patient (key)"),
    ],
)
def test_free_text_loses_paths_and_keys_only(text, expected):
    assert plain(text) == expected


HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "$x^{2}$ & 5%", "NA", "{{ 7*7 }}", "胸水")


def test_hostile_names_are_shown_as_text(tmp_path):
    folder = make_run(
        tmp_path / "run",
        sites=("</title><b>site</b>", "site'two"),
        vocabulary=Vocabulary("hostile", HOSTILE),
        rounds=3,
        resamples=20,
        name="<h1>run</h1>",
    )
    page = _Page(_html(folder))
    tags = [tag for tag, _ in page.elements]
    assert tags.count("script") == 2
    assert "img" not in tags
    assert "b" not in tags
    assert tags.count("h1") == 1
    for name in (*HOSTILE, "<h1>run</h1>", "</title><b>site</b>"):
        assert name in page.text


def test_a_run_that_failed_says_so_first(own_run):
    _change_run(own_run, outcome="failed")
    assert "This run did not finish." in _html(own_run)


def test_without_pooled_patients_the_headline_is_the_mean_over_sites(own_run):
    rows = read_metrics(own_run)
    write_metrics(rows[rows.site != "pooled"], own_run)
    text = _Page(_html(own_run)).text
    mean = rows[(rows.site == "all") & (rows.finding == "macro") & (rows.metric == "auc")].iloc[0]["value"]
    assert f"mean over the sites' own test patients {mean:.3f}" in text
    assert "Test macro AUC, all test patients pooled" not in text


def test_a_method_without_class_features_shows_coverage_only(own_run):
    lines = (own_run / "collapse.csv").read_text().splitlines()
    kept = [lines[0], *(line for line in lines[1:] if ",n_sites," in line or ",n_positive," in line)]
    (own_run / "collapse.csv").write_text("\n".join(kept) + "\n")
    text = _Page(_html(own_run)).text
    assert "no collapse is measured" in text
    assert "Sites with a positive" in text


def test_only_test_rows_are_shown(own_run):
    rows = read_metrics(own_run)
    before = _html(own_run)
    other = rows.assign(value=0.123456, low=0.1, high=0.2)
    write_metrics(pd.concat([rows, other.assign(split="val")]), own_run)
    assert _html(own_run) == before


def test_every_table_of_numbers_has_its_csv(html):
    page = _Page(html)
    tables = [a["id"].removeprefix("table-") for tag, a in page.elements if tag == "table" and "id" in a]
    files = {a["download"]: a["href"] for tag, a in page.elements if tag == "a" and "download" in a}
    assert set(files) == {f"{name}.csv" for name in tables}
    text = unquote(files["sites.csv"].split(",", 1)[1])
    rows = list(csv.reader(text.splitlines()))
    assert rows[0][:3] == ["Site", "Macro AUC (95%)", "Macro AUC (95%): interval"]
    assert [row[0] for row in rows[1:]] == [*SITES, "Mean over sites", "All patients pooled"]


@pytest.mark.parametrize("name", ["score_histograms", "reliability", "thresholds"])
def test_a_section_without_its_table_says_what_makes_it(own_run, name):
    (own_run / f"{name}.csv").unlink()
    html = _html(own_run)
    assert f"{name}.csv" in html
    assert "<code>nc-medfl evaluate</code>" in html


def test_the_page_of_a_site_names_no_other_and_shows_its_own_small_counts(own_run):
    html = write_report(own_run, site="county").read_text(encoding="utf-8")
    assert (own_run / "report_county.html").is_file()
    for other in ("st_mary", "riverside", "uni_clinic"):
        assert other not in html
    assert "Numbers over fewer than" not in html
    with pytest.raises(UserError, match="not a site of this run"):
        write_report(own_run, site="nobody")


def test_two_sites_see_nothing_in_common_since_it_would_be_the_other_ones(tmp_path):
    run = make_run(tmp_path / "run", sites=("one", "other"), rounds=2, resamples=0)
    text = _Page(write_report(run, site="one").read_text(encoding="utf-8")).text
    assert "other_" not in text
    assert "All patients pooled" not in text
    assert "Mean over sites" not in text


def test_two_runs_compared_differ_by_the_difference_of_their_numbers(own_run, tmp_path):
    second = Path(shutil.copytree(own_run, tmp_path / "second"))
    rows = read_metrics(second)
    row = (rows.site == "pooled") & (rows.finding == "macro") & (rows.metric == "auc")
    before = float(rows.loc[row, "value"].iloc[0])
    rows.loc[row, "value"] = 0.5
    write_metrics(rows, second)
    text = _Page(write_comparison(own_run, second).read_text(encoding="utf-8")).text
    assert f"a difference A minus B of {before - 0.5:.3f}." in text
    assert "There is no comparisons.csv" in text
    assert "nc-medfl evaluate run --sites SITES --against second" in text
    assert "Method, seed, rounds and settings are the same." in text


def test_the_page_of_two_runs_has_one_direction_the_verdict_first_and_what_was_done_differently(own_run, tmp_path):
    _compared(own_run, *SITES[:2], 3)
    other = Path(shutil.copytree(own_run, tmp_path / "run_b"))
    _change_run(other, rounds=77, settings={"training": {"lr": 0.5}})
    text = _Page(write_comparison(own_run, other).read_text(encoding="utf-8")).text
    assert text.index("On the same patients: ") < text.index("Test macro AUC by site")
    assert "A minus B" in text
    assert "B minus A" not in text
    assert "rounds" in text[text.index("What was done differently") :]
    assert "77" in text[text.index("What was done differently") :]
    assert "training.lr" in text
    for measure in ("Sensitivity", "Specificity", "PPV", "NPV", "Brier score", "Calibration error"):
        assert measure in text[text.index("Beyond the AUC") : text.index("What was done differently")]
    third = Path(shutil.copytree(own_run, tmp_path / "third"))
    text = _Page(write_comparison(own_run, third).read_text(encoding="utf-8")).text
    assert "ours is better" not in text  # that is of run_b
    assert "There is no comparisons.csv of these two" in text


def test_a_large_federation_stays_under_five_megabytes(tmp_path):
    sites = [f"hospital_{k:02d}" for k in range(20)]
    folder = make_run(tmp_path / "run", sites=sites, rounds=100, resamples=0)
    assert write_report(folder).stat().st_size < 5_000_000


def test_what_all_patients_give_from_counts_stands_with_its_bounds(own_run):
    rows = ["run,model,split,finding,metric,value,low,high,n_sites,n_positive,n_annotated,n_withheld,reason"]
    rows += [
        "r,fednca,test,Mass,auc,0.7654,0.7511,0.7899,4,90,900,3,",
        "r,fednca,test,Mass,brier,,,,0,0,0,0,no site told",
    ]
    (own_run / "federation.csv").write_text("\n".join(rows) + "\n")
    text = _Page(_html(own_run)).text
    assert "All sites' test patients together, from counts of scores" in text
    assert "0.765" in text
    assert "0.751–0.790" in text
    assert "They are no confidence interval" in " ".join(text.split())
    (own_run / "federation.csv").unlink()
    assert "All sites' test patients together" not in _Page(_html(own_run)).text


COMPARED = (
    "model_a,model_b,site,split,group,finding,metric,value_a,value_b,difference,low,high,p,p_holm,p_delong,"
    "n_positive,n_annotated,reason,sentence\n"
)


def _compared(folder: Path, first: str, second: str, n_positive: int) -> None:
    rows = []
    for site in ("pooled", first, second):
        few = n_positive if site == second else 90
        for finding in ("Mass", "macro", "micro"):
            said = f"auc of {finding} at {site}: ours is better."
            rows.append(
                f"ours,run_b,{site},test,all,{finding},auc,0.81,0.71,0.1,0.05,0.15,0.01,0.02,,{few},200,,{said}\n"
            )
    (folder / "comparisons.csv").write_text(COMPARED + "".join(rows))


def test_differences_stand_in_sentences_and_a_site_with_few_positives_is_left_out(own_run, tmp_path):
    first, second = SITES[:2]
    _compared(own_run, first, second, 3)
    text = _Page(_html(own_run)).text
    assert "Compared with other models" in text
    assert f"auc of macro at {first}: ours is better." in text
    assert f"at {second}: ours" not in text
    assert "0.050 to 0.150" in text
    other = Path(shutil.copytree(own_run, tmp_path / "run_b"))
    text = _Page(write_comparison(own_run, other).read_text(encoding="utf-8")).text
    assert f"auc of macro at {first}: ours is better." in text
    assert f"at {second}: ours" not in text
    mine = _Page(write_report(own_run, site=second).read_text(encoding="utf-8")).text
    assert f"auc of macro at {second}: ours is better." in mine
    assert f"at {first}: ours" not in mine


def test_the_page_of_a_site_begins_with_its_own_number(own_run):
    site = SITES[1]
    rows = read_metrics(own_run)
    row = rows[
        (rows["site"] == site) & (rows["finding"] == "macro") & (rows["metric"] == "auc") & (rows["group"] == "all")
    ]
    html = write_report(own_run, site=site).read_text(encoding="utf-8")
    assert f'id="headline-value">{row["value"].iloc[0]:.3f}<' in html
    text = _Page(html).text
    assert f"Test macro AUC, {site}" in text
    assert "1 site," not in text


def test_findings_off_their_vertex_are_named(own_run):
    path = own_run / "collapse.csv"
    last = int(pd.read_csv(path)["round"].max())
    _change_run(own_run, best_round=last)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(f"{last},Mass,nc3,0.1,does not align with its vertex (cosine below 0.5)\n{last},Hernia,nc3,0.9,\n")
    text = _Page(_html(own_run)).text
    assert "Not aligned with their vertex (cosine below 0.5): Mass" in text
    assert "NC3 (1: on its vertex)" in text


def test_a_rule_but_the_default_and_bca_are_named(own_run):
    run = json.loads((own_run / "run.json").read_text())
    settings = run.get("settings") or {}
    settings["evaluation"] = {"threshold": "fixed", "interval": "bca"}
    _change_run(own_run, settings=settings)
    text = _Page(_html(own_run)).text
    assert "fixed beforehand" in text
    assert "bias-corrected and accelerated (BCa)" in text
