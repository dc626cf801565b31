"""Measures the hot paths beside the plain way of doing the same, in one run on one machine."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from utils.cli import ROOT, Parser, run

DESCRIPTION = "Measure decoding, training and phones: time, rate, and the ratio to the plain way."


def main(arguments: Sequence[str] | None) -> int:
    parser = Parser(DESCRIPTION, prog="bench")
    parser.add_argument("--full", action="store_true", help="12 layers of width 1024 instead of the demo's model")
    parser.add_argument("--output", default="bench.json", metavar="FILE", help="where the figures go, as JSON")
    flags = parser.parse(arguments)

    from config.schema import Settings
    from utils.config import load_settings
    from utils.device import pick_device

    config = "egs/tts/VALLE/demo_config.json"
    model = {"decoder_dim": 1024, "nhead": 16, "num_decoder_layers": 12} if flags.full else {}
    overrides = [*flags.set, *(f"model.{key}={value}" for key, value in model.items())]
    bench = Bench(load_settings(ROOT / config, Settings, overrides, root=ROOT), pick_device())
    rows = [*bench.decoding(), *bench.training(), *bench.phones()]
    print(f"{'job':42s} {'seconds':>9s} {'rate':>20s} {'to the plain way':>17s}")
    for row in rows:
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.1f} x"
        print(f"{row['job']:42s} {row['seconds']:9.3f} {row['rate']:12.1f} {row['unit']:7s} {ratio:>17s}")
    Path(flags.output).write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return 0


class Bench:
    """Each method measures one part; a row is a job, its seconds, its rate, and the ratio to the plain way."""

    NUM_PHONES, PROMPT_FRAMES, NEW_FRAMES = 60, 75, 100

    def __init__(self, settings: Any, device: Any) -> None:
        import torch

        from models.valle.valle import VALLE

        torch.manual_seed(0)
        self.settings, self.device = settings, device
        self.model = VALLE(settings.model).to(device).eval()

    def decoding(self) -> list[dict]:
        """AR decoding with and without the cache and in a batch, and the NAR's passes."""
        import torch

        from models.valle.decoder import Decoder
        from modules.sampling import Sampler

        def inputs(batch: int) -> tuple[Any, Any, Any, Any]:
            text = torch.randint(3, 60, (batch, self.NUM_PHONES), device=self.device)
            lens = torch.full((batch,), self.NUM_PHONES, device=self.device)
            prompt = torch.randint(0, 1000, (batch, self.PROMPT_FRAMES, 8), device=self.device)
            return text, lens, prompt, torch.full((batch,), self.PROMPT_FRAMES, device=self.device)

        def cached(batch: int) -> None:
            text, lens, prompt, prompt_lens = inputs(batch)
            exactly = torch.full((batch,), self.NEW_FRAMES, device=self.device)
            arguments = (text, lens, prompt[..., 0], prompt_lens, Sampler(top_k=1), 0)
            Decoder(self.model.ar).generate(*arguments, min_frames=exactly, max_frames=exactly)

        @torch.inference_mode()
        def uncached() -> None:
            text, lens, prompt, prompt_lens = inputs(1)
            codes = prompt[..., 0]
            for step in range(self.NEW_FRAMES):
                logits = self.model.ar(text, lens, codes, prompt_lens + step)[:, -1, :-1]
                codes = torch.cat([codes, logits.argmax(-1, keepdim=True)], dim=1)

        def nar() -> None:
            assert self.model.nar is not None
            text, lens, prompt, prompt_lens = inputs(1)
            codes = torch.cat([prompt, prompt], dim=1)
            is_prompt = torch.arange(codes.shape[1], device=self.device)[None] < self.PROMPT_FRAMES
            self.model.nar.generate(text, lens, codes, 2 * prompt_lens, is_prompt)

        plain, alone, together = self._time(uncached), self._time(lambda: cached(1)), self._time(lambda: cached(8))
        return [
            _row("AR decoding, whole sequence each step", plain, self.NEW_FRAMES, "frame/s"),
            _row("AR decoding, cached", alone, self.NEW_FRAMES, "frame/s", plain / alone),
            _row("AR decoding, cached, 8 texts", together, 8 * self.NEW_FRAMES, "frame/s", 8 * alone / together),
            _row("NAR, all codebooks", self._time(nar), self.PROMPT_FRAMES, "frame/s"),
        ]

    def training(self) -> list[dict]:
        """One AR training step on utterances of equal length, forward and backward."""
        import torch

        text = torch.randint(3, 60, (8, self.NUM_PHONES), device=self.device)
        codes = torch.randint(0, 1000, (8, 2 * self.PROMPT_FRAMES), device=self.device)
        lens = [torch.full((8,), x.shape[1], device=self.device) for x in (text, codes)]

        def step() -> None:
            self.model.ar(text, lens[0], codes, lens[1]).float().logsumexp(-1).mean().backward()

        seconds = self._time(step)
        self.model.zero_grad(set_to_none=True)
        return [_row("AR training, forward and backward", seconds, text.numel() + codes.numel(), "token/s")]

    def phones(self) -> list[dict]:
        """Phones of many sentences at once."""
        from processors.text import build_phonemizer

        texts = [f"The quick brown fox number {index} jumps over the lazy dog." for index in range(500)]
        phonemizer = build_phonemizer("espeak", "en-us")
        return [_row("phones", self._time(lambda: phonemizer.phonemize(texts)), len(texts), "text/s")]

    def _time(self, work: Callable[[], object]) -> float:
        """Seconds of the faster of two runs, after one to warm up."""
        import torch

        seconds = []
        for _ in range(3):
            started = time.perf_counter()
            work()
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
        return min(seconds[1:])


def _row(job: str, seconds: float, amount: float, unit: str, ratio: float | None = None) -> dict:
    return {"job": job, "seconds": seconds, "rate": amount / seconds, "unit": unit, "ratio": ratio}


if __name__ == "__main__":
    run(main)
