"""Trains the learned codec: first encoder, codebooks and decoder together, then the decoder against a discriminator."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from config.codec_schema import CodecExperiment
from processors.codecs.speech_net import ConvNeXt, SpeechNet, frame_mask
from processors.codecs.speech_rvq import SpeechRVQ, save_net
from training.codec.clips import ClipBatch, TrainingClip, batches, collate
from training.codec.losses import Discriminators, MelDistance, adversarial_losses, discriminator_loss
from training.codec.quantizer import ResidualQuantizer
from utils.audio import read_audio
from utils.errors import UserError
from utils.files import atomic_write
from utils.log import log, progress_bar

STATE = "state.pt"
CLIP_NORM = 2.0


class PhoneRecognizer(nn.Module):
    """Recognizes phones in the entries of the first codebook, by connectionist temporal classification.

    Codes that tell phones apart are codes that can be predicted from a text.
    """

    def __init__(self, latent_dim: int, num_phones: int, width: int = 192) -> None:
        super().__init__()
        self.embed = nn.Linear(latent_dim, width)
        self.body = ConvNeXt(width, 2)
        self.head = nn.Linear(width, num_phones + 1)

    def forward(self, entries: Tensor, batch: ClipBatch) -> Tensor:
        """The loss per phone for entries (B, T, W)."""
        hidden = self.body(self.embed(entries), frame_mask(batch.codes_lens, entries.shape[1]))
        log_probabilities = self.head(hidden).log_softmax(-1).transpose(0, 1)
        return F.ctc_loss(
            log_probabilities, batch.phones, batch.codes_lens, batch.phone_lens, reduction="mean", zero_infinity=True
        )


class CodecModels(nn.Module):
    """Everything that is trained or kept between steps."""

    def __init__(self, experiment: CodecExperiment, num_phones: int) -> None:
        super().__init__()
        self.net = SpeechNet(experiment.codec)
        self.quantizer = ResidualQuantizer(self.net.codebooks)
        self.recognizer = PhoneRecognizer(experiment.codec.latent_dim, num_phones)
        self.discriminators = Discriminators()


@dataclass
class CodecTrainer:
    """Trains into `folder`, which keeps the state, TensorBoard's log and the codec's file."""

    experiment: CodecExperiment
    train_clips: list[TrainingClip]
    valid_clips: list[TrainingClip]
    folder: Path

    def __post_init__(self) -> None:
        settings = self.experiment.train
        torch.manual_seed(settings.random_seed)
        num_phones = max(max(clip.phones) for clip in [*self.train_clips, *self.valid_clips])
        self.models = CodecModels(self.experiment, num_phones)
        self.mel_distance = MelDistance(self.experiment.codec.sample_rate_hz)
        models = self.models
        coder = [*models.net.parameters(), *models.recognizer.parameters()]
        self.optimizer = torch.optim.AdamW(coder, settings.base_lr, (0.8, 0.99), weight_decay=1e-3)
        critic = models.discriminators.parameters()
        self.critic_optimizer = torch.optim.AdamW(critic, settings.base_lr, (0.8, 0.99), weight_decay=1e-3)
        self.step = 0

    def train(self) -> None:
        """Train up to the last step, from the folder's state if it has one."""
        settings = self.experiment.train
        self._load()
        writer = SummaryWriter(str(self.folder / "log"))
        source = batches(
            self.train_clips,
            settings,
            self.experiment.codec.sample_rate_hz,
            self.models.net.hop_samples,
            first_step=self.step,
        )
        sums: dict[str, float] = {}
        with progress_bar(total=settings.max_steps, desc="codec", unit="step", initial=self.step) as bar:
            for batch in source:
                for name, loss in self.train_step(batch).items():
                    sums[name] = sums.get(name, 0.0) + float(loss) / settings.log_interval
                self.step += 1
                bar.update()
                if self.step % settings.log_interval == 0:
                    bar.set_postfix({name: f"{mean:.3f}" for name, mean in sums.items()})
                    for name, mean in sums.items():
                        writer.add_scalar(f"train/{name}", mean, self.step)
                    sums = {}
                is_last = self.step == settings.max_steps
                if self.step % settings.valid_interval == 0 or is_last:
                    distances = self.validate()
                    shown = " ".join(f"{distance:.3f}" for distance in distances)
                    log.info("step %d: mel distance of 1, 2, ... codebooks: %s", self.step, shown)
                    for number, distance in enumerate(distances, start=1):
                        writer.add_scalar(f"valid/mel_{number}_codebooks", distance, self.step)
                if self.step % settings.save_interval == 0 or is_last:
                    self.save()
                if is_last:
                    break
        writer.close()

    def _is_from(self, step: int | None) -> bool:
        return step is not None and self.step >= step

    def train_step(self, batch: ClipBatch) -> dict[str, Tensor]:
        settings, models = self.experiment.train, self.models
        models.train()
        rate = learning_rate(self.step, settings.base_lr, settings.warmup_steps, settings.max_steps)
        for group in [*self.optimizer.param_groups, *self.critic_optimizer.param_groups]:
            group["lr"] = rate
        latents, losses = self._encode(batch)
        crops, targets, lens = self._crop(latents, batch)
        audio = models.net.decoder(crops, lens)
        losses["mel"] = self.mel_distance(audio, targets)
        weights = {"mel": settings.mel_weight, "commit": settings.commitment_weight, "phones": settings.phone_weight}
        if self._is_from(settings.adversarial_from):
            losses["critic"] = self._train_critic(audio.detach(), targets)
            # The decoder's loss must not leave gradients in the discriminators.
            models.discriminators.requires_grad_(False)
            real, fake = models.discriminators(targets), models.discriminators(audio)
            losses["adversarial"], losses["features"] = adversarial_losses(real, fake)
            models.discriminators.requires_grad_(True)
            weights |= {"adversarial": settings.adversarial_weight, "features": settings.feature_weight}
        loss = torch.stack([weights[name] * losses[name] for name in weights if name in losses]).sum()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.optimizer.param_groups[0]["params"], CLIP_NORM)
        self.optimizer.step()
        return {name: value.detach() for name, value in losses.items()}

    def _encode(self, batch: ClipBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Quantized latents (B, T, W), some rows of their first codebooks alone, and the losses of the encoder."""
        models, is_frozen = self.models, self._is_from(self.experiment.train.freeze_encoder_from)
        with torch.set_grad_enabled(not is_frozen):
            latents = models.net.encoder(batch.audio, batch.codes_lens)
        is_frame = frame_mask(batch.codes_lens, latents.shape[1]).bool().squeeze(2)
        if not self._is_from(self.experiment.train.quantize_from):
            return latents, {}
        if not models.quantizer.is_started:
            models.quantizer.start(latents[is_frame])
        models.quantizer.train(not is_frozen)
        sums, commitment, used = models.quantizer(latents[is_frame])
        first, quantized = torch.zeros_like(latents), torch.zeros_like(latents)
        first[is_frame] = sums[0]
        row, num_books = torch.nonzero(is_frame)[:, 0], self._draw_codebooks(len(latents))
        quantized[is_frame] = sums[num_books[row] - 1, torch.arange(len(row))]
        if is_frozen:
            return quantized, {}
        # The gradient passes the quantizer unchanged (arXiv 1711.00937, section 3.2).
        first, quantized = (latents + (entries - latents).detach() for entries in (first, quantized))
        losses = {"commit": commitment, "phones": models.recognizer(first, batch)}
        return quantized, losses | {f"used_{i}": used[i] for i in (0, len(used) - 1)}

    def _draw_codebooks(self, num_rows: int) -> Tensor:
        """How many codebooks each row is decoded from: all, or for a share of rows the first k of them.

        The probability of k is proportional to 1 / k: in generated speech the last codebooks are the least reliable.
        """
        most = self.experiment.codec.num_codebooks
        drawn = 1 + torch.multinomial(1 / torch.arange(1.0, most + 1), num_rows, replacement=True)
        return torch.where(torch.rand(num_rows) < self.experiment.train.dropout_share, drawn, most)

    def _crop(self, latents: Tensor, batch: ClipBatch) -> tuple[Tensor, Tensor, Tensor]:
        """A random part of each row: latents, audio, and the number of frames of each."""
        size, hop = min(self.experiment.train.crop_frames, latents.shape[1]), self.models.net.hop_samples
        starts = [int(torch.randint(max(1, int(num) - size + 1), ())) for num in batch.codes_lens]
        crops = torch.stack([row[start : start + size] for row, start in zip(latents, starts, strict=True)])
        parts = zip(batch.audio, starts, strict=True)
        targets = torch.stack([row[start * hop : (start + size) * hop] for row, start in parts])
        return crops, targets, batch.codes_lens.clamp(max=size)

    def _train_critic(self, audio: Tensor, targets: Tensor) -> Tensor:
        models = self.models
        loss = discriminator_loss(models.discriminators(targets), models.discriminators(audio))
        self.critic_optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(models.discriminators.parameters(), CLIP_NORM)
        self.critic_optimizer.step()
        return loss

    @torch.no_grad()
    def validate(self) -> list[float]:
        """The mel distance of held-out clips decoded from the first codebook, the first two, and so on."""
        models, codec = self.models.eval(), self.experiment.codec
        distances = torch.zeros(codec.num_codebooks)
        for clip in self.valid_clips:
            audio = read_audio(Path(clip.audio), codec.sample_rate_hz)
            batch = collate([(audio, clip.phones)], models.net.hop_samples)
            codes = models.net.quantize(models.net.encoder(batch.audio, batch.codes_lens))
            for number in range(1, codec.num_codebooks + 1):
                decoded = models.net.decoder(models.net.dequantize(codes[..., :number]), batch.codes_lens)
                distances[number - 1] += self.mel_distance(decoded, batch.audio)
        return (distances / len(self.valid_clips)).tolist()

    def save(self) -> None:
        """Write the state to go on from, and the codec's file."""
        state = {
            "step": self.step,
            "models": self.models.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "critic_optimizer": self.critic_optimizer.state_dict(),
            "random": torch.get_rng_state(),
        }
        with atomic_write(self.folder / STATE) as temporary:
            torch.save(state, temporary)
        save_net(self.models.net, self.experiment.codec, self.folder / SpeechRVQ.file_name)

    def _load(self) -> None:
        path = self.folder / STATE
        if not path.is_file():
            return
        state: dict[str, Any] = torch.load(path, weights_only=True)
        try:
            self.models.load_state_dict(state["models"])
        except RuntimeError as error:
            raise UserError(f"{path} is of a codec with other settings: choose another --name") from error
        self.optimizer.load_state_dict(state["optimizer"])
        self.critic_optimizer.load_state_dict(state["critic_optimizer"])
        torch.set_rng_state(state["random"])
        self.step = state["step"]
        log.info("resumed from step %d of %s", self.step, path)


def learning_rate(step: int, peak: float, warmup_steps: int, max_steps: int) -> float:
    """A linear warm-up, then a cosine to a tenth of the peak."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, max_steps - warmup_steps))
    return peak * (0.1 + 0.45 * (1 + math.cos(math.pi * progress)))
