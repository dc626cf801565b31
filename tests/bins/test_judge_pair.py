"""The recipe's judge of a pair, on a tiny trained pair."""

from dataclasses import replace

import numpy as np
import pytest

from egs.tts.VALLE.pretrained.recipe.judge_pair import systems
from synthesis.load import load_experiment
from synthesis.synthesizer import Request, Speech
from synthesis.test_lists import ListItem
from tests.support.recipe import Recipe, prompt
from utils.audio import read_audio
from utils.errors import UserError
from utils.prompts import prepare_prompt


def test_the_systems_are_the_codec_the_nar_and_the_pair(trained: Recipe) -> None:
    synthesizer, _ = load_experiment(trained.experiment("nar"), "--infer_expt_dir", ["infer.max_tries=1"])
    (audio, text), (reference, reference_text) = prompt(trained.corpus, "102"), prompt(trained.corpus, "102", 1)
    item = ListItem("batch/1", reference_text, text, audio, reference)
    found = dict(systems(synthesizer, item))
    num = synthesizer.codec.num_codebooks
    assert list(found) == [
        "recording",
        *(f"recording, codec, {i} codebooks" for i in range(1, num + 1)),
        *(f"recording's first codebook, NAR, {i} codebooks" for i in range(2, num + 1)),
        *(f"pair, {i} codebooks" for i in range(1, num + 1)),
    ]
    assert all(len(clip) and np.abs(clip).max() > 0 for clip in found.values())

    # The last of each is what the stages give.
    rate_hz = synthesizer.codec.sample_rate_hz
    recording = read_audio(reference, rate_hz)
    ready = prepare_prompt(audio, text, rate_hz)
    [speech] = synthesizer.synthesize([Request(reference_text, ready.text, ready.audio)])
    assert isinstance(speech, Speech)
    for name, clip in (("recording, codec", synthesizer.copy(recording)), ("pair", speech.audio)):
        seconds = len(found[f"{name}, {num} codebooks"]) / 16000
        assert seconds == pytest.approx(len(clip) / rate_hz, abs=0.05)
    # The NAR adds to the recording's own first codebook.
    assert len(found[f"recording's first codebook, NAR, {num} codebooks"]) == len(
        found["recording, codec, 1 codebooks"]
    )


def test_a_text_that_cannot_be_spoken_is_an_error(trained: Recipe) -> None:
    synthesizer, _ = load_experiment(trained.experiment("nar"), "--infer_expt_dir")
    audio, text = prompt(trained.corpus, "102")
    with pytest.raises(UserError, match="nothing that can be spoken"):
        list(systems(synthesizer, replace(ListItem("batch/1", "?!", text, audio), reference_audio=audio)))
