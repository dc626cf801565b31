"""MelRVQ, the embedded codec: residual k-means on log-mel frames one way, Griffin-Lim the other.

It needs no download and is fitted in seconds. It is for machines without EnCodec's weights, for demos and for tests; it
sounds like a vocoder from the spectrogram alone, well below EnCodec.
"""

import hashlib
import math
from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path

import torch
import torch.nn.functional as F
import torchaudio
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from config.schema import MelRVQSettings, PreprocessSettings
from processors.codecs.base import Codec, fill_whole_hops
from utils.config import resolve_path
from utils.errors import UserError
from utils.files import written_aside
from utils.log import log, progress_bar

CODEBOOK_SIZE = 1024
FORMAT = "vallet-mel-rvq-3"
MAX_PHASE_HOP_SECONDS = 1 / 75
MIN_WINDOW_SECONDS = 0.04
# Added to magnitudes before the logarithm: what lies below is not heard beside speech, and codebooks that tell apart
# how silent a silence is have less left for speech.
MEL_FLOOR = 2e-3
MOMENTUM = 0.99
INVERSION_UPDATES = 10
# A codebook with nearly as many entries as frames would leave no residual for the next.
MIN_FRAMES_PER_CODE = 16
# First centroids are frames drawn this near to their mean; at their full distance, most would keep one outlier each.
FIRST_SPREAD = 0.25
CHUNK_FRAMES = 1024


class MelAnalysis:
    """Log-mel frames of a waveform, natural logarithm of magnitudes above a floor, and a waveform from such frames.

    Frame i is centred on samples [i, i + 1) * `hop_samples`, with zeros around the waveform, so that N samples give
    N / `hop_samples` frames.
    """

    def __init__(self, sample_rate_hz: int, hop_samples: int, num_mels: int) -> None:
        self.hop_samples = hop_samples
        # Recovered phases need more overlap than the frames that are coded.
        self.phase_steps = _division(hop_samples, sample_rate_hz * MAX_PHASE_HOP_SECONDS)
        phase_hop = hop_samples // self.phase_steps
        # At least a frame's hop, so that every sample is in a frame.
        self.n_fft = phase_hop * max(math.ceil(sample_rate_hz * MIN_WINDOW_SECONDS / phase_hop), self.phase_steps)
        self.window = torch.hann_window(self.n_fft)
        self.filters = torchaudio.functional.melscale_fbanks(
            self.n_fft // 2 + 1, 0.0, sample_rate_hz / 2, num_mels, sample_rate_hz, norm="slaney", mel_scale="slaney"
        )
        self.inverse = torch.linalg.pinv(self.filters)

    def to(self, device: torch.device) -> None:
        self.window, self.filters, self.inverse = (x.to(device) for x in (self.window, self.filters, self.inverse))

    def log_mel(self, audio: torch.Tensor) -> torch.Tensor:
        """(..., N) audio, N a multiple of `hop_samples`, to (..., N / hop_samples, num_mels)."""
        return (self._mel(audio) + MEL_FLOOR).log()

    def _mel(self, audio: torch.Tensor) -> torch.Tensor:
        """(..., N) audio, N a multiple of `hop_samples`, to (..., N / hop_samples, num_mels) magnitudes."""
        left = (self.n_fft - self.hop_samples) // 2
        audio = F.pad(audio, (left, self.n_fft - self.hop_samples - left))
        return torch.fft.rfft(audio.unfold(-1, self.n_fft, self.hop_samples) * self.window).abs() @ self.filters

    def waveform(self, log_mel: torch.Tensor, iterations: int) -> torch.Tensor:
        """(M, num_mels) to (M * hop_samples,), by `iterations` of fast Griffin-Lim from zero phase."""
        mel = (log_mel.exp() - MEL_FLOOR).clamp(min=0)
        magnitude = self._magnitude(mel)
        if self.phase_steps > 1:
            magnitude = F.interpolate(magnitude.T[None], scale_factor=float(self.phase_steps), mode="linear")[0].T
        hop = self.hop_samples // self.phase_steps
        left, num_samples = (self.n_fft - hop) // 2, len(magnitude) * hop
        envelope = self._overlap_add(self.window.expand(len(magnitude), -1), hop).clamp(min=1e-3)
        spectrum = magnitude + 0j
        previous = torch.zeros_like(spectrum)
        for _ in range(iterations):
            audio = self._overlap_add(torch.fft.irfft(spectrum, self.n_fft), hop) / envelope
            audio[:left] = 0
            audio[left + num_samples :] = 0
            rebuilt = torch.fft.rfft(audio.unfold(0, self.n_fft, hop) * self.window)
            phase = previous.mul_(-MOMENTUM / (1 + MOMENTUM)).add_(rebuilt)
            norm = (phase.real.square() + phase.imag.square()).add_(1e-20).rsqrt_()
            spectrum, previous = phase * norm.mul_(magnitude), rebuilt
        audio = self._overlap_add(torch.fft.irfft(spectrum, self.n_fft), hop) / envelope
        audio = audio[left : left + num_samples]
        return audio * (mel.norm() / self._mel(audio).norm().clamp(min=1e-6))

    def _magnitude(self, mel: torch.Tensor) -> torch.Tensor:
        """(M, num_mels) to the (M, n_fft / 2 + 1) that gives them best among the non-negative, nearly."""
        magnitude = (mel @ self.inverse).clamp(min=1e-8)
        target = mel @ self.filters.T
        for _ in range(INVERSION_UPDATES):
            magnitude = magnitude * target / (magnitude @ self.filters @ self.filters.T).clamp(min=1e-10)
        return magnitude

    def _overlap_add(self, frames: torch.Tensor, hop: int) -> torch.Tensor:
        """(M, n_fft), windowed here, to ((M - 1) * hop + n_fft,); n_fft is a multiple of the hop."""
        frames = frames * self.window
        overlap = self.n_fft // hop
        audio = frames.new_zeros(len(frames) + overlap - 1, hop)
        for i in range(overlap):
            audio[i : i + len(frames)] += frames[:, i * hop : (i + 1) * hop]
        return audio.flatten()


class MelRVQ(Codec):
    """Codebooks fitted on a corpus; a code frame is one mel frame."""

    file_name = "mel_rvq.safetensors"
    is_fitted = True
    codebook_size = CODEBOOK_SIZE

    def __init__(
        self, codebooks: torch.Tensor, gains: torch.Tensor, settings: MelRVQSettings, sample_rate_hz: int
    ) -> None:
        """Made by `fit` or `load`.

        Args:
            codebooks: (Q, codebook_size, num_mels).
            gains: (Q,) factors that bring the magnitudes from the first q codebooks back to the level of the audio.

        Raises:
            UserError: the frame rate is not a whole number of samples.
            ValueError: the tensors have other shapes than the settings say.
        """
        self.settings = settings
        self.sample_rate_hz = sample_rate_hz
        self.num_codebooks = settings.num_codebooks
        self.hop_samples = _hop(settings, sample_rate_hz)
        self.analysis = MelAnalysis(sample_rate_hz, self.hop_samples, settings.num_mels)
        shape = (self.num_codebooks, CODEBOOK_SIZE, settings.num_mels)
        if codebooks.shape != shape or gains.shape != shape[:1]:
            raise ValueError(f"codebooks are {tuple(codebooks.shape)} and the settings say {shape}")
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
                    f"preprocess.mel_rvq.{key}: {wanted:g} was asked for and {own_file} was fitted with {fitted:g}; "
                    "set it back, or run stage 1 into another preprocess.processed_dir"
                )
        codec.settings = settings.mel_rvq
        return codec

    @classmethod
    def fit_to(
        cls, path: Path, settings: PreprocessSettings, root: Path, audio: Callable[[], Iterable[torch.Tensor]]
    ) -> None:
        if settings.codec_checkpoint is not None:
            cls.load(resolve_path(settings.codec_checkpoint, root)).save(path)
        elif not cls._fits(path, settings):
            log.info("fitting the codebooks of MelRVQ: %s", path)
            cls.fit(audio(), settings.mel_rvq, settings.sample_rate).save(path)

    @classmethod
    def _fits(cls, path: Path, settings: PreprocessSettings) -> bool:
        """Whether a file holds codebooks that were fitted with these settings; one of another version does not."""
        if not path.is_file():
            return False
        try:
            fitted = cls.load(path)
        except UserError:
            return False
        # The iterations of decoding have no part in the fit.
        wanted = settings.mel_rvq.model_copy(update={"griffin_lim_iterations": fitted.settings.griffin_lim_iterations})
        return fitted.settings == wanted and fitted.sample_rate_hz == settings.sample_rate

    @classmethod
    @torch.no_grad()
    def fit(cls, waveforms: Iterable[torch.Tensor], settings: MelRVQSettings, sample_rate_hz: int) -> "MelRVQ":
        """Fit the codebooks on at most `settings.fit_frames` frames, evenly spread over all that are given.

        Args:
            waveforms: (N,) float32 each, at `sample_rate_hz`; read once, one at a time.

        Raises:
            UserError: there is not one frame, or the frame rate is not a whole number of samples.
        """
        hop = _hop(settings, sample_rate_hz)
        analysis = MelAnalysis(sample_rate_hz, hop, settings.num_mels)
        kept: list[torch.Tensor] = []
        seen, step = 0, 1
        for waveform in waveforms:
            if not len(waveform):
                continue
            lens = torch.tensor([len(waveform)])
            frames = analysis.log_mel(fill_whole_hops(waveform[None].cpu(), lens, hop)[0][0])
            kept.append(frames[-seen % step :: step].clone())
            seen += len(frames)
            # Kept are the frames whose number is a multiple of step.
            while seen // step > 2 * settings.fit_frames:
                kept, step = [torch.cat(kept)[::2].clone()], 2 * step
        if not seen:
            raise UserError("preprocess.acoustic_token_extractor: MelRVQ has no audio to fit its codebooks on")
        frames = torch.cat(kept)
        num_frames = min(len(frames), settings.fit_frames)
        frames = frames[torch.arange(num_frames) * len(frames) // num_frames]
        fitted = _residual_kmeans(frames, settings.num_codebooks, settings.fit_iterations)
        return cls(*fitted, settings, sample_rate_hz)

    def save(self, path: Path) -> None:
        """Write a safetensors file with the settings in its header; under its final name it is whole."""
        header = {
            "format": FORMAT,
            "sample_rate_hz": str(self.sample_rate_hz),
            "settings": self.settings.model_dump_json(),
        }
        tensors = {"codebooks": self.codebooks.cpu().contiguous(), "gains": self.gains.cpu()}
        with written_aside(path) as aside:
            save_file(tensors, aside, metadata=header)

    @classmethod
    def load(cls, path: Path) -> "MelRVQ":
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing or is not such a file.
        """
        if not path.is_file():
            raise UserError(f"{path}: MelRVQ's codebooks are not there; run stage 1, which fits them")
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

    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self.sample_rate_hz} {self.hop_samples} {self.settings.num_mels}".encode())
        digest.update(self.codebooks.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _encode(self, audio: torch.Tensor, codes_lens: torch.Tensor) -> torch.Tensor:
        num_frames = audio.shape[1] // self.hop_samples
        if audio.numel() == 0:
            return torch.zeros(len(audio), num_frames, self.num_codebooks, dtype=torch.long, device=self.device)
        # Frames know nothing of each other: those of all rows are coded together.
        residual = self.analysis.log_mel(audio).reshape(len(audio) * num_frames, -1)
        codes = []
        for codebook in self.codebooks:
            codes.append(_nearest(residual, codebook))
            residual = residual - codebook[codes[-1]]
        return torch.stack(codes, dim=-1).unflatten(0, (len(audio), num_frames))

    def _decode(self, codes: torch.Tensor, codes_lens: torch.Tensor) -> torch.Tensor:
        audio = torch.zeros(len(codes), codes.shape[1] * self.hop_samples, device=self.device)
        books = torch.arange(codes.shape[2], device=self.device)
        for row, length in enumerate(codes_lens.tolist()):
            if length == 0:
                continue
            log_mel = self.codebooks[books, codes[row, :length]].sum(1) + self.gains[len(books) - 1].log()
            waveform = self.analysis.waveform(log_mel, self.settings.griffin_lim_iterations)
            audio[row, : length * self.hop_samples] = waveform / waveform.abs().max().clamp(min=1.0)
        return audio


def _division(size: int, limit: float) -> int:
    """The smallest number of equal whole parts of `size` of at most `limit` each."""
    return next(parts for parts in count(1) if size % parts == 0 and (size <= limit * parts or parts == size))


def _hop(settings: MelRVQSettings, sample_rate_hz: int) -> int:
    """Samples per code frame."""
    hop = round(sample_rate_hz / settings.frame_rate_hz)
    if hop < 1 or not math.isclose(hop * settings.frame_rate_hz, sample_rate_hz, rel_tol=1e-9):
        raise UserError(
            f"preprocess.mel_rvq.frame_rate_hz: {settings.frame_rate_hz:g} does not divide preprocess.sample_rate "
            f"{sample_rate_hz}; take {sample_rate_hz / max(hop, 1):g}"
        )
    return hop


def _nearest(frames: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """(T, W) frames and (K, W) entries to the (T,) numbers of the nearest entries; memory does not grow with T * K."""
    half_norms, transposed = codebook.square().sum(1) / 2, codebook.T.contiguous()
    parts = [torch.addmm(half_norms, part, transposed, alpha=-1).argmin(1) for part in frames.split(CHUNK_FRAMES)]
    return torch.cat(parts)


def _residual_kmeans(frames: torch.Tensor, num_codebooks: int, iterations: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(T, W) frames to (Q, codebook_size, W) codebooks and (Q,) gains; with few frames the entries repeat."""
    generator = torch.Generator().manual_seed(0)
    num_clusters = min(CODEBOOK_SIZE, math.ceil(len(frames) / MIN_FRAMES_PER_CODE))
    codebooks, gains, residual = [], [], frames
    energy = (2 * frames).exp().mean()
    with progress_bar(total=num_codebooks, desc="fitting MelRVQ", unit="codebook") as bar:
        for _ in range(num_codebooks):
            centroids = _kmeans(residual, num_clusters, iterations, generator)
            residual = residual - centroids[_nearest(residual, centroids)]
            codebooks.append(centroids[torch.arange(CODEBOOK_SIZE) % num_clusters])
            # Averages of logarithms lie below the logarithm of the average: the coarser, the quieter.
            gains.append((energy / (2 * (frames - residual)).exp().mean()).sqrt())
            bar.update()
    return torch.stack(codebooks), torch.stack(gains)


def _kmeans(frames: torch.Tensor, num_clusters: int, iterations: int, generator: torch.Generator) -> torch.Tensor:
    """(num_clusters, W) centroids of (T, W) frames, T at least num_clusters."""
    drawn = frames[torch.randperm(len(frames), generator=generator)[:num_clusters]]
    centroids = torch.lerp(frames.mean(0), drawn, FIRST_SPREAD)
    for i in range(iterations):
        # Half of the frames are enough until the centroids are near their places.
        part = frames[::2] if i < iterations // 2 else frames
        nearest = _nearest(part, centroids)
        sizes = torch.bincount(nearest, minlength=num_clusters)
        sums = torch.zeros_like(centroids).index_add_(0, nearest, part)
        empty = torch.nonzero(sizes == 0)[:, 0]
        farthest = (part - centroids[nearest]).square().sum(1).topk(len(empty)).indices if len(empty) else empty
        centroids = sums / sizes.clamp(min=1)[:, None]
        centroids[empty] = part[farthest]
    return centroids
