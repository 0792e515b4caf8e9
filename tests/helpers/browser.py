"""A headless browser that draws pages and tells what went wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

DESKTOP, PHONE = (1280, 900), (390, 844)


@contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    """Chromium; the test is skipped on machines that have none."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip(f"needs a browser, found {browser} and {driver}: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    window = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield window
    finally:
        window.quit()


def show(window: webdriver.Chrome, page: Path, size: tuple[int, int] = DESKTOP, scheme: str = "light") -> None:
    """Load ``page`` at a size in CSS pixels, under 500 as a phone, in a ``"light"`` or ``"dark"`` scheme."""
    width, height = size
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    window.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    window.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    window.get(page.as_uri())


def ask(window: webdriver.Chrome, expression: str) -> Any:
    """The value of a JavaScript expression in the page."""
    return window.execute_script(f"return {expression}")


def requested(window: webdriver.Chrome) -> list[str]:
    """Addresses that the browser asked for since it was last asked, those inside the page left out."""
    events: list[dict[str, Any]] = [json.loads(entry["message"])["message"] for entry in window.get_log("performance")]
    urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    return [url for url in urls if not url.startswith(("data:", "blob:"))]
