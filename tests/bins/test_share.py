"""Models on the hub: what is pushed, what comes back, and that it speaks; the model card; mistakes."""

import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, constants
from huggingface_hub.utils import build_hf_headers
from safetensors.torch import load_file

import bins.evaluate
import bins.inference
import bins.share
import bins.voices
import synthesis.share
import vallet
from evaluation.evaluate import GROUND_TRUTH, Evaluation, MeasuredClip, System, write_metrics
from evaluation.measures import Clip, Ratio
from evaluation.published import Published
from processors.codecs import CODECS, codec_class
from synthesis.synthesizer import Synthesizer
from synthesis.voices import Voice, write_voice
from tests.support.hub import TOKEN, FakeHub, serve_hub
from tests.support.pair import Trained, own, synthesizer, trained
from tests.support.tiny_runs import ROOMY, call, sets
from utils.cli import find_experiment
from utils.errors import UserError
from utils.hub import output_folder, quiet_hub
from utils.prompts import prepare_prompt
from web.experiments import ExperimentList

__all__ = ["own", "synthesizer", "trained"]
MODEL = "ann/tiny"
NOTES = {"consent": "Anna agreed that it is published.", "licence": "CC BY 4.0"}


def point_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_ENDPOINT does before huggingface_hub is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """An empty hub and an empty cache."""
    with serve_hub() as served:
        point_to(served.url, monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("VALLET_VOICES", str(tmp_path / "my_voices"))
        yield served


def add_voice(trained: Trained, synthesizer: Synthesizer, name: str, **notes: str) -> None:
    audio, text = trained.prompt()
    prompt = prepare_prompt(audio, text, synthesizer.codec.sample_rate_hz)
    voice = Voice.from_prompt(prompt, synthesizer, **notes)
    (trained.nar / "voices").mkdir(exist_ok=True)
    write_voice(voice, trained.nar / "voices" / f"{name}.safetensors")


def add_metrics(trained: Trained, name: str = "nar") -> Path:
    """As stage 4 writes it, of three utterances, whose paths and texts are private."""
    clips = {f"u{index}": Clip(trained.folder / "secret" / f"u{index}.wav") for index in range(3)}
    systems = []
    for number, system in enumerate((GROUND_TRUTH, name)):
        measured = {
            key: MeasuredClip(clip, {"wer": Ratio(index + number, 10), "sim_o": Ratio(0.5 + index / 10)}, "private")
            for index, (key, clip) in enumerate(clips.items())
        }
        checkpoint = None if system == GROUND_TRUTH else trained.checkpoint.path.name
        systems.append(System(system, clips, measured=measured, checkpoint=checkpoint))
    recognizer = {"name": "whisper|base", "backend": "faster-whisper", "version": "1.2"}
    evaluation = Evaluation([], {}, systems, {}, recognizer, {"speaker_model": {"name": "ge2e"}}, Published())
    path = trained.nar / "evaluation" / "metrics.json"
    path.parent.mkdir(exist_ok=True)
    write_metrics(path, evaluation)
    return path


def push(trained: Trained, *flags: str) -> int:
    return call(bins.share, "push", MODEL, "--infer_expt_dir", str(trained.nar), "--licence", "cc-by-4.0", *flags)


def test_a_pushed_model_comes_back_byte_by_byte_and_speaks(
    own: Trained, synthesizer: Synthesizer, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_voice(own, synthesizer, "anna", **NOTES)
    add_voice(own, synthesizer, "zoe", **NOTES)
    own.give_word_times()
    add_metrics(own)
    assert push(own, "--voice", "anna", "--data", "Noise, read aloud.") == 0
    files = dict(hub.models[MODEL][-1][1])
    del files[".gitattributes"]
    checkpoint = f"checkpoint/{own.checkpoint.path.name}"
    assert set(files) == {
        *("README.md", "args.json", "symbols.dict", "mel_rvq.safetensors", "attention_heads.json"),
        *(f"{checkpoint}/model.safetensors", f"{checkpoint}/meta.json", "voices/anna.safetensors"),
    }

    assert call(bins.share, "pull", MODEL, "--output_dir", str(tmp_path / "pulled")) == 0
    pulled = {str(path.relative_to(tmp_path / "pulled")): path for path in (tmp_path / "pulled").rglob("*")}
    assert {name: path.read_bytes() for name, path in pulled.items() if path.is_file()} == files
    assert not any(path.is_symlink() for path in pulled.values())
    weights = load_file(own.checkpoint.weights)
    found = load_file(tmp_path / "pulled" / checkpoint / "model.safetensors")
    assert found.keys() == weights.keys() and all(found[name].equal(weights[name]) for name in weights)
    assert files["voices/anna.safetensors"] == (own.nar / "voices" / "anna.safetensors").read_bytes()

    # Named on the hub or pulled, it speaks as the experiment does, and nothing is downloaded twice.
    num_downloads = len(hub.downloads())
    with vallet.load(own.nar) as one, vallet.load(tmp_path / "pulled") as two, vallet.load(f"hub:{MODEL}") as three:
        wanted = one.say("Small green apples.", voice="anna", seed=1).audio
        assert len(wanted) and two.say("Small green apples.", voice="anna", seed=1).audio.equal(wanted)
        assert three.say("Small green apples.", voice="anna", seed=1).audio.equal(wanted)
        assert three.voices == ["anna"]
    assert len(hub.downloads()) == num_downloads > 0

    # Stage 3 writes to the working directory, not to the cache.
    monkeypatch.chdir(tmp_path)
    cached = find_experiment(f"hub:{MODEL}", "")
    before = sorted(cached.rglob("*"))
    single = ("--infer_mode", "single", "--infer_voice", "anna", "--infer_text", "Small green apples.")
    assert call(bins.inference, "--infer_expt_dir", f"hub:{MODEL}", *single) in (0, 1)
    assert list((tmp_path / "ann--tiny" / "result" / "single").glob("*.wav"))
    assert sorted(cached.rglob("*")) == before
    # The page and the API name it by its model, not by the commit.
    assert list(ExperimentList(tmp_path / "none", first=cached).find()) == ["ann--tiny"]


def test_nothing_private_is_pushed(own: Trained, synthesizer: Synthesizer, hub: FakeHub) -> None:
    add_voice(own, synthesizer, "anna", **NOTES)
    add_metrics(own)
    checkpoint = own.checkpoint
    assert checkpoint.can_resume and (own.nar / "result").mkdir() is None
    (own.nar / "result" / "speech.wav").touch()
    meta = json.loads((checkpoint.path / "meta.json").read_text())
    (checkpoint.path / "meta.json").write_text(json.dumps({**meta, "host": str(own.folder)}))
    assert push(own) == 0
    _, files = hub.models[MODEL][-1]
    endings = {Path(name).suffix for name in files}
    assert not any(name.startswith(("log/", "result/", "evaluation/", "voices/")) for name in files)
    assert endings <= {".md", ".json", ".dict", ".safetensors", ""}
    trained_in = json.loads((own.nar / "args.json").read_text())["log_dir"]
    for secret in (trained_in, str(own.folder), str(Path.home()) + "/", "private", "secret"):
        assert not any(secret.encode() in data for data in files.values()), secret


def test_a_local_path_or_a_secret_in_any_other_setting_stops_the_push(
    own: Trained, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, others = synthesis.share._remove_local_paths, {}

    def set_others(content: dict, has_codec: bool) -> None:
        known(content, has_codec)
        content["dataset_path"] = dict(others)

    # As a setting would be that the rules do not know yet.
    monkeypatch.setattr("synthesis.share._remove_local_paths", set_others)
    for value in (
        "/home/ann/x",
        " ~/x",
        "../x",
        "C:\\x",
        "\\\\server\\share",
        "file:///x",
        "FILE:/x",
        "cat /home/ann/x",
    ):
        others["custom"] = value
        with pytest.raises(UserError, match=r"dataset_path\.custom: the local path .* is not shared"):
            push(own)
    for value in ("https://ann:secret@host/x", "s3://bucket/x?sig=secret", "https://host/x#token=secret"):
        others["custom"] = value
        with pytest.raises(UserError, match=r"dataset_path\.custom: a URL with .* is not shared") as raised:
            push(own)
        assert "secret" not in str(raised.value)
    assert hub.models == {}
    for value in ("data/custom", "facebook/encodec_24khz", "https://host/x.zip", "a/b or c"):
        others["custom"] = value
        assert push(own) == 0


def test_voices_are_pushed_only_by_name_and_with_consent_and_licence(
    own: Trained, synthesizer: Synthesizer, hub: FakeHub
) -> None:
    add_voice(own, synthesizer, "anna", **NOTES)
    add_voice(own, synthesizer, "nobody")
    add_voice(own, synthesizer, "unlicensed", consent="Yes.")
    for name, expected in (
        ("nobody", "nobody has no note of consent"),
        ("unlicensed", "unlicensed has no note of licence"),
        ("absent", "absent.safetensors is missing"),
        ("../anna", "no name for a voice"),
    ):
        with pytest.raises(UserError, match=expected):
            push(own, "--voice", name)
        assert hub.models == {}
    assert push(own, "--voice", "anna") == 0
    assert "voices/anna.safetensors" in hub.models[MODEL][-1][1]
    # A voice that is not named any more goes.
    assert push(own) == 0
    assert not any(name.startswith("voices/") for name in hub.models[MODEL][-1][1])


def test_what_a_model_does_not_have_any_more_goes_and_files_of_others_stay(
    own: Trained, hub: FakeHub, tmp_path: Path
) -> None:
    lexicon = tmp_path / "lexicon.tsv"
    lexicon.write_text("vallet\tv a l\n")
    assert push(own, "--set", f"preprocess.lexicon={lexicon}") == 0
    _, files = hub.models[MODEL][-1]
    assert files["lexicon.tsv"] == lexicon.read_bytes()
    codecs = [codec_class(name).file_name for name in CODECS]
    old = (*codecs, *(f"{name}/model.safetensors" for name in codecs), "attention_heads.json", "checkpoint/old/x.json")
    others = dict.fromkeys(("picture.png", "LICENSE", "notes/args.json", "notes/lexicon.tsv"), b"kept")
    hub.commit(MODEL, {**dict.fromkeys(old, b"old"), **files, **others})
    assert push(own) == 0
    assert hub.models[MODEL][-1][1].keys() == files.keys() - {"lexicon.tsv"} | others.keys()


def test_a_card_of_measured_metrics_is_valid(own: Trained, hub: FakeHub, tmp_path: Path) -> None:
    path = add_metrics(own)
    assert push(own, "--data", "Noise {of} ours.") == 0
    card_file = tmp_path / "README.md"
    card_file.write_bytes(hub.models[MODEL][-1][1]["README.md"])
    card = ModelCard.load(card_file)
    assert card.data.license == "cc-by-4.0" and card.data.language == ["en"]
    assert card.data.pipeline_tag == "text-to-speech" and card.data.library_name == "vallet"
    metrics = json.loads(path.read_text())["systems"]
    for system, row in ((GROUND_TRUTH, GROUND_TRUTH), ("nar", "this model")):
        wer, sim = (metrics[system]["metrics"][key] for key in ("wer", "sim_o"))
        cells = "{:.2f} ({:.2f} to {:.2f})".format(*(100 * wer[key] for key in ("mean", "low", "high")))
        cells += " | {:.3f} ({:.3f} to {:.3f})".format(*(sim[key] for key in ("mean", "low", "high")))
        assert f"| {row} | {cells} |" in card.text
    assert wer["low"] < wer["mean"] < wer["high"]
    assert "| WER % | SIM-o |" in card.text and "whisper\\|base (faster-whisper, 1.2)" in card.text
    for part in ("3 utterances measured; 0 texts failed", "Noise {of} ours.", f'vallet.load("hub:{MODEL}")', "custom"):
        assert part in card.text


def test_a_card_has_the_figures_of_stage_4(
    own: Trained, synthesizer: Synthesizer, hub: FakeHub, tmp_path: Path
) -> None:
    add_voice(own, synthesizer, "anna", **NOTES)
    test_list, pairs = tmp_path / "list.txt", [own.prompt(index) for index in range(4)]
    lines = [f"{text}|{said}|{clip}|{target}\n" for (clip, said), (target, text) in pairwise(pairs)]
    test_list.write_text("".join(lines))
    given = ("--infer_expt_dir", str(own.nar), "--test_list_file", str(test_list), "--asr", "none")
    assert call(bins.evaluate, *given, *sets(ROOMY)) in (0, 1)
    assert push(own, "--voice", "anna") == 0
    card_file = tmp_path / "README.md"
    card_file.write_bytes(hub.models[MODEL][-1][1]["README.md"])
    card = ModelCard.load(card_file)
    metrics = json.loads((own.nar / "evaluation" / "metrics.json").read_text())["systems"]
    assert "mcd_db" in metrics["nar"]["metrics"] and metrics["nar"]["checkpoint"] == own.checkpoint.path.name
    assert metrics[GROUND_TRUTH]["checkpoint"] is None
    for system, row in ((GROUND_TRUTH, GROUND_TRUTH), ("nar", "this model")):
        [line] = [line for line in card.text.splitlines() if line.startswith(f"| {row} |")]
        mcd = metrics[system]["metrics"].get("mcd_db")
        shown = "-" if mcd is None else f"{mcd['mean']:.2f} ({mcd['low']:.2f} to {mcd['high']:.2f})"
        assert shown in line.split(" | "), line
    assert "| anna | en" in card.text and card.data.license == "cc-by-4.0"


def test_a_card_has_the_figures_of_the_pushed_checkpoint_alone(
    own: Trained, hub: FakeHub, capfd: pytest.CaptureFixture
) -> None:
    metrics, newest = add_metrics(own), own.checkpoint.path
    old = newest.with_name("epoch-0000_step-0000001_loss-9.000000")
    shutil.copytree(newest, old)
    given = ("push", MODEL, "--infer_expt_dir", str(old), "--licence", "mit")
    expected = f"metrics.json: has figures of {newest.name}, not of {old.name}; measure that with stage 4"
    with pytest.raises(UserError, match=re.escape(expected)) as raised:
        call(bins.share, *given)
    assert "\n" not in str(raised.value) and hub.models == {}
    content = json.loads(metrics.read_text())
    # Audio of stage 3 in a folder of that name may be of any checkpoint.
    audio = {**content["systems"]["nar"], "checkpoint": None}
    metrics.write_text(json.dumps({**content, "systems": {**content["systems"], "nar 2": audio}}))
    with pytest.raises(UserError, match=re.escape(expected)):
        call(bins.share, *given)
    # Stage 4 has measured both.
    row = json.loads(json.dumps(content["systems"]["nar"]).replace(newest.name, old.name))
    row["metrics"]["wer"] = {"mean": 0.77, "low": 0.77, "high": 0.77}
    metrics.write_text(json.dumps({**content, "systems": {**content["systems"], "nar 2": row}}))
    assert call(bins.share, *given) == 0
    assert "| this model | 77.00" in hub.models[MODEL][-1][1]["README.md"].decode()
    assert push(own) == 0
    assert "77.00" not in hub.models[MODEL][-1][1]["README.md"].decode()
    # An older release did not record it: the time of the file counts.
    for system in content["systems"].values():
        del system["checkpoint"]
    metrics.write_text(json.dumps(content))
    for age_seconds, is_older in ((-60, False), (60, True)):
        changed = own.checkpoint.weights.stat().st_mtime - age_seconds
        os.utime(metrics, (changed, changed))
        capfd.readouterr()
        assert push(own) == 0
        assert ("is older than the checkpoint" in capfd.readouterr().err) == is_older


def test_a_card_without_metrics_says_so_and_wrong_ones_are_refused(own: Trained, hub: FakeHub, tmp_path: Path) -> None:
    assert push(own) == 0
    assert "Not measured." in hub.models[MODEL][-1][1]["README.md"].decode()
    path = add_metrics(own, "another")
    with pytest.raises(UserError, match=r"metrics\.json: has no system nar, but ground truth, another"):
        push(own)
    for content in ("{", "[]", '{"systems": {"nar": {}}, "recognizer": null}', '{"systems": 3, "recognizer": null}'):
        path.write_text(content)
        with pytest.raises(UserError, match=r"metrics\.json: is no metrics\.json of stage 4"):
            push(own)
    with pytest.raises(UserError, match="--metrics: no such file"):
        push(own, "--metrics", str(tmp_path / "absent.json"))
    assert len(hub.models[MODEL]) == 2


def test_an_old_revision_is_still_there(own: Trained, hub: FakeHub) -> None:
    assert push(own, "--data", "The first.") == 0
    oid, files = hub.models[MODEL][-1]
    assert push(own, "--data", "The second.") == 0
    assert (find_experiment(f"hub:{MODEL}@{oid}", "") / "README.md").read_bytes() == files["README.md"]
    assert "The second." in (find_experiment(f"hub:{MODEL}", "") / "README.md").read_text()


def test_code_and_training_states_are_not_downloaded(own: Trained, hub: FakeHub) -> None:
    assert push(own) == 0
    _, files = hub.models[MODEL][-1]
    others = ("setup.py", "log/a.json", f"checkpoint/{own.checkpoint.path.name}/training_state.pt", "x/optimizer.bin")
    hub.commit(MODEL, {**files, **dict.fromkeys(others, b"no")})
    folder = find_experiment(f"hub:{MODEL}", "")
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == set(files) - {".gitattributes"}


def test_what_is_not_on_the_hub_is_one_line(own: Trained, hub: FakeHub) -> None:
    assert push(own) == 0
    for location, expected in (
        ("hub:ann/absent", "has no such model; check the name, or log in if it is private"),
        (f"hub:{MODEL}@absent", "the model has no revision absent; leave @absent out"),
        ("hub:tiny", "is no model of the hub; write user/model"),
        ("hub:ann/tiny/more", "is no model of the hub"),
        ("hub:ann/tiny@", "is no model of the hub"),
    ):
        with pytest.raises(UserError, match=expected) as raised:
            find_experiment(location, "--infer_expt_dir")
        assert str(raised.value).startswith("--infer_expt_dir: ") and "\n" not in str(raised.value)
    with pytest.raises(UserError, match="lie on the hub, and are not removed here"):
        call(bins.voices, "remove", "anna", "--infer_expt_dir", f"hub:{MODEL}")


def test_without_a_network_the_cache_counts(own: Trained, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert push(own) == 0
    cached = find_experiment(f"hub:{MODEL}", "")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        point_to(f"http://127.0.0.1:{closed.getsockname()[1]}", monkeypatch)
        assert find_experiment(f"hub:{MODEL}", "") == cached
        shutil.rmtree(constants.HF_HUB_CACHE)
        with pytest.raises(UserError, match=f"--flag: hub:{MODEL}: .* cannot be reached, and .* has no whole copy"):
            find_experiment(f"hub:{MODEL}", "--flag")


def test_a_part_of_a_model_is_not_taken_for_the_whole(
    own: Trained, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert push(own) == 0
    cached = find_experiment(f"hub:{MODEL}", "")
    weights = next(cached.rglob("model.safetensors"))
    weights.unlink()
    with monkeypatch.context() as offline:
        offline.setattr(constants, "HF_HUB_OFFLINE", True)
        # Newer releases of the library keep a list of the files, and older ones do not, as in the second cache.
        other = shutil.copytree(
            cached.parent.parent, cached.parent.parent.with_name("models--bob--tiny"), symlinks=True
        )
        shutil.rmtree(other / "trees", ignore_errors=True)
        for model, expected in ((MODEL, "no whole c"), ("bob/tiny", "no whole checkpoint: connect to the network")):
            with pytest.raises(UserError, match=f"^--flag: hub:{model}: .* has {expected}") as raised:
                find_experiment(f"hub:{model}", "--flag")
            assert "\n" not in str(raised.value)
    assert find_experiment(f"hub:{MODEL}", "--flag") == cached and weights.is_file()


def test_models_of_one_name_do_not_share_results(own: Trained, hub: FakeHub, tmp_path: Path) -> None:
    assert push(own) == 0
    hub.models["bob/tiny"] = []
    hub.commit("bob/tiny", hub.models[MODEL][-1][1])
    ann, bob = (find_experiment(f"hub:{user}/tiny", "") for user in ("ann", "bob"))
    assert [output_folder(folder) for folder in (ann, bob)] == [Path.cwd() / "ann--tiny", Path.cwd() / "bob--tiny"]
    assert list(ExperimentList(tmp_path / "none", first=ann, last=bob).find()) == ["ann--tiny", "bob--tiny"]


def test_requests_do_not_tell_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    assert "torch/" in build_hf_headers()["user-agent"]
    quiet_hub()
    assert "torch/" not in build_hf_headers()["user-agent"]


def test_a_push_without_the_right_to_write_or_to_a_public_model_is_refused(
    own: Trained, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert push(own, "--private") == 0 and hub.private == {MODEL}
    assert push(own, "--private") == 0
    hub.private.clear()
    num_commits = len(hub.models[MODEL])
    with pytest.raises(UserError, match=f"{MODEL} is public already"):
        push(own, "--private")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UserError, match="you may not write to it; log in"):
        push(own, "--data", "Changed.")
    assert len(hub.models[MODEL]) == num_commits


def test_pull_replaces_no_folder(own: Trained, hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="there is there already; choose another folder"):
        call(bins.share, "pull", MODEL, "--output_dir", str(tmp_path / "there"))
    assert list((tmp_path / "there").iterdir()) == [] and hub.requests == []


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["push", MODEL, "--licence", "mit"], "--infer_expt_dir: needed with push"),
        (["push", MODEL, "--infer_expt_dir", "x"], "--licence: needed with push"),
        (["push", MODEL, "--infer_expt_dir", "x", "--licence", "My own"], "--licence: takes the hub's name"),
        (["push", MODEL, "--infer_expt_dir", "x", "--licence", "mit", "--output_dir", "y"], "--output_dir is for pull"),
        (["pull", MODEL, "--licence", "mit"], "--licence is for push"),
        (["pull", MODEL, "--set", "infer.seed=1"], "--set is for push"),
        (["pull", MODEL, "--private"], "--private is for push"),
    ],
)
def test_flags_that_do_not_fit_are_one_line(flags: list[str], expected: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        bins.share.main(flags)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and expected in error and error.count("\n") == 1
