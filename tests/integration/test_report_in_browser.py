"""The report in Debian's Chromium, opened from disk, as a reader would."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_up_run import make_run

from nc_medfl.labels import Vocabulary
from nc_medfl.report import write_comparison, write_report

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(make_run(tmp_path_factory.mktemp("run")))


@pytest.fixture
def ask(browser: Any, page: Path) -> Callable[[str], Any]:
    """Open the page afresh and evaluate JavaScript on it."""
    browser.get_log("browser")
    browser.get(page.as_uri())
    return lambda script: browser.execute_script(f"return {script}")


def test_it_loads_without_a_complaint_and_without_a_request(browser, ask):
    assert ask("document.readyState") == "complete"
    assert browser.get_log("browser") == []
    assert ask("performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith('data:'))") == []
    outside = "[...document.querySelectorAll('[src],[href]')].map(e => e.getAttribute('src') || e.getAttribute('href'))"
    assert [a for a in ask(outside) if a and not a.startswith(("#", "data:"))] == []


def test_sections_and_key_numbers_are_seen(ask):
    headings = ask("[...document.querySelectorAll('h2')].map(e => e.innerText)")
    assert headings[:4] == ["Summary", "How to read it", "Sites side by side", "Findings"]
    assert 0.5 < float(ask("document.getElementById('headline-value').innerText")) < 1
    assert ask("document.querySelectorAll('#table-findings-pooled tbody tr').length") == 14
    assert ask("document.querySelectorAll('#table-sites tbody tr').length") == 6


def test_every_figure_has_a_size_and_a_description(ask):
    boxes = ask(
        "[...document.querySelectorAll('figure svg')].map(e => {const b = e.getBoundingClientRect();"
        "return [b.width, b.height, e.querySelector('title').textContent.length, e.querySelectorAll('path').length]})"
    )
    assert len(boxes) == 14
    for width, height, described, paths in boxes:
        if not width:  # folded away
            continue
        assert width > 500
        assert height > 100
        assert described > 20
        assert paths > 5


def _column(ask: Callable[[str], Any], table: str, column: int) -> list[str]:
    cells: list[str] = ask(f"[...document.querySelectorAll('#{table} tbody tr')].map(r => r.cells[{column}].innerText)")
    return cells


def test_a_click_on_a_header_sorts_and_another_turns_it(ask):
    click = "document.querySelectorAll('#table-findings-pooled thead button')[{}].click()"
    ask(click.format(1))
    falling = [int(t.replace(",", "")) for t in _column(ask, "table-findings-pooled", 1) if not t.startswith("–")]
    assert falling == sorted(falling, reverse=True)
    sort = "document.querySelectorAll('#table-findings-pooled thead th')[1].getAttribute('aria-sort')"
    assert ask(sort) == "descending"
    ask(click.format(1))
    assert ask(sort) == "ascending"
    rising = [int(t.replace(",", "")) for t in _column(ask, "table-findings-pooled", 1) if not t.startswith("–")]
    assert rising == sorted(rising)
    ask(click.format(0))
    names = _column(ask, "table-findings-pooled", 0)
    assert names == sorted(names)


def test_undefined_numbers_sort_last_both_ways(ask):
    click = "document.querySelectorAll('#table-auc-by-site thead button')[2].click()"
    for _ in range(2):
        ask(click)
        assert _column(ask, "table-auc-by-site", 2)[-1].startswith("–")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_ground_are_apart_in_both_themes(browser, ask, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    script = "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    ink, ground = ([int(v) for v in text[4:-1].split(",")] for text in ask(script))
    assert abs(sum(ink) - sum(ground)) > 500
    drawn = ask("getComputedStyle(document.querySelector('figure svg text')).fill")
    assert abs(sum(int(v) for v in drawn[4:-1].split(",")) - sum(ground)) > 250


def test_a_narrow_screen_scrolls_tables_and_not_the_page(browser, ask):
    metrics = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        assert ask("document.documentElement.scrollWidth") <= 390
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_hostile_names_run_nothing(browser, tmp_path):
    names = ("<script>document.title='broken'</script>", "<img src=x onerror=\"document.title='broken'\">", "Mass")
    folder = make_run(
        tmp_path / "run", sites=("<b>one</b>", "two"), vocabulary=Vocabulary("hostile", names), rounds=2, resamples=10
    )
    browser.get_log("browser")
    browser.get(write_report(folder).as_uri())
    assert browser.title == "demo_fednca: report of a federation"
    assert browser.get_log("browser") == []
    seen = browser.execute_script("return document.body.innerText")
    assert names[0] in seen
    assert "<b>one</b>" in seen


def test_the_slider_changes_the_numbers(browser, ask):
    numbers = "['threshold', 'sensitivity', 'specificity'].map(n => document.getElementById('slider-' + n).textContent)"
    move = (
        "(() => {{const r = document.getElementById('slider-range'); r.value = {};"
        "r.dispatchEvent(new Event('input'))}})()"
    )
    ask(move.format(5))
    low = ask(numbers)
    ask(move.format(95))
    high = ask(numbers)
    assert float(low[0]) < float(high[0])
    assert float(low[1].rstrip("%")) > 90 > 20 > float(high[1].rstrip("%"))
    assert float(low[2].rstrip("%")) < float(high[2].rstrip("%"))


def test_the_slider_and_a_table_are_reached_and_worked_by_keyboard(browser, ask):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    ask("document.getElementById('slider-finding').focus()")
    browser.switch_to.active_element.send_keys(Keys.TAB)
    assert browser.switch_to.active_element.get_attribute("id") == "slider-range"
    before = ask("document.getElementById('slider-threshold').textContent")
    browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert ask("document.getElementById('slider-threshold').textContent") != before
    button = browser.find_element(By.CSS_SELECTOR, "#table-sites thead button")
    button.send_keys(Keys.ENTER)
    assert ask("document.querySelector('#table-sites th').getAttribute('aria-sort')") == "ascending"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(browser, tmp_path, scheme):
    from importlib.resources import files

    names = Vocabulary("short", ("Mass", "Edema", "Hernia"))
    folder = make_run(tmp_path / "run", sites=("one", "two"), vocabulary=names, rounds=3, resamples=10)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.set_script_timeout(120)
    for page in (write_report(folder), write_report(folder, site="one"), write_comparison(folder, folder)):
        browser.get(page.as_uri())
        browser.execute_script("document.querySelectorAll('details').forEach(e => { e.open = true; })")
        browser.execute_script(files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8"))
        found = browser.execute_async_script(
            "const done = arguments[arguments.length - 1];"
            "axe.run().then(r => done(r.violations.map(v => [v.impact, v.id, v.nodes.slice(0, 3).map(n => n.html)])))"
        )
        assert [fault for fault in found if fault[0] in ("serious", "critical")] == []


def test_folded_tables_lie_under_nothing_that_is_seen(browser, ask):
    """A checker of contrast takes what is folded away, and lies somewhere all the same, for text on what is there."""
    from importlib.resources import files

    assert ask("document.readyState") == "complete"
    browser.execute_script(files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8"))
    browser.set_script_timeout(120)
    found = browser.execute_async_script(
        "const done = arguments[arguments.length - 1];"
        "axe.run({runOnly: ['color-contrast']}).then(r => done(r.violations.map(v => v.nodes.map(n => n.html))))"
    )
    assert found == []
    boxes = "[...document.querySelectorAll('details:not([open]) table')].map(e => e.getBoundingClientRect().height)"
    assert ask(boxes)
    assert not any(ask(boxes))


def test_on_paper_no_table_is_wider_than_the_page_or_begins_in_the_middle(browser, ask):
    ask("document.querySelectorAll('details').forEach(e => { e.open = true; })")
    # A reader who has looked at the right of a wide table, on a narrow screen.
    metrics = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        ask("document.querySelectorAll('.scroll').forEach(e => { e.scrollLeft = 400; })")
        scrolled = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollLeft > 0).length"
        assert ask(scrolled)
        browser.execute_cdp_cmd("Page.printToPDF", {})
        assert not ask(scrolled)
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    metrics = {"width": 720, "height": 1000, "deviceScaleFactor": 1, "mobile": False}  # A4 between its margins
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        wide = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1)"
        assert ask(f"{wide}.map(e => e.innerText)") == []
        assert ask("document.documentElement.scrollWidth") <= 720
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
