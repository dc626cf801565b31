"""The page in Debian's chromium: `make test-web`."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.conftest import ROOT, free_port
from tests.support.pair import Trained

pytestmark = pytest.mark.browser

TEXT = "Early birds often find small green apples."
# A busy machine may take that long to start the server.
WAIT_SECONDS = 240
WIDE, NARROW = 1400, 420
# Speech that is long enough for several updates of the progress, as a tiny model is fast.
SLOW = [
    part
    for key, value in (("min_seconds_per_phone", 1), ("max_seconds_per_phone", 1.5))
    for part in ("--set", f"infer.{key}={value}")
]
# The player's audio element is in a shadow tree.
FIND_AUDIO = """
const inside = [...document.querySelectorAll(arguments[0] + ' *')].filter(one => one.shadowRoot);
const audio = inside.map(one => one.shadowRoot.querySelector('audio')).find(one => one && one.duration > 0);
"""
MEASURE_AUDIO = f"""
{FIND_AUDIO}
const done = arguments[1];
if (!audio) return done(null);
fetch(audio.src).then(reply => reply.arrayBuffer()).then(bytes => new AudioContext().decodeAudioData(bytes)).then(
    sound => {{
        const samples = sound.getChannelData(0);
        const power = samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length;
        done({{duration: audio.duration, seconds: sound.duration, rms: Math.sqrt(power)}});
    }});
"""
NOTE_PROGRESS = """
window.noted = [];
new MutationObserver(() => {
    const found = document.querySelector('#speech').innerText.match(/[\\d.]+ s generated - [\\d.]+%/);
    if (found && window.noted.at(-1) !== found[0]) window.noted.push(found[0]);
}).observe(document.querySelector('#speech'), {subtree: true, childList: true, characterData: true});
"""


class Browser:
    """A browser window with the page, and the user's actions in it."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver, self.url = driver, url
        driver.set_window_size(WIDE, 1000)
        self.open()

    def open(self) -> None:
        """Load the page again. Messages of the page before it are dropped: leaving it aborts its requests."""
        self.driver.get("about:blank")
        self.driver.get_log("browser")
        self.driver.get(self.url)
        self.wait(lambda: self.find("#speak").is_displayed())

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def wait(self, is_there: Callable[[], Any]) -> Any:
        """Wait until `is_there` returns something true, and return that."""
        until = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                if found := is_there():
                    return found
            except (NoSuchElementException, StaleElementReferenceException):
                pass
            assert time.monotonic() < until, f"timeout; the text of the page:\n{self.find('body').text}"
            time.sleep(0.05)

    def write(self, field: str, text: str) -> None:
        self.find(f"{field} textarea").clear()
        self.find(f"{field} textarea").send_keys(text)

    def paste(self, field: str, text: str) -> None:
        """Set a long text at once."""
        self.run(
            "const field = document.querySelector(arguments[0]); field.value = arguments[1];"
            "field.dispatchEvent(new Event('input'))",
            f"{field} textarea",
            text,
        )

    def choose(self, dropdown: str, label: str) -> None:
        self.find(f"{dropdown} input").click()
        self.wait(lambda: self.find(f"{dropdown} [role=option][aria-label='{label}']")).click()

    def shown(self, selector: str) -> bool:
        """Whether an element is there and can be seen."""
        return any(one.is_displayed() for one in self.driver.find_elements(By.CSS_SELECTOR, selector))

    def upload(self, path: Path) -> None:
        self.find("#prompt input[type=file]").send_keys(str(path))
        self.wait(lambda: self.run(f"{FIND_AUDIO} return Boolean(audio)", "#prompt"))

    def speak(self) -> None:
        self.find("#speak").click()

    def audio(self, player: str = "#speech") -> dict[str, float]:
        """Duration and level of a player's audio."""
        self.wait(lambda: self.run(f"{FIND_AUDIO} return Boolean(audio)", player))
        return self.driver.execute_async_script(MEASURE_AUDIO, player)

    def take_picture(self, path: Path, width: int) -> None:
        """Take a screenshot of the whole page; nothing may be wider than the window."""
        self.driver.set_window_size(width, 1000)
        time.sleep(0.5)
        height = self.run("return document.documentElement.scrollHeight")
        self.driver.set_window_size(width, height + 200)
        time.sleep(0.5)
        self.driver.save_screenshot(path)
        assert self.run("return [window.innerWidth, document.documentElement.scrollWidth]") == [width, width]

    def requests(self) -> set[str]:
        """URLs that the page has requested since the last call."""
        messages = [json.loads(row["message"])["message"] for row in self.driver.get_log("performance")]
        sent = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
        return {params["request"]["url"] for params in sent}


@pytest.fixture(scope="module")
def server(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The page's address, and the log of the server."""
    trained.give_word_times()
    port, log_path = free_port(), tmp_path_factory.mktemp("server") / "log"
    script = ROOT / "egs" / "tts" / "VALLE" / "run.sh"
    flags = ["--stage", "5", "--log_dir", str(trained.log_dir), "--port", str(port), *SLOW]
    environment = {**os.environ, "VIRTUAL_ENV": sys.prefix, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["VALLET_VOICES"] = str(log_path.parent / "voices")
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    with log_path.open("w") as log:
        process = subprocess.Popen(["sh", str(script), *flags], env=environment, stderr=log)
    try:
        until = time.monotonic() + WAIT_SECONDS
        while "the page and the API are at" not in log_path.read_text():
            assert process.poll() is None and time.monotonic() < until, log_path.read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/", log_path
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def driver() -> Iterator[webdriver.Chrome]:
    """Headless chromium with a microphone that beeps, and without access to other machines."""
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    assert chromium and chromedriver, "install them: apt-get install chromium chromium-driver"
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "headless=new",
        "no-sandbox",
        "disable-dev-shm-usage",
        "use-fake-device-for-media-stream",
        "use-fake-ui-for-media-stream",
        "autoplay-policy=no-user-gesture-required",
        "host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(chromedriver))
    driver.set_script_timeout(WAIT_SECONDS)
    yield driver
    driver.quit()


@pytest.fixture
def browser(driver: webdriver.Chrome, server: tuple[str, Path]) -> Iterator[Browser]:
    url, log_path = server
    browser = Browser(driver, url)
    yield browser
    assert [address for address in browser.requests() if not address.startswith((url, "data:", f"blob:{url}"))] == []
    severe = [row["message"] for row in driver.get_log("browser") if row["level"] == "SEVERE"]
    # The player logs this for a file that is not audio.
    assert [message for message in severe if "Waveform load error" not in message] == []
    assert "Traceback" not in log_path.read_text()


def test_a_text_is_synthesized(
    browser: Browser, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt_audio, prompt_text = trained.prompt()
    browser.write("#text", TEXT)
    browser.upload(prompt_audio)
    browser.write("#prompt_text", prompt_text)
    browser.run(NOTE_PROGRESS)
    browser.speak()
    line = browser.wait(lambda: browser.find("#line").text)
    seconds = float(line.split(" s; ")[0])
    audio = browser.audio()
    assert audio["duration"] == pytest.approx(seconds, abs=0.1) and audio["seconds"] == pytest.approx(seconds, abs=0.1)
    assert audio["rms"] > 0.001
    noted = [float(text.split(" s generated - ")[0]) for text in browser.run("return window.noted")]
    # Each try starts at 0; within the last one the seconds only grow.
    begins = [0, *(index for index in range(1, len(noted)) if noted[index] < noted[index - 1])]
    last = noted[begins[-1] :]
    assert len(set(last)) >= 2 and len(begins) <= 5 and 0 < last[0] < last[-1] <= seconds

    browser.find("#speech button[aria-label=Play]").click()
    browser.wait(lambda: browser.run(f"{FIND_AUDIO} return audio.currentTime > 0", "#speech"))
    browser.find("#speech button[aria-label=Pause]").click()
    assert browser.run(
        "const one = document.querySelector('#picture img'); return one.naturalWidth > 500 && one.complete"
    )
    assert re.search(rf"\d\d:\d\d:\d\d {TEXT}", browser.find(".remembered").text)
    assert browser.audio(".remembered")["rms"] == pytest.approx(audio["rms"], rel=1e-3)
    download = browser.find("#speech a[download]")
    assert re.fullmatch(r"nar_\d{6}\.wav", download.get_attribute("download"))
    assert download.get_attribute("href").startswith(browser.url)

    # A second text stands before the first one in the history.
    browser.write("#text", "Tall trees.")
    browser.speak()
    browser.wait(lambda: len(browser.driver.find_elements(By.CSS_SELECTOR, ".remembered")) == 2)
    assert "Tall trees." in browser.find(".remembered").text
    browser.find("#sampling button").click()
    for name, width in (("wide", WIDE), ("narrow", NARROW)):
        browser.take_picture(tmp_path / f"{name}.png", width)
    with capsys.disabled():
        print(f"\nscreenshots: {tmp_path}")


def test_a_mistake_is_a_message(browser: Browser, trained: Trained, tmp_path: Path) -> None:
    note = tmp_path / "note.wav"
    note.write_text("This is not audio.")
    browser.speak()
    message = browser.wait(lambda: browser.find("[data-testid=toast-body]").text)
    assert "The text is empty; write it first" in message
    browser.write("#text", TEXT)
    browser.write("#prompt_text", "A dog.")
    browser.speak()
    browser.wait(lambda: "There is no prompt; upload or record" in browser.find("body").text)
    browser.find("#prompt input[type=file]").send_keys(str(note))
    browser.wait(lambda: browser.find("#prompt button[aria-label=Clear]").is_displayed())
    browser.speak()
    browser.wait(lambda: "note.wav: cannot be read as audio" in browser.find("body").text)
    assert "Traceback" not in browser.driver.page_source


def test_a_long_text_is_cancelled(browser: Browser, trained: Trained) -> None:
    prompt_audio, prompt_text = trained.prompt()
    browser.paste("#text", "\n\n".join([TEXT] * 20))
    browser.upload(prompt_audio)
    browser.write("#prompt_text", prompt_text)
    browser.speak()
    browser.wait(lambda: re.search(r"\d+ of 20 parts done, [\d.]+ s generated", browser.find("#speech").text))
    browser.find("#cancel").click()
    browser.wait(lambda: "The request was cancelled" in browser.find("body").text)
    # The queue is free for the next text.
    browser.write("#text", "Tall trees.")
    browser.speak()
    assert " s; " in browser.wait(lambda: browser.find("#line").text)


def test_a_recording_is_saved_as_a_voice_and_speaks(browser: Browser, trained: Trained, tmp_path: Path) -> None:
    prompt_audio, prompt_text = trained.prompt()
    browser.upload(prompt_audio)
    browser.write("#prompt_text", prompt_text)
    browser.find("#saving button").click()
    browser.wait(lambda: browser.find("#save_voice").is_displayed())
    browser.find("#save_voice").click()
    browser.wait(lambda: "The voice has no name; write one" in browser.find("body").text)
    browser.find("#voice_name input").send_keys("anna")
    browser.find("#consent input").send_keys("Anna agreed.")
    browser.find("#save_voice").click()
    browser.wait(lambda: "The voice anna is saved and selected." in browser.find("body").text)
    # The recording's fields are of no use with a saved voice.
    browser.wait(lambda: browser.find("#voice input").get_property("value") == "anna")
    browser.wait(lambda: not browser.shown("#recording"))

    # It is still there on a new page, which begins with the recording, as the voice is not the experiment's own.
    browser.open()
    assert browser.find("#voice input").get_property("value") == "From the recording below"
    browser.choose("#voice", "anna")
    browser.wait(lambda: not browser.shown("#recording"))
    browser.write("#text", "Tall trees.")
    browser.speak()
    assert " s; " in browser.wait(lambda: browser.find("#line").text)
    browser.wait(lambda: browser.find("#words button")).click()
    browser.wait(lambda: "Tall" in browser.find("#words").text)
    browser.driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    for suffix in ("srt", "vtt"):
        browser.find("#words").find_element(By.XPATH, f".//button[contains(., 'Subtitles ({suffix})')]").click()
        browser.wait(lambda suffix=suffix: any("Tall" in path.read_text() for path in tmp_path.glob(f"*.{suffix}")))
    browser.choose("#voice", "From the recording below")
    browser.wait(lambda: browser.shown("#recording"))


def test_speech_is_played_before_it_is_complete_and_cancel_stops_it(browser: Browser, trained: Trained) -> None:
    prompt_audio, prompt_text = trained.prompt()
    browser.paste("#text", "\n\n".join([TEXT] * 20))
    browser.upload(prompt_audio)
    browser.write("#prompt_text", prompt_text)
    browser.speak()
    playing = "const one = document.querySelector('#live audio'); return one ? one.currentTime : 0"
    browser.wait(lambda: browser.run(playing) > 0)
    # Neither the complete audio nor the line about it is there yet.
    assert not browser.find("#line").text and not browser.run(f"{FIND_AUDIO} return Boolean(audio)", "#speech")
    browser.find("#cancel").click()
    browser.wait(lambda: "The request was cancelled" in browser.find("body").text)
    browser.wait(lambda: not browser.driver.find_elements(By.CSS_SELECTOR, "#live audio"))

    # Without playing at once, there is only the complete audio.
    browser.find("#play input").click()
    browser.write("#text", "Tall trees.")
    browser.speak()
    browser.wait(lambda: browser.find("#line").text)
    assert browser.audio()["rms"] > 0.001 and not browser.driver.find_elements(By.CSS_SELECTOR, "#live audio")


def test_a_new_experiment_is_offered_with_its_settings(browser: Browser, trained: Trained) -> None:
    second = Path(shutil.copytree(trained.nar, trained.log_dir / "second"))
    try:
        settings = json.loads((second / "args.json").read_text())
        settings["infer"]["seed"] = 9
        (second / "args.json").write_text(json.dumps(settings))
        browser.open()
        browser.choose("#experiment", "second")
        browser.find("#sampling button").click()
        browser.wait(lambda: browser.find("#sampling input[aria-label=Seed]").get_property("value") == "9")
    finally:
        shutil.rmtree(second)


def test_the_microphone_records_a_prompt(browser: Browser) -> None:
    browser.write("#text", "Tall trees.")
    browser.write("#prompt_text", "A beep.")
    browser.find("#prompt button[aria-label='Record audio']").click()
    browser.wait(lambda: browser.find("#prompt .record-button").is_displayed())
    browser.find("#prompt .record-button").click()
    time.sleep(2)
    browser.find("#prompt .stop-button").click()
    browser.wait(lambda: browser.run(f"{FIND_AUDIO} return Boolean(audio)", "#prompt"))
    browser.speak()
    assert " s; " in browser.wait(lambda: browser.find("#line").text)
    assert browser.audio()["rms"] > 0.001
