"""The report's page in a real browser: at a phone's and a desktop's width nothing overflows, errs or is asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import HOW, Browser, find_chromium
from report_runs import config_of, row_of, write_run

from dynconv import cli
from dynconv.recipes import RECIPES

PHONE, DESKTOP = (390, 844), (1280, 800)
# What sticks out to the right of the page; what lies in a box that scrolls is no part of its width.
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
OUTSIDE = """
(() => {
  const wide = document.documentElement.clientWidth;
  const all = [...document.querySelectorAll('body *')];
  const out = all.filter(each => !each.closest('.box *') && each.getBoundingClientRect().right > wide + 1);
  return JSON.stringify(out.map(each => each.tagName + ' ' + each.textContent.slice(0, 40)));
})()
"""
OPEN_ALL = "document.querySelectorAll('details').forEach(each => each.open = true)"
UNREAD = "[...document.images].filter(each => !(each.complete && each.naturalWidth > 0)).length"


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a table with twelve tasks, and of a run with a very long name."""
    runs = tmp_path_factory.mktemp("wide")
    recipe = RECIPES["gsda-office-home"]
    row = next(row for row in recipe.rows if row.label == "GSDA")
    configs = {
        f"task{place}": recipe.config(task, row, 0, out=runs, data_root=None, device="cpu")
        for place, task in enumerate(recipe.tasks)
    }
    configs["a_name_without_any_break_" * 5] = config_of("mcd", protocol="mnist-usps")
    for name, config in configs.items():
        folder = write_run(runs / name, config, [row_of(config, 10, 0.9, 0.5)])
        # Nothing to draw: the curves of thirteen runs would take as long as all the rest.
        folder.results.unlink()
    out = tmp_path_factory.mktemp("page")
    assert cli.main(["report", str(runs), "--out", str(out), "--device", "cpu"]) == 0
    return out / "report.html"


@pytest.fixture(scope="module", params=["of trained runs", "wide"])
def page(request: pytest.FixtureRequest, reported: Path, wide: Path) -> Path:
    """Each of two pages."""
    return reported / "report.html" if request.param == "of trained runs" else wide


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_chromium()
    if program is None:
        pytest.skip(f"NO CHROMIUM: the report's page was not looked at in a browser ({HOW}; `make test` tries to)")
    with Browser(program, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_fits_asks_for_nothing_and_has_no_error(
    browser: Browser, page: Path, size: tuple[int, int], dark: bool
) -> None:
    browser.open(page.as_uri(), width=size[0], height=size[1], dark=dark)
    browser.evaluate(OPEN_ALL)
    assert browser.evaluate("innerWidth") == size[0]
    assert browser.evaluate(OVERFLOW) == 0
    assert json.loads(browser.evaluate(OUTSIDE)) == []
    assert browser.evaluate("document.images.length") > 0 and browser.evaluate(UNREAD) == 0
    asked = [url for url in browser.requests() if not url.startswith("data:")]
    assert asked == [page.as_uri()], "only the page itself"
    assert browser.complaints() == []
    luminance = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).reduce((sum, x) => sum + Number(x), 0)"
    assert (browser.evaluate(luminance) < 200) is dark


def test_a_wide_table_scrolls_in_its_box(browser: Browser, wide: Path) -> None:
    browser.open(wide.as_uri(), width=PHONE[0], height=PHONE[1])
    scrolling = "[...document.querySelectorAll('.box')].filter(box => box.scrollWidth > box.clientWidth).length"
    assert browser.evaluate(scrolling) > 0
    assert browser.evaluate("document.querySelectorAll('.box:not([tabindex])').length") == 0


def test_the_contents_lead_somewhere(browser: Browser, page: Path) -> None:
    browser.open(page.as_uri(), width=DESKTOP[0], height=DESKTOP[1])
    lost = "[...document.querySelectorAll('nav a')].filter(a => !document.querySelector(a.hash)).length"
    assert browser.evaluate("document.querySelectorAll('nav a').length") >= 5
    assert browser.evaluate(lost) == 0


def test_what_the_tests_would_see_of_a_bad_page(browser: Browser, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    viewport = "<meta name='viewport' content='width=device-width'>"
    image, wide = "<img src='http://127.0.0.1:9/x.png'>", "<p style='width:900px'>wide</p>"
    bad.write_text(f"{viewport}{image}{wide}<script>undefinedName()</script>")
    browser.open(bad.as_uri(), width=PHONE[0], height=PHONE[1])
    assert browser.evaluate(OVERFLOW) > 0 or len(json.loads(browser.evaluate(OUTSIDE))) > 0
    assert any("127.0.0.1" in url for url in browser.requests())
    assert any("undefinedName" in text for text in browser.complaints())
