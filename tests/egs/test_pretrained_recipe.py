"""The recipe of the pretrained pair: what its training may not see."""

import json
import random
from itertools import islice
from pathlib import Path

import soundfile

from egs.tts.VALLE.pretrained.recipe import corpus, test_list
from processors.espeak_speech import Voice
from tests.conftest import ROOT

RECIPE = ROOT / "egs" / "tts" / "VALLE" / "pretrained" / "recipe"


def test_there_are_sixty_sentences_for_choices_and_sixty_for_the_figures() -> None:
    lists = [(RECIPE / f"sentences_{name}.txt").read_text().splitlines() for name in ("dev", "test")]
    assert [len(sentences) for sentences in lists] == [60, 60]
    assert len({corpus.tokens(sentence) for sentences in lists for sentence in sentences}) == 120


def test_a_training_text_shares_no_five_words_with_an_evaluation_sentence() -> None:
    for sentence in corpus.evaluation_sentences():
        words = corpus.tokens(sentence)
        assert corpus.may_train_on(f"Xylophones, {' '.join(words[:4])} xylophones.")
        if len(words) >= corpus.SHARED_WORDS:
            assert not corpus.may_train_on(f"Then he said, {' '.join(words[-5:]).upper()}!")


def test_texts_are_free_of_evaluation_sentences(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("\n".join(["A sentence of its own.", *corpus.evaluation_sentences()]))
    drawn = set(islice(corpus.texts(path, random.Random(0)), 400))
    assert "A sentence of its own." in drawn
    assert all(map(corpus.may_train_on, drawn)) and len(drawn) > 50


def test_the_excluded_voice_is_never_drawn() -> None:
    held_out = json.loads((RECIPE / "excluded.json").read_text())["espeak_voice"]
    manner = held_out["pitch"], held_out["words_per_minute"]
    voices = [*corpus.CLEAR_VOICES, *(corpus.random_voice(random.Random(seed)) for seed in range(3000))]
    assert held_out["variant"] not in {voice.variant for voice in voices}
    assert manner not in {(voice.pitch, voice.words_per_minute) for voice in voices}
    assert corpus.is_excluded(Voice("a", "M", held_out["variant"], 50, 160))
    assert corpus.is_excluded(Voice("a", "M", "m1", *manner))


def test_rendered_rows_say_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("The boat came into the harbour at noon.\nThey carried the boxes to the old house.\n")
    rows = list(corpus.render_espeak(tmp_path, path, hours=20 / 3600, seed=0))
    assert sum(soundfile.info(tmp_path / row["audio"]).duration for row in rows) >= 20
    assert {soundfile.info(tmp_path / row["audio"]).samplerate for row in rows} == {corpus.RATE_HZ}


def test_real_speech_is_without_the_excluded_speakers(tmp_path: Path) -> None:
    excluded = json.loads((RECIPE / "excluded.json").read_text())["speechocean762_speakers"]
    speech = tmp_path / "Speechocean762"
    speech.mkdir()
    rows = [{"audio": f"{name}.opus", "text": "it is here", "speaker": name} for name in [*excluded, "1234"]]
    (speech / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [row["speaker"] for row in corpus.real_speech(tmp_path)] == ["speechocean762_1234"]


def test_real_speech_is_without_the_excluded_corpora(tmp_path: Path) -> None:
    for name in json.loads((RECIPE / "excluded.json").read_text())["corpora"]:
        folder = tmp_path / name / "test-clean" / "1" / "2"
        folder.mkdir(parents=True)
        (tmp_path / name / "metadata.csv").write_text("u|it is here|it is here\n")
        (tmp_path / name / "all.jsonl").write_text('{"audio": "u.wav", "text": "it is here", "speaker": "1"}\n')
        (folder / "1_2_3.normalized.txt").write_text("it is here")
    (tmp_path / "LJSpeech-1.1").mkdir()
    (tmp_path / "LJSpeech-1.1" / "metadata.csv").write_text("u|it is here|it is here\n")
    assert [row["speaker"] for row in corpus.real_speech(tmp_path)] == ["lj"]


def test_a_list_of_rendered_voices_has_their_own_references(tmp_path: Path) -> None:
    lines = [line.split("|") for line in test_list.espeak_lines(["Come in.", "Here we are."], tmp_path)]
    assert [line[0] for line in lines] == ["Come in.", "Here we are."]
    for _, prompt_text, *audio in lines:
        assert prompt_text in test_list.PROMPT_TEXTS
        prompt_seconds, reference_seconds = (soundfile.info(path.strip()).duration for path in audio)
        assert test_list.SHORTEST_SECONDS <= prompt_seconds <= test_list.LONGEST_SECONDS
        assert reference_seconds < prompt_seconds


def test_prompts_of_choices_are_of_held_out_speakers(tmp_path: Path) -> None:
    speech = tmp_path / "Speechocean762"
    speech.mkdir()
    held_out = json.loads((RECIPE / "excluded.json").read_text())["speechocean762_speakers"]
    for name, seconds in ((held_out[0], 3), (held_out[1], 3), ("1234", 3)):
        soundfile.write(speech / f"{name}.wav", [0.0] * (8000 * seconds), 8000)
        with (speech / "all.jsonl").open("a") as file:
            file.write(json.dumps({"audio": f"{name}.wav", "text": "it is here", "speaker": name}) + "\n")
    prompts = test_list.prompts_of("speechocean762", tmp_path)
    assert sorted(prompts) == held_out[:2]
    lines = test_list.real_lines(["One.", "Two.", "Three."], prompts)
    assert [Path(line.split("|")[2].strip()).stem for line in lines] == [held_out[0], held_out[1], held_out[0]]
