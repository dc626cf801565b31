"""Training of the learned codec: resumed = uninterrupted, padded = alone, and what each phase may change."""

import json
from pathlib import Path

import pytest
import soundfile
import torch

from config.codec_schema import CodecExperiment
from processors.codecs.speech_net import nearest
from processors.codecs.speech_rvq import SpeechRVQ
from tests.conftest import ROOT
from training.codec.clips import TrainingClip, batches, collate, load_clips
from training.codec.losses import Discriminators, MelDistance, adversarial_losses, discriminator_loss
from training.codec.quantizer import ResidualQuantizer
from training.codec.trainer import CodecTrainer, learning_rate
from utils.config import load_settings
from utils.errors import UserError

RATE = 8000
CODEC = {
    "sample_rate_hz": RATE,
    "frame_rate_hz": 50,
    "num_mels": 20,
    "num_codebooks": 3,
    "codebook_size": 16,
    "latent_dim": 8,
    "encoder_dim": 16,
    "encoder_layers": 1,
    "decoder_dim": 16,
    "decoder_layers": 1,
    "decoder_fine_layers": 1,
}
TRAIN = {
    "batch_size": 3,
    "crop_frames": 12,
    "max_steps": 6,
    "warmup_steps": 2,
    "quantize_from": 2,
    "freeze_encoder_from": None,
    "adversarial_from": 3,
    "save_interval": 2,
    "valid_interval": 3,
    "valid_clips": 1,
    "log_interval": 2,
}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight clips of noise and tones, and one that is too long."""
    folder = tmp_path_factory.mktemp("clips")
    generator = torch.Generator().manual_seed(0)
    rows = []
    for i in range(9):
        num_samples = 60 * RATE if i == 8 else 5000 + 1700 * i
        tone = torch.sin(torch.arange(num_samples) * 0.05 * (i + 1)) * torch.hann_window(num_samples)
        audio = 0.2 * tone + 0.02 * torch.randn(num_samples, generator=generator)
        soundfile.write(folder / f"{i}.wav", audio.numpy(), RATE)
        rows.append({"audio": f"{i}.wav", "text": ["a bee", "the sea", "how are you"][i % 3], "speaker": "s"})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "metadata.jsonl"


def experiment_with(manifest: Path, **train: object) -> CodecExperiment:
    base = json.dumps({"codec": CODEC, "train": TRAIN | {"manifests": [str(manifest)], "weights": [1.0], **train}})
    path = manifest.with_name("codec.json")
    path.write_text(base)
    chain = {"base_config": "egs/tts/VALLE/pretrained/recipe/codec.json", **json.loads(base)}
    path.write_text(json.dumps(chain))
    return load_settings(path, CodecExperiment, root=ROOT)


@pytest.fixture(scope="module")
def clips(manifest: Path) -> list[TrainingClip]:
    return load_clips(experiment_with(manifest).train, ROOT, manifest.with_name("cache.json"))


def train(manifest: Path, clips: list[TrainingClip], folder: Path, **changes: object) -> CodecTrainer:
    trainer = CodecTrainer(experiment_with(manifest, **changes), clips[:-1], clips[-1:], folder)
    trainer.train()
    return trainer


def assert_equal(one: CodecTrainer, other: CodecTrainer) -> None:
    for name, value in one.models.state_dict().items():
        assert torch.equal(value, other.models.state_dict()[name]), name


def test_clips_have_the_phones_of_their_texts(manifest: Path, clips: list[TrainingClip]) -> None:
    assert len(clips) == 8  # Without the one that is too long.
    assert clips[0].phones == clips[3].phones != clips[1].phones
    assert all(min(clip.phones) >= 1 for clip in clips)
    cache = manifest.with_name("cache.json")
    before = cache.stat().st_mtime_ns
    assert load_clips(experiment_with(manifest).train, ROOT, cache) == clips
    assert cache.stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"train\.manifests: .*absent"):
        load_clips(experiment_with(manifest, manifests=["absent.jsonl"]).train, ROOT, cache)


@pytest.mark.parametrize(
    ("line", "message"), [("{", "no JSON object"), ('{"audio": "0.wav"}', "text"), ('{"text": "a bee"}', "audio")]
)
def test_an_unusable_row_is_one_clear_line(manifest: Path, tmp_path: Path, line: str, message: str) -> None:
    path = manifest.with_name("broken.jsonl")
    path.write_text(manifest.read_text() + line + "\n")
    with pytest.raises(UserError, match=message) as caught:
        load_clips(experiment_with(manifest, manifests=[str(path)]).train, ROOT, tmp_path / "cache.json")
    assert "\n" not in str(caught.value) and "broken.jsonl" in str(caught.value)


def test_batches_from_a_step_are_those_of_the_whole_run(manifest: Path, clips: list[TrainingClip]) -> None:
    settings = experiment_with(manifest).train
    whole = batches(clips, settings, RATE, 160, first_step=0)
    run = [next(whole) for _ in range(20)]
    for first in (1, 17):
        part = batches(clips, settings, RATE, 160, first_step=first)
        assert torch.equal(next(part).audio, run[first].audio)


@pytest.mark.parametrize("changes", [{}, {"freeze_encoder_from": 3}])
def test_a_resumed_training_equals_an_uninterrupted_one(
    manifest: Path, clips: list[TrainingClip], tmp_path: Path, changes: dict[str, object]
) -> None:
    whole = train(manifest, clips, tmp_path / "whole", **changes)
    partial = CodecTrainer(experiment_with(manifest, **changes), clips[:-1], clips[-1:], tmp_path / "parts")
    source = batches(clips[:-1], partial.experiment.train, RATE, 160, first_step=0)
    for _ in range(4):
        partial.train_step(next(source))
        partial.step += 1
    partial.save()
    resumed = train(manifest, clips, tmp_path / "parts", **changes)
    assert resumed.step == whole.step == 6
    assert_equal(whole, resumed)
    codec = SpeechRVQ.load(tmp_path / "parts" / SpeechRVQ.file_name)
    assert codec.num_codebooks == 3 and codec.sample_rate_hz == RATE


def test_a_state_of_other_settings_is_refused(manifest: Path, clips: list[TrainingClip], tmp_path: Path) -> None:
    train(manifest, clips, tmp_path, max_steps=2)
    experiment = experiment_with(manifest)
    wider = experiment.model_copy(update={"codec": experiment.codec.model_copy(update={"encoder_dim": 24})})
    with pytest.raises(UserError, match=r"state\.pt is of a codec with other settings"):
        CodecTrainer(wider, clips[:-1], clips[-1:], tmp_path).train()


def test_a_frozen_encoder_and_its_codebooks_do_not_change(
    manifest: Path, clips: list[TrainingClip], tmp_path: Path
) -> None:
    trainer = train(manifest, clips, tmp_path, max_steps=4)
    before = {name: value.clone() for name, value in trainer.models.state_dict().items()}
    later = train(manifest, clips, tmp_path, max_steps=8, freeze_encoder_from=4)
    changed = {name for name, value in later.models.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith(("net.decoder", "discriminators")) for name in changed)


def test_phases_begin_at_their_steps(manifest: Path, clips: list[TrainingClip], tmp_path: Path) -> None:
    trainer = CodecTrainer(experiment_with(manifest, freeze_encoder_from=4), clips[:-1], clips[-1:], tmp_path)
    source = batches(clips, trainer.experiment.train, RATE, 160, first_step=0)
    seen = []
    for trainer.step in range(5):
        seen.append(set(trainer.train_step(next(source))))
    quantized, adversarial = {"mel", "commit", "phones", "used_0", "used_2"}, {"critic", "adversarial", "features"}
    assert seen == [{"mel"}, {"mel"}, quantized, quantized | adversarial, {"mel"} | adversarial]


def test_codebooks_follow_their_latents() -> None:
    """Two clusters move, and the entries move with them; entries without a latent start again at one."""
    torch.manual_seed(0)
    quantizer = ResidualQuantizer(torch.zeros(2, 4, 2))
    latents = torch.cat([torch.randn(200, 2) * 0.1 + 3, torch.randn(200, 2) * 0.1 - 3])
    quantizer.start(latents)
    for _ in range(400):
        sums, _, used = quantizer(latents + 5)
    assert (sums[1] - latents - 5).square().mean() < (sums[0] - latents - 5).square().mean() < 0.02
    assert used[0] > 2
    quantizer.eval()
    before = quantizer.codebooks.clone()
    quantizer(latents)
    assert torch.equal(quantizer.codebooks, before)


def test_nearest_is_the_smallest_distance() -> None:
    latents, codebook = torch.randn(5, 7, 3), torch.randn(11, 3)
    distances = (latents[:, :, None] - codebook).square().sum(-1)
    assert torch.equal(nearest(latents, codebook), distances.argmin(-1))


def test_the_mel_distance_is_that_of_the_sound() -> None:
    distance, generator = MelDistance(16000), torch.Generator().manual_seed(0)
    audio = torch.randn(2, 16000, generator=generator) * 0.1
    assert distance(audio, audio) == 0
    louder, other = distance(audio * 1.1, audio), distance(torch.randn(2, 16000, generator=generator) * 0.3, audio)
    # Ten per cent in every band, except near the floor.
    assert 0.08 < louder < 0.1 < other
    reversed_phase = distance(-audio, audio)
    assert reversed_phase < 1e-4


def test_a_discriminator_learns_to_tell_noise_from_tones() -> None:
    torch.manual_seed(0)
    discriminators = Discriminators(width=4)
    optimizer = torch.optim.Adam(discriminators.parameters(), 3e-3)
    tones, noise = torch.sin(torch.arange(4000.0) * torch.tensor([[0.1], [0.2]])), torch.randn(2, 4000)
    losses = []
    for _ in range(30):
        loss = discriminator_loss(discriminators(tones), discriminators(noise))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    real, fake = discriminators(tones), discriminators(noise)
    fooled, not_fooled = adversarial_losses(real, real), adversarial_losses(real, fake)
    assert fooled[0] < not_fooled[0] and fooled[1] == 0 < not_fooled[1]


def test_the_learning_rate_warms_up_and_falls_to_a_tenth() -> None:
    rates = [learning_rate(step, 1.0, 10, 110) for step in range(120)]
    assert rates[9] == 1.0 and rates[0] == 0.1
    assert rates[110] == pytest.approx(0.1) == rates[119]
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_collated_rows_end_with_whole_frames() -> None:
    batch = collate([(torch.ones(161), (1, 2)), (torch.ones(100), (3,))], 160)
    assert batch.audio.shape == (2, 320) and batch.codes_lens.tolist() == [2, 1]
    assert batch.phones.tolist() == [1, 2, 3] and batch.phone_lens.tolist() == [2, 1]


def test_few_codebooks_are_drawn_more_often_than_many(
    manifest: Path, clips: list[TrainingClip], tmp_path: Path
) -> None:
    trainer = CodecTrainer(experiment_with(manifest, dropout_share=1.0), clips[1:], clips[:1], tmp_path)
    torch.manual_seed(0)
    shares = torch.bincount(trainer._draw_codebooks(6000), minlength=4) / 6000
    # 1 / k, normalized, for k from 1 to 3.
    torch.testing.assert_close(shares, torch.tensor([0, 6, 3, 2]) / 11, atol=0.03, rtol=0)
    trainer = CodecTrainer(experiment_with(manifest, dropout_share=0.0), clips[1:], clips[:1], tmp_path)
    assert trainer._draw_codebooks(20).tolist() == [3] * 20
