"""Takes the pictures of the README, with Debian's chromium.

    python -m tests.support.screenshots --infer_expt_dir DIR [--report report.html]

The pictures are of the page with speech of a trained pair, and of a report of stage 4.
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
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from tests.conftest import ROOT, free_port

FOLDER = ROOT / "egs" / "tts" / "VALLE" / "images"
PROMPT = ROOT / "egs" / "tts" / "VALLE" / "prompt_examples" / "101_3101_000002_000000.wav"
TEXT = "There is a long road from the river to the old house.\n\nIn winter it was covered with snow."
WAIT_SECONDS = 1200
MAX_BYTES = 150_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--infer_expt_dir", type=Path, required=True)
    parser.add_argument("--report", type=Path)
    flags = parser.parse_args()
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "hide-scrollbars", "mute-audio"):
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    try:
        driver.set_page_load_timeout(WAIT_SECONDS)
        if flags.report is not None:
            driver.set_window_size(1100, 800)
            driver.get(flags.report.resolve().as_uri())
            save(driver, FOLDER / "report.png")
        take_page(driver, flags.infer_expt_dir.resolve())
    finally:
        driver.quit()


def take_page(driver: webdriver.Chrome, experiment: Path) -> None:
    """Start stage 5, save a voice on the page, let it speak, and take the picture."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "VALLET_VOICES": folder}
        flags = ["--infer_expt_dir", str(experiment), "--log_dir", folder, "--port", str(port)]
        server = subprocess.Popen([sys.executable, "-m", "bins.webui", *flags], cwd=ROOT, env=environment)
        try:
            wait(lambda: urlopen(f"http://127.0.0.1:{port}/health").status == 200)
            driver.set_window_size(1280, 1000)
            driver.get(f"http://127.0.0.1:{port}/")
            fill(driver)
            save(driver, FOLDER / "page.png")
        finally:
            server.terminate()
            server.wait(60)


def fill(driver: webdriver.Chrome) -> None:
    def find(selector: str) -> Any:
        return driver.find_element(By.CSS_SELECTOR, selector)

    wait(lambda: find("#speak").is_displayed())
    find("#prompt input[type=file]").send_keys(str(PROMPT))
    find("#prompt_text textarea").send_keys(PROMPT.with_suffix(".txt").read_text(encoding="utf-8"))
    find("#saving button").click()
    wait(lambda: find("#save_voice").is_displayed())
    find("#voice_name input").send_keys("anna")
    find("#consent input").send_keys("A synthetic voice.")
    find("#save_voice").click()
    wait(lambda: find("#voice input").get_property("value") == "anna")
    find("#text textarea").send_keys(TEXT)
    find("#sampling button").click()
    find("#speak").click()
    wait(lambda: find("#line").text)
    # The player of the live speech and the messages go away by themselves.
    wait(lambda: not driver.find_elements(By.CSS_SELECTOR, "#live audio, [data-testid=toast-body]"))
    driver.execute_script("window.scrollTo(0, 0)")


def wait(is_there: Callable[[], Any]) -> None:
    until = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            if is_there():
                return
        except Exception:
            if time.monotonic() > until:
                raise
        assert time.monotonic() < until, "timeout"
        time.sleep(0.2)


def save(driver: webdriver.Chrome, path: Path) -> None:
    """A picture of the window, with as many colours as the size allows."""
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
