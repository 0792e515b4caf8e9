"""The page of lsa-demo, used by a real browser."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from matplotlib.image import imsave
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from tests.helpers.browser import ask, chromium, requested
from torch import nn

from lsa_lightning.attacks import ThreatModel
from lsa_lightning.demo import Canvas, Plane, Subject
from lsa_lightning.demo.page import build_page, launch
from lsa_lightning.demo.partner import ATTACKS
from lsa_lightning.runs.checkpoint import load_run

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

EXAMPLE = Path(__file__).parents[2] / "examples" / "moon" / "checkpoints" / "best.ckpt"


@pytest.fixture(scope="module")
def window() -> Iterator[Chrome]:
    pytest.importorskip("gradio")
    with chromium() as opened:
        opened.set_window_size(1280, 1000)
        yield opened


@pytest.fixture(autouse=True)
def looked_up() -> Iterator[None]:
    """The server looks up no host but its own machine."""
    with patch.object(socket, "getaddrinfo", wraps=socket.getaddrinfo) as getaddrinfo:
        yield
    assert {str(call.args[0]) for call in getaddrinfo.call_args_list} <= {"127.0.0.1", "localhost"}


@contextmanager
def opened(window: Chrome, subject: Subject) -> Iterator[None]:
    """The page about ``subject``; afterwards, what the browser said of it is looked at."""
    for log in ("performance", "browser"):
        window.get_log(log)  # empties it
    page = build_page(subject)
    address = launch(page)
    try:
        window.get(address)
        wait_for(window, lambda: said(window, "clean") != "")
        yield
        assert [entry for entry in window.get_log("browser") if entry["level"] == "SEVERE"] == []
        assert [url for url in requested(window) if not url.startswith(address)] == []
    finally:
        window.get("about:blank")
        page.close(verbose=False)


def wait_for(window: Chrome, condition: Any) -> None:
    WebDriverWait(window, 20, poll_frequency=0.1).until(lambda _: condition())


def said(window: Chrome, which: str) -> str:
    """The class that the page says a prediction is."""
    return str(
        ask(window, f"(document.querySelector('#{which} [data-testid=label-output-value]') || {{}}).innerText || ''")
    ).strip()


def picture(window: Chrome, which: str) -> str:
    """What a figure of the page is read from."""
    return str(ask(window, f"(document.querySelector('#{which} img') || {{}}).src || ''"))


def click(window: Chrome, across: float, down: float) -> None:
    """A place in the plane, in parts of its width and height."""
    shown = window.find_element(By.CSS_SELECTOR, "#plane img")
    x, y = (across - 0.5) * shown.size["width"], (down - 0.5) * shown.size["height"]
    ActionChains(window).move_to_element_with_offset(shown, x, y).click().perform()


@pytest.fixture(scope="module")
def moon() -> Subject:
    return Subject.of(load_run(str(EXAMPLE)))


@pytest.mark.parametrize("place", [(0.1, 0.1), (0.9, 0.9)], ids=["class 0", "class 1"])
def test_a_plane_is_clicked(window: Chrome, moon: Subject, place: tuple[float, float]) -> None:
    assert isinstance(moon.inputs, Plane)
    x = moon.inputs.at(*(each * moon.inputs.pixels for each in place))
    with opened(window, moon):
        wait_for(window, lambda: picture(window, "layers") != "")
        before = [picture(window, which) for which in ("plane", "layers")]
        click(window, *place)
        wait_for(window, lambda: picture(window, "plane") != before[0] and picture(window, "layers") != before[1])
        assert said(window, "clean") == f"class {int(moon.model(x).item() > 0)}"


def test_without_a_radius_nothing_moves(window: Chrome, moon: Subject) -> None:
    with opened(window, moon):
        wait_for(window, lambda: picture(window, "layers") != "")
        before = picture(window, "layers")
        number = window.find_element(By.CSS_SELECTOR, "#eps input[type=number]")
        number.send_keys(Keys.CONTROL, "a")
        number.send_keys("0", Keys.TAB)
        wait_for(window, lambda: picture(window, "layers") != before)
        assert said(window, "clean") == said(window, "adversarial")


def test_another_attack_is_chosen(window: Chrome, moon: Subject) -> None:
    with opened(window, moon):
        wait_for(window, lambda: picture(window, "layers") != "")
        before = picture(window, "layers")
        window.find_element(By.CSS_SELECTOR, "#attack input").click()
        wait_for(window, lambda: len(window.find_elements(By.CSS_SELECTOR, "[role=option]")) == len(ATTACKS))
        window.find_elements(By.CSS_SELECTOR, "[role=option]")[-1].click()
        wait_for(window, lambda: picture(window, "layers") != before)


def brightness() -> nn.Module:
    """Says class 1 where one pixel in fifty is white."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 2), nn.ReLU(), nn.Linear(2, 2))
    values = (1 / 784, 0.0, torch.tensor([[0.0], [50.0]]), torch.tensor([1.0, 0.0]))
    for parameter, value in zip(net.parameters(), values, strict=True):
        parameter.data = torch.as_tensor(value).expand_as(parameter).clone()
    return net


@pytest.mark.parametrize("how", ["drawn", "uploaded"])
def test_a_picture_is_drawn_or_uploaded(window: Chrome, tmp_path: Path, how: str) -> None:
    subject = Subject("digits", brightness(), Canvas((1, 28, 28)), ThreatModel("Linf", 0.01), 0.5)
    with opened(window, subject):
        assert said(window, "clean") == "class 0"
        if how == "drawn":
            wait_for(window, lambda: window.find_elements(By.CSS_SELECTOR, "#canvas canvas") != [])
            canvas = window.find_element(By.CSS_SELECTOR, "#canvas canvas")
            strokes = ActionChains(window).move_to_element(canvas).click_and_hold()
            for x, y in ((60, 0), (0, 60), (-120, 0), (0, -120), (120, 30)):
                strokes = strokes.move_by_offset(x, y)
            strokes.release().perform()
        else:
            imsave(tmp_path / "white.png", np.ones((40, 40, 3)))
            window.find_element(By.CSS_SELECTOR, "#canvas input[type=file]").send_keys(str(tmp_path / "white.png"))
        shown = picture(window, "partner")
        wait_for(window, lambda: attack(window) == "class 1")  # it may take a moment until the server has the picture
        assert picture(window, "partner") != shown


def attack(window: Chrome) -> str:
    """Press the button, and wait for what the page then says of the picture."""
    window.find_element(By.ID, "go").click()
    wait_for(window, lambda: ask(window, "document.querySelectorAll('.generating, .pending').length") == 0)
    return said(window, "clean")
