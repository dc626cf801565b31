"""MelRVQ, the built-in codec: encodes by residual k-means on log-mel frames, decodes by Griffin-Lim.

It needs no download and is fitted in seconds: for machines without EnCodec's weights and for tests. Its sound is well
below EnCodec's, as phases are not coded.
"""

import hashlib
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from config.schema import MelRVQSettings, PreprocessSettings
from processors.codecs.base import Codec, pad_to_hops
from processors.codecs.mel_analysis import MelAnalysis
from utils.config import resolve_path
from utils.errors import UserError
from utils.files import atomic_write
from utils.log import log, progress_bar

CODEBOOK_SIZE = 1024
FORMAT = "vallet-mel-rvq-3"
# A codebook with nearly as many entries as frames would leave no residual to the next one.
MIN_FRAMES_PER_CODE = 16
# Initial centroids are frames moved towards their mean, to this share of the distance. Unmoved, many centroids would
# keep a single outlier each.
FIRST_SPREAD = 0.25
CHUNK_FRAMES = 1024


class MelRVQ(Codec):
    """Codebooks fitted on a corpus; a code frame is one mel frame."""

    file_name = "mel_rvq.safetensors"
    is_fitted = True
    codebook_size = CODEBOOK_SIZE

    def __init__(self, codebooks: Tensor, gains: Tensor, settings: MelRVQSettings, sample_rate_hz: int) -> None:
        """Built by `fit` or `load`, from codebooks (Q, codebook_size, num_mels) and gains (Q,).

        Gain q - 1 scales the magnitudes of the first q codebooks to the level of the audio. Raises UserError if a frame
        is not a whole number of samples, ValueError if the shapes do not fit the settings.
        """
        self.settings = settings
        self.sample_rate_hz = sample_rate_hz
        self.num_codebooks = settings.num_codebooks
        self.hop_samples = _hop(settings, sample_rate_hz)
        self.analysis = MelAnalysis(sample_rate_hz, self.hop_samples, settings.num_mels)
        shape = (self.num_codebooks, CODEBOOK_SIZE, settings.num_mels)
        if codebooks.shape != shape or gains.shape != shape[:1]:
            raise ValueError(f"codebooks are {tuple(codebooks.shape)}, not {shape} as in the settings")
        self.codebooks, self.gains = codebooks, gains
        self.device = codebooks.device
        self.analysis.to(self.device)

    @classmethod
    def open(cls, settings: PreprocessSettings, own_file: Path | None, root: Path) -> "MelRVQ":
        if own_file is None:
            raise UserError("preprocess.acoustic_token_extractor: MelRVQ has no fitted codebooks yet; run stage 1")
        codec = cls.load(own_file)
        for key in ("frame_rate_hz", "num_mels", "num_codebooks"):
            wanted, fitted = getattr(settings.mel_rvq, key), getattr(codec.settings, key)
            if wanted != fitted:
                raise UserError(
                    f"preprocess.mel_rvq.{key}: set to {wanted:g}, but {own_file} was fitted with {fitted:g}; "
                    "set it back, or run stage 1 into another preprocess.processed_dir"
                )
        codec.settings = settings.mel_rvq
        return codec

    @classmethod
    def fit_to(
        cls, path: Path, settings: PreprocessSettings, root: Path, audio: Callable[[], Iterable[Tensor]]
    ) -> None:
        if settings.codec_checkpoint is not None:
            cls.load(resolve_path(settings.codec_checkpoint, root)).save(path)
        elif not cls._fits(path, settings):
            log.info("fitting the codebooks of MelRVQ: %s", path)
            cls.fit(audio(), settings.mel_rvq, settings.sample_rate).save(path)

    @classmethod
    def _fits(cls, path: Path, settings: PreprocessSettings) -> bool:
        """Whether a file holds codebooks of this version that were fitted with these settings."""
        if not path.is_file():
            return False
        try:
            fitted = cls.load(path)
        except UserError:
            return False
        # The iterations of decoding do not matter to the fit.
        wanted = settings.mel_rvq.model_copy(update={"griffin_lim_iterations": fitted.settings.griffin_lim_iterations})
        return fitted.settings == wanted and fitted.sample_rate_hz == settings.sample_rate

    @classmethod
    @torch.no_grad()
    def fit(cls, waveforms: Iterable[Tensor], settings: MelRVQSettings, sample_rate_hz: int) -> "MelRVQ":
        """Fit the codebooks on (N,) float32 waveforms at `sample_rate_hz`, which are iterated over once.

        At most `settings.fit_frames` frames are used, evenly spread over all. Raises UserError if there is no frame, or
        a frame is not a whole number of samples.
        """
        hop = _hop(settings, sample_rate_hz)
        analysis = MelAnalysis(sample_rate_hz, hop, settings.num_mels)
        kept: list[Tensor] = []
        seen, step = 0, 1
        for waveform in waveforms:
            if not len(waveform):
                continue
            lens = torch.tensor([len(waveform)])
            frames = analysis.log_mel(pad_to_hops(waveform[None].cpu(), lens, hop)[0][0])
            kept.append(frames[-seen % step :: step].clone())
            seen += len(frames)
            # Keeps memory bounded: every `step`-th frame is kept, and `step` doubles when there are too many.
            while seen // step > 2 * settings.fit_frames:
                kept, step = [torch.cat(kept)[::2].clone()], 2 * step
        if not seen:
            raise UserError("preprocess.acoustic_token_extractor: MelRVQ has no audio to fit its codebooks on")
        # Up to twice as many frames as wanted are left: thin them out evenly.
        frames = torch.cat(kept)
        num_frames = min(len(frames), settings.fit_frames)
        frames = frames[torch.arange(num_frames) * len(frames) // num_frames]
        fitted = _residual_kmeans(frames, settings.num_codebooks, settings.fit_iterations)
        return cls(*fitted, settings, sample_rate_hz)

    def save(self, path: Path) -> None:
        """Write a safetensors file with the settings in its header, atomically."""
        header = {
            "format": FORMAT,
            "sample_rate_hz": str(self.sample_rate_hz),
            "settings": self.settings.model_dump_json(),
        }
        tensors = {"codebooks": self.codebooks.cpu().contiguous(), "gains": self.gains.cpu()}
        with atomic_write(path) as temporary:
            save_file(tensors, temporary, metadata=header)

    @classmethod
    def load(cls, path: Path) -> "MelRVQ":
        """Read a file that `save` wrote. Raises UserError if it is missing, or is not one."""
        if not path.is_file():
            raise UserError(f"{path}: MelRVQ's codebooks are missing; run stage 1, which fits them")
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                if header.get("format") != FORMAT:
                    raise ValueError("another format")
                settings = MelRVQSettings.model_validate_json(header["settings"])
                tensors = file.get_tensor("codebooks"), file.get_tensor("gains")
                return cls(*tensors, settings, int(header["sample_rate_hz"]))
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise UserError(
                f"{path} does not hold codebooks of MelRVQ ({type(error).__name__}); run stage 1 again"
            ) from error

    def to(self, device: torch.device | str) -> "MelRVQ":
        self.device = torch.device(device)
        self.codebooks, self.gains = self.codebooks.to(self.device), self.gains.to(self.device)
        self.analysis.to(self.device)
        return self

    @property
    def vectors(self) -> Tensor:
        return self.codebooks

    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self.sample_rate_hz} {self.hop_samples} {self.settings.num_mels}".encode())
        digest.update(self.codebooks.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _encode(self, audio: Tensor, codes_lens: Tensor) -> Tensor:
        num_frames = audio.shape[1] // self.hop_samples
        if audio.numel() == 0:
            return torch.zeros(len(audio), num_frames, self.num_codebooks, dtype=torch.long, device=self.device)
        # Frames are independent of each other, so those of all rows are encoded together.
        residual = self.analysis.log_mel(audio).reshape(len(audio) * num_frames, -1)
        codes = []
        for codebook in self.codebooks:
            codes.append(_nearest(residual, codebook))
            residual = residual - codebook[codes[-1]]
        return torch.stack(codes, dim=-1).unflatten(0, (len(audio), num_frames))

    def _decode(self, codes: Tensor, codes_lens: Tensor) -> Tensor:
        return self._waveforms(self.sum_vectors(codes), codes_lens, num_codebooks=codes.shape[2])

    def _decode_vectors(self, vectors: Tensor, codes_lens: Tensor) -> Tensor:
        return self._waveforms(vectors, codes_lens, self.num_codebooks)

    def _waveforms(self, log_mel: Tensor, codes_lens: Tensor, num_codebooks: int) -> Tensor:
        """Log-mel frames (B, T, M), as far as so many codebooks give them, to (B, T * hop) audio."""
        audio = torch.zeros(len(log_mel), log_mel.shape[1] * self.hop_samples, device=self.device)
        for row, length in enumerate(codes_lens.tolist()):
            if length == 0:
                continue
            scaled = log_mel[row, :length] + self.gains[num_codebooks - 1].log()
            waveform = self.analysis.waveform(scaled, self.settings.griffin_lim_iterations)
            audio[row, : length * self.hop_samples] = waveform / waveform.abs().max().clamp(min=1.0)
        return audio


def _hop(settings: MelRVQSettings, sample_rate_hz: int) -> int:
    """Samples per code frame."""
    hop = round(sample_rate_hz / settings.frame_rate_hz)
    if hop < 1 or not math.isclose(hop * settings.frame_rate_hz, sample_rate_hz, rel_tol=1e-9):
        raise UserError(
            f"preprocess.mel_rvq.frame_rate_hz: {settings.frame_rate_hz:g} does not divide preprocess.sample_rate "
            f"{sample_rate_hz}; use {sample_rate_hz / max(hop, 1):g}"
        )
    return hop


def _nearest(frames: Tensor, codebook: Tensor) -> Tensor:
    """The index (T,) of the nearest of (K, W) entries for each of (T, W) frames, in chunks to bound memory."""
    half_norms, transposed = codebook.square().sum(1) / 2, codebook.T.contiguous()
    parts = [torch.addmm(half_norms, part, transposed, alpha=-1).argmin(1) for part in frames.split(CHUNK_FRAMES)]
    return torch.cat(parts)


def _residual_kmeans(frames: Tensor, num_codebooks: int, iterations: int) -> tuple[Tensor, Tensor]:
    """Fit (Q, codebook_size, W) codebooks and (Q,) gains to (T, W) frames; with few frames the entries repeat."""
    generator = torch.Generator().manual_seed(0)
    num_clusters = min(CODEBOOK_SIZE, math.ceil(len(frames) / MIN_FRAMES_PER_CODE))
    codebooks, gains, residual = [], [], frames
    energy = (2 * frames).exp().mean()
    with progress_bar(total=num_codebooks, desc="fitting MelRVQ", unit="codebook") as bar:
        for _ in range(num_codebooks):
            centroids = _kmeans(residual, num_clusters, iterations, generator)
            residual = residual - centroids[_nearest(residual, centroids)]
            codebooks.append(centroids[torch.arange(CODEBOOK_SIZE) % num_clusters])
            # A mean of logarithms is below the logarithm of the mean, so coarser reconstructions are quieter.
            gains.append((energy / (2 * (frames - residual)).exp().mean()).sqrt())
            bar.update()
    return torch.stack(codebooks), torch.stack(gains)


def _kmeans(frames: Tensor, num_clusters: int, iterations: int, generator: torch.Generator) -> Tensor:
    """k-means: (num_clusters, W) centroids of (T, W) frames, T at least num_clusters."""
    drawn = frames[torch.randperm(len(frames), generator=generator)[:num_clusters]]
    centroids = torch.lerp(frames.mean(0), drawn, FIRST_SPREAD)
    for i in range(iterations):
        # Half of the frames are enough for the first iterations.
        part = frames[::2] if i < iterations // 2 else frames
        nearest = _nearest(part, centroids)
        sizes = torch.bincount(nearest, minlength=num_clusters)
        sums = torch.zeros_like(centroids).index_add_(0, nearest, part)
        # Empty clusters restart at the frames that are farthest from their centroids.
        empty = torch.nonzero(sizes == 0)[:, 0]
        farthest = (part - centroids[nearest]).square().sum(1).topk(len(empty)).indices if len(empty) else empty
        centroids = sums / sizes.clamp(min=1)[:, None]
        centroids[empty] = part[farthest]
    return centroids
