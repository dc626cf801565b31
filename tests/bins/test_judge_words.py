"""The recipe's judge of words, on a tiny trained pair, and the times that it takes from espeak-ng."""

import numpy as np
import pytest

from egs.tts.VALLE.pretrained.recipe.corpus import CLEAR_VOICES
from egs.tts.VALLE.pretrained.recipe.judge_words import judge, true_starts
from processors.espeak_speech import SAMPLE_RATE_HZ, espeak_synthesizer
from synthesis.load import load_experiment
from tests.support.recipe import Recipe


def test_each_word_begins_where_espeak_says() -> None:
    text = "Wait, the old house is near: go home now."
    with espeak_synthesizer() as espeak:
        audio = espeak.speak(text, CLEAR_VOICES[0])
        starts = [start for start in true_starts(text, espeak.word_starts) if start is not None]
        assert len(starts) == len(text.split()) and starts == sorted(starts)
        assert 0 <= starts[0] < starts[-1] < len(audio) / SAMPLE_RATE_HZ
        # A pause at a mark ends where the next word begins.
        for index in (1, 6):
            first = round(starts[index] * SAMPLE_RATE_HZ)
            before, after = audio[first - 960 : first - 240], audio[first + 240 : first + 2400]
            assert np.abs(before).mean() < 0.2 * np.abs(after).mean()
        espeak.speak("Go.", CLEAR_VOICES[0])
        assert list(espeak.word_starts) == [0]


def test_the_judge_measures_every_sentence(trained: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    # No head of a model that was hardly trained follows the text.
    monkeypatch.setattr("synthesis.heads.NEEDED_DIAGONALITY", 0.0)
    synthesizer, _ = load_experiment(trained.experiment("nar"), "--infer_expt_dir", ["infer.max_tries=1"])
    sentences = ["The old house is near.", "Birds find green apples."]
    measured = judge(synthesizer, sentences)
    errors = measured.pop("error of a start")
    assert len(errors) == 9 and min(errors) >= 0 and max(errors) > 0
    assert [len(values) for values in measured.values()] == [2, 2, 2]
    assert measured == {key: judge(synthesizer, sentences)[key] for key in measured}
