"""Samples of a training: a validation utterance that is synthesized, its spectrogram and the attention."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from models.contract import TokenizedRequest
from processors.manifest import Utterance
from synthesis.synthesizer import Synthesizer
from utils.errors import first_line
from utils.log import log
from utils.spectrogram import spectrogram

_PICTURE_MELS, _PICTURE_COLUMNS_PER_SECOND = 80, 100
# Some 17 s at 75 frames a second: with 16 heads in fp32 a layer's attention weights then take 144 MB.
PICTURE_POSITIONS = 1500


class SampleLogger:
    """Synthesizes a validation utterance, and writes audio and pictures to the trackers.

    The prompt is another validation utterance of the speaker, or the utterance itself where there is no other.
    """

    def __init__(self, synthesizer: Synthesizer, utterances: Sequence[Utterance], writer: Any) -> None:
        self.synthesizer = synthesizer
        self.writer = writer
        self.target = utterances[0]
        of_speaker = [other for other in utterances[1:] if other.speaker == self.target.speaker]
        self.prompt = of_speaker[0] if of_speaker else self.target

    def log(self, step: int) -> None:
        """Write a sample. One that fails, for example out of memory, is a warning, and training continues."""
        model = self.synthesizer.model
        was_training = model.training
        model.eval()
        try:
            self._log(step)
        except Exception as error:
            log.warning("step %d: no sample: %s", step, first_line(error))
        finally:
            model.train(was_training)

    def _log(self, step: int) -> None:
        prompted = self._prompted()
        [generated] = self.synthesizer.generate([prompted])
        [audio] = self.synthesizer.decode_generations([generated])
        rate = self.synthesizer.codec.sample_rate_hz
        [true] = self.synthesizer.decode([torch.from_numpy(self.target.codes).long()])
        self.writer.add_audio("sample/speech", audio, step, sample_rate=rate)
        self.writer.add_image("sample/spectrogram", _spectrogram_picture([audio, true], rate), step)
        self.writer.add_text("sample/text", self.target.text, step)
        if (picture := self._attention_picture(prompted, generated.codes)) is not None:
            self.writer.add_image("sample/attention", picture, step)

    def _prompted(self) -> TokenizedRequest:
        prompt, target = self.prompt, self.target
        return self.synthesizer.tokenize_phones(prompt.phones, target.phones, torch.from_numpy(prompt.codes).long())

    @torch.inference_mode()
    def _attention_picture(self, request: TokenizedRequest, codes: Tensor) -> Tensor | None:
        """Each layer's attention of frames (across) on phones (upwards), side by side: (1, height, width) in [0, 1].

        Of a long sample the first `PICTURE_POSITIONS` phones and frames: attention weights take the square of their
        number, and later frames do not change those before them. None for a model without attention maps.
        """
        ids = request.ids[: PICTURE_POSITIONS // 2]
        prompt = request.codes[: PICTURE_POSITIONS - len(ids)]
        cropped = replace(request, ids=ids, codes=prompt)
        panels = []
        for weights in self.synthesizer.model.attention_maps(
            cropped, codes[: PICTURE_POSITIONS - len(ids) - len(prompt)]
        ):
            scaled = (weights / weights.max()).T.flip(0)
            panels.append(F.pad(scaled, (1, 1, 1, 1), value=1.0))
        if not panels:
            return None
        picture = torch.cat(panels, dim=1)[None, None]
        # Small pictures are enlarged, so that a phone is a visible line.
        return F.interpolate(picture, scale_factor=max(1, 300 // picture.shape[2]))[0].cpu()


def _spectrogram_picture(waveforms: Sequence[Tensor], rate_hz: int) -> Tensor:
    """Mel spectrograms of (N,) waveforms, one above the other, time across: (1, height, width) in [0, 1]."""
    longest = max(len(waveform) for waveform in waveforms)
    num_columns = max(1, longest * _PICTURE_COLUMNS_PER_SECOND // rate_hz)
    panels = []
    for waveform in waveforms:
        samples = F.pad(waveform, (0, longest - len(waveform))).numpy()
        levels = torch.from_numpy(spectrogram(samples, rate_hz, num_columns, _PICTURE_MELS)).float()
        panels.append(F.pad(levels.flip(0), (1, 1, 1, 1), value=1.0))
    return F.interpolate(torch.cat(panels)[None, None], scale_factor=2)[0]
