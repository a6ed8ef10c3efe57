"""A real browser that opens reports."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait


class NoBrowser(Exception):
    """Chromium or its driver is not installed."""


@contextmanager
def chromium(profile: Path, **preferences: Any) -> Iterator[webdriver.Chrome]:
    """A headless browser. profile: an empty folder. Raises NoBrowser."""
    names = ("chromium", "chromium-browser", "google-chrome")
    browser, driver = next(filter(None, map(shutil.which, names)), None), shutil.which("chromedriver")
    if not (browser and driver):
        raise NoBrowser("chromium or chromedriver is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--no-first-run", f"--user-data-dir={profile}",
    ):  # fmt: skip
        options.add_argument(flag)
    options.add_experimental_option("prefs", preferences)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield opened
    finally:
        opened.quit()


def show(browser: webdriver.Chrome, path: Path, ready: bool = True) -> None:
    """Open a file and drop the logs of the previous page. ready: wait for the script of a report."""
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(path.as_uri())
    if ready:
        wait_until_ready(browser)


def text(browser: webdriver.Chrome, selector: str = "body") -> str:
    """The text of an element, also where it is folded away."""
    return browser.execute_script("return document.querySelector(arguments[0]).textContent", selector)


def wait_until_ready(browser: webdriver.Chrome) -> None:
    """Wait until the script has unpacked the data of the page."""
    WebDriverWait(browser, 30).until(lambda b: b.execute_script("return document.documentElement.dataset.ready"))


@contextmanager
def screen(browser: webdriver.Chrome, width: int) -> Iterator[None]:
    """Show the page as on a phone or tablet whose screen is so many pixels wide."""
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        yield
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def assert_harmless(browser: webdriver.Chrome) -> None:
    """Assert that no text became an element, an attribute or a script of the page."""
    assert browser.execute_script("return window.hacked") is None
    # The script and its data.
    assert browser.execute_script("return Array.from(document.scripts, (e) => e.type)") == ["text/plain", ""]
    injected = "body svg:not([role=img]), [src], [onload], [onerror], [style]"
    assert browser.execute_script("return document.querySelectorAll(arguments[0]).length", injected) == 0
    # The log would name a script that the page's policy blocked.
    assert browser.get_log("browser") == []
