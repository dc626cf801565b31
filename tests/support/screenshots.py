"""Takes the pictures in the documentation: of the page, and with --report of a report of stage 4.

    python -m tests.support.screenshots [--report report.html]

The page speaks with the pretrained pair. It needs Debian's chromium and chromium-driver.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from PIL import Image
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from tests.conftest import ROOT, free_port

FOLDER = ROOT / "egs" / "tts" / "VALLE" / "images"
TEXT = "The ticket costs $5, and the train to the coast leaves at 9:30.\n\nIn winter the road is covered with snow."
WAIT_SECONDS = 300
MAX_BYTES = 150_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--report", type=Path)
    flags = parser.parse_args()
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "hide-scrollbars", "mute-audio"):
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    try:
        if flags.report is not None:
            driver.set_window_size(1100, 800)
            driver.get(flags.report.resolve().as_uri())
            save(driver, FOLDER / "report.png")
        take_page(driver)
    finally:
        driver.quit()


def take_page(driver: webdriver.Chrome) -> None:
    """Start stage 5 and take a picture of the page after it has spoken a text."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        # The voices and experiments of the person who takes the picture are not in it.
        flags = ["--log_dir", folder, "--port", str(port)]
        environment = {**os.environ, "VALLET_VOICES": folder}
        server = subprocess.Popen([sys.executable, "-m", "bins.webui", *flags], cwd=ROOT, env=environment)
        try:
            wait(lambda: urlopen(f"{address}/health").status == 200)
            driver.set_window_size(1280, 1000)
            driver.get(address)
            wait(lambda: find(driver, "#voice input").get_property("value") == "ada")
            find(driver, "#text textarea").send_keys(TEXT)
            find(driver, "#speak").click()
            wait(lambda: find(driver, "#line").text)
            wait(lambda: find(driver, "#words button")).click()
            # The player of the live speech and the messages go away by themselves.
            wait(lambda: not driver.find_elements(By.CSS_SELECTOR, "#live audio, [data-testid=toast-body]"))
            driver.execute_script("window.scrollTo(0, 0)")
            save(driver, FOLDER / "page.png")
        finally:
            server.terminate()
            server.wait(60)


def find(driver: webdriver.Chrome, selector: str) -> Any:
    return driver.find_element(By.CSS_SELECTOR, selector)


def wait(is_there: Callable[[], Any]) -> Any:
    """Wait until `is_there` returns something true and return that; elements and servers come late."""
    until = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            if found := is_there():
                return found
        except (WebDriverException, OSError):
            pass
        assert time.monotonic() < until, "timeout"
        time.sleep(0.2)


def save(driver: webdriver.Chrome, path: Path) -> None:
    """Save the window with as many colours as the size allows."""
    time.sleep(2)
    picture = Image.open(BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    path.parent.mkdir(exist_ok=True)
    for colours in (256, 128, 64, 32):
        picture.quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size <= MAX_BYTES:
            return
    raise AssertionError(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
