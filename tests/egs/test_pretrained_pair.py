"""The pretrained pair in the repository: complete, small, and it speaks as its card says."""

import json
import re
from collections.abc import Iterator

import pytest
import torch
from safetensors import safe_open

import bins.preprocess
import vallet
from config.schema import Settings
from evaluation.recognizers import RATE_HZ, build_recognizer
from processors.codecs import build_codec, check_model
from processors.codecs.speech_rvq import SpeechRVQ
from utils.checkpoint import resolve_checkpoint
from utils.config import load_settings
from utils.errors import UserError
from utils.paths import PRETRAINED, ROOT

MOST_BYTES = 25_000_000


@pytest.fixture(scope="module")
def tts() -> Iterator[vallet.TTS]:
    with vallet.load() as tts:
        yield tts


def test_the_folder_is_small_and_has_no_state_of_a_training() -> None:
    files = [path for path in PRETRAINED.rglob("*") if path.is_file() and "recipe" not in path.parts]
    assert sum(path.stat().st_size for path in files) < MOST_BYTES
    checkpoint = resolve_checkpoint(PRETRAINED, "pretrained")
    assert {path.name for path in checkpoint.path.iterdir()} == {"meta.json", "model.safetensors"}
    with safe_open(checkpoint.weights, framework="pt") as weights:
        assert {weights.get_tensor(name).dtype for name in weights.keys()} == {torch.bfloat16}  # noqa: SIM118
    heads = json.loads((PRETRAINED / "attention_heads.json").read_text())
    assert heads["checkpoint"] == checkpoint.path.name and heads["heads"]


def test_its_codec_has_more_codebooks_than_the_pair_uses() -> None:
    codec = SpeechRVQ.load(PRETRAINED / SpeechRVQ.file_name)
    args = json.loads((PRETRAINED / "args.json").read_text())
    assert codec.num_codebooks == 4 and args["preprocess"]["speech_rvq"]["num_codebooks"] == 2
    meta = json.loads((resolve_checkpoint(PRETRAINED, "pretrained").path / "meta.json").read_text())
    assert SpeechRVQ.load(PRETRAINED / SpeechRVQ.file_name, 2).fingerprint() == meta["codec"]


def test_its_codec_starts_by_the_settings_of_the_manual(capsys: pytest.CaptureFixture[str]) -> None:
    changes = ("preprocess.acoustic_token_extractor=SpeechRVQ", "preprocess.sample_rate=16000")
    clip = ROOT / "egs" / "tts" / "VALLE" / "prompt_examples" / "101_3101_000002_000000.wav"
    flags = [flag for change in changes for flag in ("--set", change)]
    assert bins.preprocess.main([*flags, "--check_codec", str(clip)]) == 0
    assert "4 codebooks of 1024, 2.00 kbit/s" in capsys.readouterr().out

    # A model must have as many codebooks as the file. The documents say how many that is.
    config = ROOT / "config" / "valle.json"
    no_corpus = ('dataset=["custom"]', "dataset_path.custom=.")
    settings = load_settings(config, Settings, [*changes, *no_corpus], root=ROOT)
    codec = build_codec(settings.preprocess, None, ROOT, torch.device("cpu"))
    assert codec.num_codebooks == 4
    with pytest.raises(UserError, match=r"model\.num_quantizers and .* must be the codec's, 4 and 1024"):
        check_model(codec, settings.model)
    check_model(codec, settings.model.model_copy(update={"num_quantizers": 4}))
    for document in ("README.md", "egs/tts/VALLE/README.md"):
        [row] = [
            line for line in (ROOT / document).read_text().splitlines() if re.match(r"\|.*SpeechRVQ.* 16 kHz", line)
        ]
        assert "| 50 | 4 of 1024 | 2 | 50 |" in row


def test_the_documents_send_readers_to_its_limits() -> None:
    manual = (ROOT / "egs/tts/VALLE/README.md").read_text()
    first_screen = (ROOT / "README.md").read_text().split("\n## ")[0]
    for text, link in (
        (first_screen, "(egs/tts/VALLE/pretrained/README.md#limits)"),
        (manual.split("\n## Voices\n")[1].split("\n## ")[0], "(pretrained/README.md#limits)"),
    ):
        [paragraph] = [paragraph for paragraph in text.split("\n\n") if link in paragraph]
        assert "is not understood with prompts of real voices" in " ".join(paragraph.split())
    assert "\n## Limits\n" in (PRETRAINED / "README.md").read_text()


def test_it_reads_numbers_as_words_and_finds_them(tts: vallet.TTS) -> None:
    as_digits = tts.say("The ticket costs $5, and the train leaves at 9:30.")
    as_words = tts.say("The ticket costs five dollars, and the train leaves at nine thirty.")
    assert as_digits.error is None and torch.equal(as_digits.audio, as_words.audio)
    assert [word["word"] for word in as_digits.words][3] == "$5,"
    # A second has some three words. Speech that is not that of the text is much shorter or longer.
    assert 2.5 < as_digits.seconds < 7


@pytest.mark.parametrize("voice", ["ada", "eve"])
def test_a_price_is_heard_as_words(tts: vallet.TTS, voice: str) -> None:
    pytest.importorskip("pocketsphinx")
    speech = tts.say("The ticket costs $5.", voice=voice)
    assert speech.sample_rate_hz == RATE_HZ
    words = build_recognizer("pocketsphinx", language="en-us").transcribe(speech.audio.numpy()).split()
    # The recognizer makes errors itself, and speech is not the same on each CPU.
    assert {"five", "dollar", "dollars"} & set(words), words


def test_every_voice_of_its_own_speaks(tts: vallet.TTS) -> None:
    own = {path.stem for path in (PRETRAINED / "voices").iterdir()}
    assert len(own) >= 4 and own <= set(tts.voices)
    for voice in sorted(own):
        speech = tts.say("Good morning. It is a fine day.", voice=voice)
        assert speech.error is None and 1 < speech.seconds < 5
