"""The recipe's judge of a pair, on a tiny trained pair."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from torchaudio.functional import resample

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
    codec = synthesizer.codec
    num = codec.num_codebooks
    assert list(found) == [
        "recording",
        *(f"recording, codec, {i} codebooks" for i in range(1, num + 1)),
        *(f"recording's first codebook, NAR, {i} codebooks" for i in range(2, num + 1)),
        *(f"pair, {i} codebooks" for i in range(1, num + 1)),
    ]
    assert all(len(clip) and np.abs(clip).max() > 0 for clip in found.values())

    # The last of each is what the stages give.
    rate_hz = codec.sample_rate_hz
    recording = read_audio(reference, rate_hz)
    ready = prepare_prompt(audio, text, rate_hz)
    [speech] = synthesizer.synthesize([Request(reference_text, ready.text, ready.audio)])
    assert isinstance(speech, Speech)
    for name, clip in (("recording, codec", synthesizer.copy(recording)), ("pair", speech.audio)):
        expected, audio = resample(clip, rate_hz, 16000).numpy(), found[f"{name}, {num} codebooks"]
        # The codec's last frame may go beyond the recording, and resampling reads a few samples after the end.
        shared = min(len(expected), len(audio)) - 100
        assert abs(len(expected) - len(audio)) < 16000 / codec.frame_rate_hz
        np.testing.assert_allclose(audio[:shared], expected[:shared], atol=1e-4)
    # Each codebook adds to the sound.
    for name in ("recording, codec", "recording's first codebook, NAR", "pair"):
        clips = [audio for system, audio in found.items() if system.startswith(name)]
        assert all(not np.array_equal(one, other) for one, other in pairwise(clips))
    # The NAR adds to the recording's own first codebook.
    assert len(found[f"recording's first codebook, NAR, {num} codebooks"]) == len(
        found["recording, codec, 1 codebooks"]
    )


def test_a_text_that_cannot_be_spoken_is_an_error(trained: Recipe) -> None:
    synthesizer, _ = load_experiment(trained.experiment("nar"), "--infer_expt_dir")
    audio, text = prompt(trained.corpus, "102")
    with pytest.raises(UserError, match="nothing that can be spoken"):
        list(systems(synthesizer, replace(ListItem("batch/1", "?!", text, audio), reference_audio=audio)))
