"""Stage 4 on tiny experiments: the rows of the table, the report, test lists, and errors."""

import base64
import html
import io
import json
import re
import shutil
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import soundfile

import bins.evaluate
from tests.evaluation.test_fairseq_models import save_speaker, save_utmos
from tests.evaluation.test_models import save_ge2e, save_hubert
from tests.support.tiny_runs import ROOMY, call, let_speech_end, prepare, sets, train, write_config, write_custom
from utils.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, two experiments and a test list of three texts, the last without a reference."""
    folder = tmp_path_factory.mktemp("evaluation")
    corpus = write_custom(folder / "corpus", 16)
    config = write_config(folder / "exp_config.json", corpus, folder)
    prepare(config, {})
    for seed in (1, 2):
        train(config, f"pair_{seed}", 0, {"train.random_seed": seed, **ROOMY})
        let_speech_end(folder / "ckpts" / f"pair_{seed}")
    wavs = sorted((corpus / "wavs").iterdir())
    lines = [f"early birds {number}|often find|{wavs[number]}|{wavs[number + 5]}" for number in (0, 1)]
    (folder / "list.txt").write_text("\n".join([*lines, f"green apples|often find|{wavs[2]}"]))
    return folder


def evaluate(folder: Path, *flags: str, test_list: str = "list.txt", status: int = 0) -> tuple[dict, str]:
    """`metrics.json` and `report.html` of a run of stage 4."""
    output = folder / "out"
    shutil.rmtree(output, ignore_errors=True)
    own = ("--test_list_file", str(folder / test_list), "--eval_output_dir", str(output))
    assert call(bins.evaluate, *own, *flags) == status
    return json.loads((output / "metrics.json").read_text()), (output / "report.html").read_text()


@pytest.fixture(scope="module")
def recognizer(folder: Path) -> tuple[str, ...]:
    """Flags for a tiny recognizer. PocketSphinx takes many seconds to transcribe noise."""
    return "--asr", "hubert", "--asr_model", str(save_hubert(folder / "hubert"))


# For tests that look at the numbers alone: drawing spectrograms takes most of the time of a small evaluation.
NO_PICTURES = ("--num_report_texts", "0")
NO_WORDS = ("--asr", "none", *NO_PICTURES)


@pytest.fixture(scope="module")
def measured(folder: Path, recognizer: tuple[str, ...]) -> tuple[dict, str, Path]:
    """`metrics.json` and `report.html` of the first experiment, and a copy of the output folder."""
    metrics, page = evaluate(folder, *experiments(folder, 1), *recognizer)
    return metrics, page, Path(shutil.copytree(folder / "out", folder / "measured"))


@pytest.fixture(scope="module")
def from_audio(folder: Path, measured, recognizer: tuple[str, ...]) -> tuple[dict, str, Path]:
    """The same for the audio that `measured` wrote, with one text in the report; and the folder of the audio."""
    audio = Path(shutil.copytree(measured[2] / "pair_1", folder / "audio"))
    metrics, page = evaluate(folder, "--audio_dir", str(audio), *recognizer, "--num_report_texts", "1")
    return metrics, page, audio


@pytest.fixture(scope="module")
def mixed(folder: Path, recognizer: tuple[str, ...]) -> tuple[dict, str, str]:
    """`metrics.json` and `report.html` of a list with invalid lines and odd texts, and the text of the former."""
    good = (folder / "list.txt").read_text()
    prompt = good.splitlines()[-1].split("|", 1)[1]
    odd = ("...|often find|missing.wav", "only one", f"?!|{prompt}", f"Hmm.|{prompt}", f"Early birds.|{prompt}")
    (folder / "mixed.txt").write_text("\n".join((good, *odd)))
    metrics, page = evaluate(
        folder, *experiments(folder, 1), *recognizer, *NO_PICTURES, test_list="mixed.txt", status=1
    )
    return metrics, page, (folder / "out" / "metrics.json").read_text()


def experiments(folder: Path, *seeds: int) -> list[str]:
    return [part for seed in seeds for part in ("--infer_expt_dir", str(folder / "ckpts" / f"pair_{seed}"))]


def test_two_systems_stand_beside_recordings_and_resynthesis(folder: Path, recognizer) -> None:
    metrics, page = evaluate(folder, *experiments(folder, 1, 2), *recognizer, *NO_PICTURES)
    systems = metrics["systems"]
    # Both have the same codec.
    assert list(systems) == ["ground truth", "codec resynthesis", "pair_1", "pair_2"]
    assert [systems[name]["num_utterances"] for name in systems] == [2, 2, 3, 3]
    assert set(metrics["missing"]) == {"speaker similarity", "DNSMOS", "UTMOS"}
    needed = {"wer", "cer", "mcd_db", "duration_ratio", "real_time_factor", "failed"}
    assert needed <= systems["pair_1"]["metrics"].keys()
    assert set(systems["ground truth"]["metrics"]) == {"wer", "cer"}
    resynthesis, pair = (systems[name]["metrics"]["mcd_db"] for name in ("codec resynthesis", "pair_1"))
    assert 0 < resynthesis["mean"] < pair["mean"]
    assert pair["low"] <= pair["mean"] <= pair["high"]
    assert pair["mean"] == pytest.approx(
        np.mean([row["mcd_db"] for row in systems["pair_1"]["utterances"].values() if "mcd_db" in row])
    )
    for row in (*metrics["missing"].values(), *systems):
        assert row in html.unescape(page)


def test_the_report_has_its_audio_worst_first_and_fetches_nothing(measured, from_audio) -> None:
    metrics, page, _ = measured
    sounds = re.findall(r'src="data:audio/flac;base64,([^"]+)"', page)
    # Prompt and speech of three texts, recording and resynthesis of two.
    assert len(sounds) == 10
    assert all(len(soundfile.read(io.BytesIO(base64.b64decode(sound)))[0]) for sound in sounds)
    assert not re.findall(r'(?:src|href)="(?!data:)|https?://|url\(', page)
    badness = [json.loads(found)["wer"] for found in re.findall(r"data-badness='([^']+)'", page)]
    assert badness == sorted(badness, reverse=True)
    rows = metrics["systems"]["pair_1"]["utterances"]
    assert badness[0] == pytest.approx(max(row["wer"] for row in rows.values()))
    _, short, _ = from_audio
    assert "The 1 worst of 3." in short and short.count("<section") == 1


def test_existing_audio_has_the_metrics_of_the_experiment_that_wrote_it(folder: Path, measured, from_audio) -> None:
    metrics, _, audio = from_audio
    assert list(metrics["systems"]) == ["ground truth", "audio"]
    assert metrics["systems"]["audio"]["metrics"] == measured[0]["systems"]["pair_1"]["metrics"]
    incomplete = Path(shutil.copytree(audio, folder / "incomplete"))
    [first, *_] = sorted(incomplete.glob("batch/*.wav"))
    first.unlink()
    metrics, page = evaluate(folder, "--audio_dir", str(incomplete), *NO_WORDS, status=1)
    [reason] = metrics["systems"]["incomplete"]["failures"].values()
    assert first.name in reason and first.name in page
    assert metrics["systems"]["incomplete"]["num_utterances"] == 2


def test_lines_without_speech_are_named_and_count_as_failed(mixed) -> None:
    metrics, page, _ = mixed
    system = metrics["systems"]["pair_1"]
    assert system["num_utterances"] == 5 and len(system["failures"]) == 3
    missing, one_field, no_words = system["failures"].values()
    assert "missing.wav" in missing and "1 fields" in one_field and "?!" in no_words
    assert all(reason in html.unescape(page) for reason in system["failures"].values())
    assert system["metrics"]["failed"]["mean"] == 3 / 8


def test_a_text_without_words_has_no_error_rates(mixed) -> None:
    metrics, page, text = mixed
    pair = metrics["systems"]["pair_1"]
    [name] = [name for name, row in pair["utterances"].items() if not {"wer", "cer"} & row.keys()]
    assert name.startswith("batch/7_") and np.isfinite(pair["metrics"]["wer"]["mean"])
    how = metrics["missing"]["WER and CER of 1 of 5 texts"]
    assert name in how and how in html.unescape(page)
    # Strict JSON has no NaN.
    json.loads(text, parse_constant=lambda constant: pytest.fail(constant))


def test_speech_that_failed_is_measured_and_is_a_failure(folder: Path, measured, capsys) -> None:
    short = ("--set", "infer.slack_seconds=0", "--set", "infer.max_seconds_per_phone=0.001")
    metrics, page = evaluate(folder, *experiments(folder, 1), *short, *NO_WORDS, status=1)
    pair = metrics["systems"]["pair_1"]
    assert len(pair["failures"]) == 3 and all("was cut off at" in reason for reason in pair["failures"].values())
    assert pair["num_utterances"] == 3 and pair["metrics"]["failed"]["mean"] == 1
    logged = capsys.readouterr().err
    assert "was cut off at" in page and "was cut off at" in logged and "Traceback" not in logged
    assert measured[0]["systems"]["pair_1"]["metrics"]["failed"]["mean"] == 0


def test_another_list_is_evaluated_in_the_same_folder(folder: Path, measured, tmp_path: Path) -> None:
    metrics, _, before = measured
    other, output = tmp_path / "other.txt", Path(shutil.copytree(before, tmp_path / "out"))
    other.write_text((folder / "list.txt").read_text().replace("early birds", "green birds"))
    own = ("--test_list_file", str(other), "--eval_output_dir", str(output))
    assert call(bins.evaluate, *own, *experiments(folder, 1), *NO_WORDS) == 0
    again = json.loads((output / "metrics.json").read_text())
    assert again["systems"]["pair_1"]["utterances"].keys() == metrics["systems"]["pair_1"]["utterances"].keys()
    results = (output / "pair_1" / "results.jsonl").read_text()
    assert "green birds 0" in results and "early birds" not in results


def test_a_continuation_is_compared_with_the_whole_recording(folder: Path, tmp_path: Path) -> None:
    wavs = sorted((folder / "corpus" / "wavs").iterdir())[:2]
    (tmp_path / "list.txt").write_text("".join(f"early birds|early birds|{wav}|{wav}\n" for wav in wavs))
    flags = ("--test_list_file", str(tmp_path / "list.txt"), "--eval_output_dir", str(tmp_path / "out"), "--continual")
    kept = sets({"infer.continual_prompt_seconds": 0.6})
    assert call(bins.evaluate, *flags, *experiments(folder, 1), *kept, *NO_WORDS) == 0
    system = json.loads((tmp_path / "out" / "metrics.json").read_text())["systems"]["pair_1"]
    for row, wav in zip(system["utterances"].values(), wavs, strict=True):
        assert soundfile.info(row["audio"]).duration > 0.6
        assert soundfile.info(wav).duration > 0.6
        assert row["duration_ratio"] > 0


def test_the_models_that_measured_are_named(folder: Path, measured, from_audio, tmp_path: Path) -> None:
    metrics, page, audio = from_audio
    recognizer = {"name": "hubert", "backend": "transformers", "version": version("transformers")}
    assert metrics["recognizer"] == recognizer and metrics["speaker_model"] is None
    assert f"hubert\n(transformers {version('transformers')})" in page
    speaker = ("--speaker_model", str(save_ge2e(tmp_path / "encoder.pt")))
    metrics, page = evaluate(folder, "--audio_dir", str(audio), *speaker, *NO_WORDS)
    assert metrics["recognizer"] is None and metrics["speaker_model"] == "encoder.pt" and "encoder.pt" in page
    assert metrics["systems"]["audio"]["metrics"].keys() >= {"sim_o", "sim_r"}


def test_the_language_is_that_of_the_first_experiment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    languages = []

    def build(language: str, *arguments: object, **named: object) -> None:
        languages.append(language)
        raise UserError("called")

    monkeypatch.setattr("evaluation.build.build_measures", build)
    audio = ("--audio_dir", str(folder), "--eval_output_dir", str(folder / "out"))
    german = ("--set", "preprocess.language=de")
    for flags in ((*experiments(folder, 1), *german), (*experiments(folder, 1), *german, "--language", "fr"), audio):
        with pytest.raises(UserError, match=r"^called$"):
            bins.evaluate.main(["--test_list_file", str(folder / "list.txt"), *flags])
    assert languages == ["de", "fr", "en-us"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "--infer_expt_dir: needed, or --audio_dir"),
        (("--audio_dir", "x"), "--eval_output_dir: needed with --audio_dir alone"),
        (("--audio_dir", "x", "--eval_output_dir", "y", "--continual"), "--continual: needs --infer_expt_dir"),
        (("--audio_dir", "x", "--eval_output_dir", "y", "--set", "infer.seed=1"), "--set: needs --infer_expt_dir"),
        (("--infer_expt_dir", "x", "--asr_model", "y"), "--asr_model is for --asr whisper or hubert"),
        (("--build_test_lists", "libritts"), "--eval_output_dir: needed with --build_test_lists"),
        (("--build_test_lists", "seed-tts-eval"), "--test_set: needed with --build_test_lists seed-tts-eval and"),
        (("--build_test_lists", "vctk", "--test_set", "x"), "--test_set: needed with --build_test_lists seed-tts-eval"),
        (("--audio_dir", "x", "--test_set", "x"), "--test_set: needed with --build_test_lists seed-tts-eval"),
    ],
)
def test_flags_that_do_not_go_together_are_one_line(flags: tuple[str, ...], words: str, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        bins.evaluate.main(["--test_list_file", "x", *flags])
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert words in line


def test_a_published_list_has_its_results_and_its_normalizer(folder: Path, from_audio, recognizer) -> None:
    *_, audio = from_audio
    lines = (folder / "list.txt").read_text()
    name = "librispeech test-clean previous_utterance"
    (folder / "named.txt").write_text(f"# list: {name}, 3 texts\n{lines}")
    metrics, page = evaluate(folder, *experiments(folder, 1), *recognizer, *NO_PICTURES, test_list="named.txt")
    assert metrics["published"]["list"] == name
    assert {row["system"] for row in metrics["published"]["results"]} >= {"VALL-E 2", "recordings"}
    assert page.count('<tr class="published">') == len(metrics["published"]["results"])
    assert metrics["models"]["normalizer"]["name"] == "whisper"
    seed = ("--normalizer", "seed-tts-eval")
    metrics, page = evaluate(folder, "--audio_dir", str(audio), *recognizer, *seed, *NO_PICTURES)
    assert metrics["models"]["normalizer"]["name"] == "seed-tts-eval" and "normalized by seed-tts-eval" in page
    assert metrics["published"]["results"] == [] and 'class="published"' not in page
    system = metrics["systems"]["audio"]
    rates = [row["wer"] for row in system["utterances"].values()]
    assert system["metrics"]["wer"]["mean"] == pytest.approx(np.mean(rates))


def test_utmos_and_the_similarity_of_papers_are_measured(folder: Path, from_audio, tmp_path: Path) -> None:
    speaker, utmos = save_speaker(tmp_path / "wavlm.pth"), save_utmos(tmp_path / "utmos.pt")
    flags = ("--speaker_model", str(speaker), "--utmos", str(utmos))
    metrics, page = evaluate(folder, "--audio_dir", str(from_audio[2]), *flags, *NO_WORDS)
    assert metrics["systems"]["audio"]["metrics"].keys() >= {"sim_o", "sim_r", "utmos"}
    assert metrics["models"].keys() == {"speaker_model", "utmos"}
    for name, model in metrics["models"].items():
        assert model["name"] in page and model["kind"] in page and name in flags[0] + flags[2]
