"""The review page and the quality page in Debian's Chromium, opened from disk, as a person at a site would."""

from __future__ import annotations

from typing import Any

import pytest

from nc_medfl.data.quality import write_quality
from nc_medfl.data.review import write_review
from nc_medfl.data.store import Store
from tests_support import tiny_store

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return tiny_store(tmp_path_factory.mktemp("s") / "store", images=40, size=32)


def ask(browser: Any, script: str) -> Any:
    return browser.execute_script(f"return {script}")


def test_ticked_images_make_the_list_by_mouse_and_by_keyboard(browser, store):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    browser.get_log("browser")
    browser.get(write_review(store, 6).as_uri())
    assert browser.get_log("browser") == []
    boxes = browser.find_elements(By.CSS_SELECTOR, "input[type=checkbox]")
    names = [box.get_attribute("value") for box in boxes]
    assert len(names) == 6
    assert ask(browser, "[...document.images].every(image => image.complete && image.naturalWidth === 32)")
    boxes[2].click()
    page = browser.find_element(By.TAG_NAME, "body")
    # From the third, one on, tick; one on, leave; one on, tick.
    for key in (Keys.ARROW_RIGHT, Keys.SPACE, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.SPACE):
        browser.switch_to.active_element.send_keys(key)
    listed = ask(browser, "document.getElementById('ids').value")
    assert listed == "".join(f"{names[k]}\n" for k in (2, 3, 5))
    assert ask(browser, "document.getElementById('count').textContent") == "3"
    page.send_keys("b")
    assert ask(browser, "document.getElementById('grid').dataset.look") == "bright"
    browser.find_element(By.ID, "copy").click()
    assert ask(browser, "document.getSelection().toString() || document.activeElement.value") == listed
    browser.execute_script("window.scrollTo(0, 0)")
    boxes[2].click()
    assert ask(browser, "document.getElementById('count').textContent") == "2"


def test_the_quality_page_is_whole_without_a_request_and_fits_a_telephone(browser, store):
    page, _ = write_quality(store)
    browser.get_log("browser")
    browser.get(page.as_uri())
    assert browser.get_log("browser") == []
    assert ask(browser, "performance.getEntriesByType('resource').length") == 0
    assert ask(browser, "document.querySelectorAll('h2').length") == 6
    assert ask(browser, "[...document.querySelectorAll('svg')].every(s => s.getBoundingClientRect().height > 50)")
    browser.set_window_size(420, 800)
    try:
        assert ask(browser, "document.documentElement.scrollWidth <= window.innerWidth + 1")
    finally:
        browser.set_window_size(1200, 900)
