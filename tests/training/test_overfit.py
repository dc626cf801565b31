"""Two real utterances, learned by heart: whatever is wrong between data and speech shows here."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from config.schema import MelRVQSettings
from models.valle.collate import Collator, PrefixMode
from models.valle.valle import VALLE
from processors.codecs.mel_rvq import MelRVQ
from processors.frontends import build_phonemizer
from processors.manifest import Utterance, list_shards, write_shard
from processors.symbols import SymbolTable, join_phones
from processors.text import TextTokenizer
from synthesis.synthesizer import Request, Synthesizer
from tests.conftest import TEST_DATA, requires, tiny_infer, tiny_model, tiny_train
from tests.support.tiny_trainer import build_data, build_trainer
from utils.audio import read_audio

CORPUS = TEST_DATA / "speech" / "Kathleen"
PROMPT_SECONDS = 1.0
pytestmark = requires(CORPUS)


def short_clips(num: int) -> list[tuple[str, Path]]:
    """The shortest clips' texts and paths."""
    rows = [line.split("|") for line in (CORPUS / "metadata.csv").read_text(encoding="utf-8").splitlines()]
    clips = [(row[-1], CORPUS / "wavs" / f"{row[0]}.flac") for row in rows]
    return sorted(clips, key=lambda clip: clip[1].stat().st_size)[:num]


def join(first: Utterance, second: Utterance) -> Utterance:
    """Two utterances as one, as a prompt and its target are at inference."""
    phones = tuple(join_phones(first.phones, second.phones))
    return replace(first, id=second.id, phones=phones, codes=np.concatenate([first.codes, second.codes]))


def train(model: VALLE, stage: int, num_steps: int, shards: list[str], tokenizer: TextTokenizer) -> None:
    settings = tiny_train(
        max_tokens=2000,
        max_steps=num_steps,
        max_epoch=10**6,
        base_lr=1e-3,
        warmup_steps=30,
        total_training_steps=num_steps,
        save_checkpoint_stride=[10**6],
        save_checkpoint_steps=None,
    )
    torch.manual_seed(0)
    collator = Collator(8, PrefixMode.FIRST_FRAMES, 75, for_nar=stage == 2)
    data = build_data(shards, settings, collator, tokenizer=tokenizer)
    build_trainer(model, data, Path(shards[0]).parent).train()


def test_each_text_gives_its_own_utterance(tmp_path) -> None:
    clips = short_clips(3)
    audio = [read_audio(path, 24000) for _, path in clips]
    settings = MelRVQSettings(
        frame_rate_hz=25,
        num_mels=80,
        num_codebooks=8,
        fit_frames=2000,
        fit_iterations=3,
        griffin_lim_iterations=2,
    )
    codec = MelRVQ.fit(audio, settings, 24000)
    phonemizer = build_phonemizer("espeak", "en-us")
    prompt_audio = audio[0][: int(PROMPT_SECONDS * 24000)]

    def utterance(index: int, waveform: torch.Tensor) -> Utterance:
        codes, _ = codec.encode(waveform[None], torch.tensor([len(waveform)]))
        [phones] = phonemizer.phonemize([clips[index][0]])
        return Utterance(str(index), clips[index][0], tuple(phones), "speaker", codes[0].numpy().astype("int16"))

    prompt, first, second = (utterance(i, wave) for i, wave in enumerate([prompt_audio, *audio[1:]]))
    table = SymbolTable.from_phones({phone for u in (prompt, first, second) for phone in (*u.phones, "_")})
    tokenizer = TextTokenizer(lambda: phonemizer, table, add_blank=False)
    write_shard(tmp_path, 0, [join(prompt, first), join(prompt, second)], codec.frame_rate_hz)

    architecture = tiny_model(
        decoder_dim=128, nhead=4, num_decoder_layers=3, num_quantizers=8, audio_token_num=1024, text_token_num=128
    )
    model = VALLE(architecture, train_stage=0)
    for stage, num_steps in ((1, 300), (2, 900)):
        model.ar_trains, model.nar_trains = stage == 1, stage == 2
        train(model, stage, num_steps, list_shards(tmp_path), tokenizer)

    synthesizer = Synthesizer(model, codec, tokenizer, tiny_infer(top_k=1), torch.device("cpu"))
    requests = [Request(target.text, prompt.text, prompt_audio) for target in (first, second)]
    spoken = synthesizer.generate(synthesizer.tokenize(requests, continual=False))
    for target, found in zip((first, second), spoken, strict=True):
        wanted = torch.from_numpy(target.codes).long()
        assert len(found.codes) == len(wanted) and found.stop_reason == "eos"
        right = (found.codes == wanted).float().mean(0)
        assert right[0] >= 0.99
        assert right[1:].min() >= 0.95
    assert (first.codes[:10] != second.codes[:10]).mean() > 0.5
