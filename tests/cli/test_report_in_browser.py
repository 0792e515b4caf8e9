"""The pages of lsa-report, drawn by a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from tests.helpers.browser import DESKTOP, PHONE, ask, chromium, requested, show
from tests.helpers.hydra_run import read_json, train_tiny
from tests.helpers.run_copies import copy_run

from lsa_lightning.pages.report import write_report

pytestmark = pytest.mark.slow

WORDY = {"wordy_flag_" * 12: {"raised": True, "seen": "unbroken" * 60}}


@pytest.fixture(scope="module")
def window() -> Iterator[Chrome]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def run(window: Chrome, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train") / "run"
    train_tiny(folder, "trainer.max_epochs=3", figures=True)
    return folder


@pytest.fixture(scope="module", params=["run", "comparison", "long_names"])
def page(request: pytest.FixtureRequest, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run; of three runs; and of one whose words are wider than a phone."""
    folder = tmp_path_factory.mktemp("page")
    if request.param == "run":
        runs = [run]
    elif request.param == "comparison":
        runs = [run, *(copy_run(run, folder / str(i), seed=i, name=f"method_{i % 2}") for i in (1, 2))]
    else:
        mvl = read_json(run / "summary.json")["mvl_history"]
        history = [{**entry, "mvl": ["layer." * 60]} for entry in mvl]
        runs = [copy_run(run, folder / ("long" * 40), name="name" * 50, masking=WORDY, mvl_history=history)]
    return write_report(runs, folder / "report.html")[0]


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_every_figure_is_drawn_without_an_error_or_a_request(window: Chrome, page: Path, size: tuple[int, int]) -> None:
    for log in ("performance", "browser"):
        window.get_log(log)  # empties it
    show(window, page, size)
    drawn = ask(window, "[...document.images].map(i => [i.complete, i.naturalWidth, i.clientWidth, i.clientHeight])")
    assert len(drawn) >= 3
    assert all(complete and min(sizes) > 100 for complete, *sizes in drawn), drawn
    assert window.get_log("browser") == []
    assert requested(window) == [page.as_uri()]
    assert ask(window, "performance.getEntriesByType('resource').filter(r => !r.name.startsWith('data:')).length") == 0


@pytest.mark.parametrize("open_details", [False, True])
def test_a_phone_scrolls_nothing_sideways(window: Chrome, page: Path, open_details: bool) -> None:
    show(window, page, PHONE)
    if open_details:
        ask(window, "document.querySelectorAll('details').forEach(d => d.open = true)")
    for box in ("[document.scrollingElement]", "[...document.querySelectorAll('.scroll, td, th')]"):
        wide = ask(window, f"{box}.filter(b => b.scrollWidth > b.clientWidth + 1).map(b => b.outerHTML.slice(0, 200))")
        assert wide == []
    assert ask(window, "document.scrollingElement.clientWidth") == PHONE[0]


def test_a_phone_shows_the_head_of_its_column_before_each_number(window: Chrome, run: Path, tmp_path: Path) -> None:
    show(window, write_report([run], tmp_path / "report.html").file, PHONE)
    cells = "[...document.querySelectorAll('#accuracy tbody tr:first-child td')]"
    heads = ask(window, f"{cells}.map(c => getComputedStyle(c, '::before').content)")
    assert heads == ['"clean"', '"eps 0.1"', '"eps 0.3, training"', '"R&G of 300"']
    tops = ask(window, f"{cells}.map(c => c.getBoundingClientRect().top)")
    assert tops == sorted(set(tops))
    marked = "[...document.querySelectorAll('#accuracy tbody td.training')]"
    colors = set(ask(window, f"{marked}.map(c => getComputedStyle(c).backgroundColor)"))
    assert colors == {"rgb(253, 236, 203)"}


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_many_epochs_are_opened_by_a_line_that_says_how_many(
    window: Chrome, run: Path, tmp_path: Path, size: tuple[int, int]
) -> None:
    history = read_json(run / "summary.json")["mvl_history"]
    longer = copy_run(run, tmp_path / "run", mvl_history=[{**history[0], "epoch": number} for number in range(50)])
    show(window, write_report([longer]).file, size)
    table = "document.querySelector('#mvl-history')"
    line = f"{table}.closest('details').querySelector('summary')"
    assert ask(window, f"{line}.textContent") == "50 epochs: show all"
    assert not ask(window, f"{table}.checkVisibility({{contentVisibilityAuto: true}})")
    ask(window, f"{line}.click()")
    last = f"{table}.querySelector('tbody tr:last-child').getBoundingClientRect().bottom"
    assert ask(window, f"{last} <= {table}.closest('.scroll').getBoundingClientRect().bottom")
    assert ask(window, f"{table}.checkVisibility({{contentVisibilityAuto: true}})")


def test_a_table_that_goes_on_below_its_box_has_a_shadow_there(window: Chrome, run: Path, tmp_path: Path) -> None:
    runs = [copy_run(run, tmp_path / str(i), seed=i) for i in range(30)]
    show(window, write_report(runs, tmp_path / "report.html").file)
    box = "document.querySelector('#runs').closest('.scroll')"
    assert ask(window, f"{box}.scrollHeight > {box}.clientHeight")
    assert ask(window, f"getComputedStyle({box}).backgroundAttachment") == "local, local, scroll, scroll"


def test_the_table_of_results_needs_no_scrolling_on_a_desktop(window: Chrome, run: Path, tmp_path: Path) -> None:
    runs = [copy_run(run, tmp_path / str(i), seed=i % 2, name=f"method_{i // 2}") for i in range(12)]
    show(window, write_report(runs, tmp_path / "report.html").file)
    box = "document.querySelector('#results').closest('.scroll')"
    for side in ("Width", "Height"):
        inside, outside = ask(window, f"[{box}.scroll{side}, {box}.client{side}]")
        assert inside <= outside


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_either_scheme(window: Chrome, page: Path, scheme: str) -> None:
    show(window, page, scheme=scheme)
    background = luminance(ask(window, "getComputedStyle(document.body).backgroundColor"))
    assert (background > 0.5) == (scheme == "light")
    for element in ("body", ".faint, figcaption", "th", "footer"):
        color = luminance(ask(window, f"getComputedStyle(document.querySelector('{element}')).color"))
        contrast = (max(color, background) + 0.05) / (min(color, background) + 0.05)
        assert contrast > 4.5, element


def luminance(color: str) -> float:
    """Relative luminance of ``rgb(r, g, b)`` as WCAG 2 defines it."""
    channels = [int(value) / 255 for value in color.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
