"""The one training loop, for any codec language model."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import AutocastKwargs, gather_object
from torch import Tensor
from tqdm import tqdm

from config.schema import TrainSettings
from models.contract import START, Batch, CodecLM, Place
from training.data import TrainData, in_step
from training.metrics import MAX_NON_FINITE_STEPS, MetricSums, NonFiniteSteps
from training.parallel import (
    EvalModel,
    full_tensor,
    gather,
    local_shard,
    prepare_for_sharding,
    shard_like,
    shard_weights,
)
from training.samples import SampleLogger
from training.schedule import learning_rate
from utils import checkpoint
from utils.checkpoint import Checkpoint
from utils.errors import UserError
from utils.log import log, progress_bar
from utils.signals import Signals, exit_status
from utils.workers import WorkerDiedError


@dataclass
class Progress:
    """Where training stands: optimizer steps, whole epochs, the place in the epoch under way, the last mean loss."""

    step: int = 0
    epoch: int = 0
    place: Place = START
    loss: float = 0.0


# Ten times the loss of guessing among 1024 codes: weights that do worse are ruined.
_MAX_LOSS = 70.0


class Trainer:
    """Trains `model` on `data` into the experiment folder `folder`.

    `samples` speaks and draws at each validation; None leaves that out. Everything that resuming needs is in a
    checkpoint: weights, optimizer, `Progress`, and each rank's random state.
    """

    def __init__(
        self,
        *,
        settings: TrainSettings,
        model: CodecLM,
        eval_model: EvalModel,
        data: TrainData,
        folder: Path,
        accelerator: Accelerator,
        samples: SampleLogger | None,
        num_utterances: int,
        meta: dict[str, Any],
    ) -> None:
        self.settings = settings
        self.data = data
        self.folder = folder
        self.accelerator = accelerator
        self.samples = samples
        self.num_utterances = num_utterances
        self.meta = meta
        self.saved: Progress | None = None
        self.signals, self.stop_signal, self.save_is_asked = Signals(), 0, False
        # Set while a checkpoint is due but the last step was skipped: weights of a bad step are not saved.
        self.save_is_due = False
        self.last_batch: Batch | None = None
        # A gloo group for small counts and flags, so that agreeing on them never synchronizes with the GPU.
        self.cpu_group = torch.distributed.new_group(backend="gloo") if accelerator.num_processes > 1 else None
        self.skipped = NonFiniteSteps(accelerator.device)
        self.progress = Progress()
        self.unwrapped_model, self.eval_model = model.to(accelerator.device), eval_model
        optimizer = getattr(torch.optim, settings.optimizer)(
            [parameter for parameter in model.parameters() if parameter.requires_grad],
            lr=settings.base_lr,
            betas=tuple(settings.adamw.betas),
            weight_decay=settings.adamw.weight_decay,
            fused=True,
        )
        # Under FSDP2 accelerate does not wrap the model in autocast, and autocast's cache would copy every weight.
        self.autocast = AutocastKwargs(cache_enabled=not accelerator.is_fsdp2)
        if accelerator.is_fsdp2:
            prepare_for_sharding(model)
        self.model, prepared = accelerator.prepare(model, optimizer)
        self.optimizer = prepared.optimizer
        # FSDP replaced the parameters by sharded ones.
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def train(self) -> int:
        """Go on from `progress` to the last epoch or step, and leave a checkpoint there.

        Returns the exit status: 0, or that of the signal that ended training early, after its step and a checkpoint.
        Raises UserError when training diverged, which leaves no checkpoint of ruined weights.
        """
        settings, progress = self.settings, self.progress
        if self._is_over():
            log.info("nothing left to train: raise train.max_epoch or train.max_steps to go on")
        tally, num_tokens, started = self.new_metrics(), 0, time.perf_counter()
        with Signals() as self.signals, self._unless_stopped(), self._progress_bar() as bar:
            while not self._is_over():
                batches = self._batches()
                # One step: gradient_accumulation_step batches, equally many on every rank.
                while group := self._next_group(batches):
                    rate = learning_rate(settings, progress.step, progress.epoch)
                    gradient_norm = self.step(group, rate, tally)
                    progress.step += 1
                    progress.place = group[-1].end
                    self.last_batch = group[-1]
                    self._sync_signals()
                    num_tokens += sum(batch.num_tokens for batch in group) * self.accelerator.num_processes
                    bar.update(self._bar_units(group))
                    if progress.step % settings.log_interval == 0:
                        # The only place where a step reads numbers back from the GPU.
                        means = tally.means(self.accelerator)
                        means |= {"learning_rate": rate, "gradient_norm": float(gradient_norm)}
                        means["tokens_per_second"] = num_tokens / (time.perf_counter() - started)
                        means["skipped_steps"] = float(self.skipped.total)
                        self._log("train", means)
                        progress.loss = means["loss"]
                        bar.set_postfix(step=progress.step, epoch=progress.epoch, loss=f"{progress.loss:.3f}")
                        tally, num_tokens, started = self.new_metrics(), 0, time.perf_counter()
                    if self._is_save_due():
                        self.save(ends_epoch=False)
                    if progress.step % settings.valid_interval == 0:
                        self.validate()
                    if self._is_over():
                        break
                else:
                    # The batches ran out, so the epoch is complete.
                    progress.epoch, progress.place = progress.epoch + 1, START
                    if self._is_over() or any(
                        progress.epoch % stride == 0 for stride in settings.save_checkpoint_stride
                    ):
                        self.save_is_due = self.skipped.num_in_a_row > 0
                        if not self.save_is_due:
                            self.save(ends_epoch=True)
        if self.skipped.too_many:
            raise self._divergence(f"{MAX_NON_FINITE_STEPS} steps in a row had a loss or gradient that is not finite")
        if progress.place != START or self.save_is_due:
            self.save(ends_epoch=False)
        if self.stop_signal:
            log.info("stopped at step %d by a signal; go on with --resume true", progress.step)
        return exit_status(self.stop_signal)

    def _batches(self) -> Iterator[Batch]:
        """The remaining batches of this epoch, equally many on every rank."""
        batches = self.data.batches(self.progress.epoch, self.progress.place)
        num_processes = self.accelerator.num_processes
        return (
            in_step(batches, num_processes, lambda value: self._all_reduce_max([value])[0])
            if num_processes > 1
            else batches
        )

    def _all_reduce_max(self, values: Sequence[int]) -> list[int]:
        """Element-wise maximum over all ranks. A collective on the CPU group."""
        most = torch.tensor(values, dtype=torch.long)
        if self.cpu_group is not None:
            torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX, self.cpu_group)
        return most.tolist()

    def _next_group(self, batches: Iterator[Batch]) -> list[Batch]:
        """The batches of a step; none at the end of an epoch."""
        return list(islice(batches, self.settings.gradient_accumulation_step))

    def step(self, group: Sequence[Batch], rate: float, tally: MetricSums) -> Tensor:
        """One optimizer step on a group of batches; returns the gradient norm before clipping.

        Each model's loss is the mean over its targets in the whole group, on all ranks.
        """
        counts = self._count_targets(group)
        self.model.train()
        for place, batch in enumerate(group, start=1):
            # Reduce gradients between ranks once a step, with the last batch.
            with nullcontext() if place == len(group) else self.accelerator.no_sync(self.model):
                with self.accelerator.autocast(self.autocast):
                    scores = self.model(batch.to(self.accelerator.device), self.settings.audio_token_dropout)
                loss = sum(sums.loss_sum / counts[sums.model] for sums in scores.values())
                self.accelerator.backward(loss * (0 if batch.is_filler else self.accelerator.num_processes))
            if not batch.is_filler:
                tally.add(scores)
        gradient_norm = full_tensor(self.accelerator.clip_grad_norm_(self.parameters, self.settings.gradient_clip_norm))
        # The fused optimizer skips the step where `found_inf` is 1, without reading it back from the GPU.
        self.optimizer.found_inf = self.skipped.record(gradient_norm)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return gradient_norm

    def _count_targets(self, group: Sequence[Batch]) -> dict[str, Tensor]:
        """How many targets each model has in the group, on all ranks."""
        models = sorted(set(self.unwrapped_model.loss_names.values()))
        counted = [self.unwrapped_model.num_targets(batch) for batch in group if not batch.is_filler]
        counts = torch.tensor([sum(of[name] for of in counted) for name in models], dtype=torch.double)
        if self.cpu_group is not None:
            # Counted and summed on the CPU, so that no step synchronizes with its GPU.
            torch.distributed.all_reduce(counts, group=self.cpu_group)
        return dict(zip(models, counts.clamp(min=1), strict=True))

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Scores on the fixed validation batches, logged; then the samples."""
        tally = self.new_metrics()
        with self.eval_model.synced(self.unwrapped_model) as model:
            model.eval()
            for batch in self.data.valid_batches():
                with self.accelerator.autocast():
                    tally.add(model(batch.to(self.accelerator.device)))
            means = tally.means(self.accelerator)
            if len(means) > 1:
                log.info("step %d: validation loss %.4f", self.progress.step, means["loss"])
                self._log("valid", means)
            if self.samples is not None and self.accelerator.is_main_process:
                self.samples.log(self.progress.step)
        self.accelerator.wait_for_everyone()
        return means

    def save(self, ends_epoch: bool) -> None:
        """Write a checkpoint of where training stands, unless there is one, and remove those that no rule keeps.

        Raises UserError where training has diverged: resuming takes the newest checkpoint, which must be a good one.
        """
        self.save_is_due = False
        if self.saved == self.progress:
            return
        if not self._has_good_weights():
            raise self._divergence(f"after step {self.progress.step} weights or loss are not finite or far too large")
        self.saved = replace(self.progress)
        random_states: list[dict[str, Any]] = gather_object([_random_state(self.accelerator.device)])
        weights, optimizer = gather(self.unwrapped_model.named_weights()), gather(self.optimizer.state_dict())
        if self.accelerator.is_main_process:
            progress, settings = self.progress, self.settings
            folder = self.folder / "checkpoint"
            checkpoint.save_checkpoint(
                folder,
                checkpoint.checkpoint_name(progress.epoch, progress.step, progress.loss),
                weights=weights,
                state={
                    "optimizer": optimizer,
                    "optimizer_name": settings.optimizer,
                    "progress": asdict(progress),
                    "num_processes": self.accelerator.num_processes,
                    "data": self.data.fingerprint(),
                },
                meta={**self.meta, **asdict(progress), "ends_epoch": ends_epoch},
                rank_states=random_states,
            )
            checkpoint.rotate(folder, settings.save_checkpoint_stride, settings.keep_last, settings.keep_last_steps)
        self.accelerator.wait_for_everyone()

    @torch.no_grad()
    def _has_good_weights(self) -> bool:
        """Whether the weights are finite and still predict something, on the batch before: the same on all ranks.

        The loss of the last step is that of the weights before it, and says nothing of what the step made of them.
        """
        if self.last_batch is None:
            return True
        is_good = torch.stack([local_shard(parameter).isfinite().all() for parameter in self.parameters]).all()
        with self.eval_model.synced(self.unwrapped_model) as model, self.accelerator.autocast(self.autocast):
            model.eval()
            scores = model(self.last_batch.to(self.accelerator.device))
        for score in scores.values():
            # False for nan as well.
            is_good = is_good & (score.loss_sum <= _MAX_LOSS * max(1, score.num_targets))
        return not self._all_reduce_max([int(not is_good)])[0]

    def _divergence(self, what: str) -> UserError:
        found = checkpoint.find_checkpoints(self.folder / "checkpoint")
        way = f"go on from {found[-1].path} with --resume true" if found else "begin anew, as no checkpoint was saved"
        return UserError(f"training diverged: {what}; lower train.base_lr, and {way}")

    def resume(self, source: Checkpoint) -> None:
        """Take weights, optimizer, position and random states from a checkpoint."""
        state = checkpoint.load_state(source)
        if "data" not in state:
            raise UserError(f"{source.path} is of an older version; go on from it with --resume_type finetune")
        self.unwrapped_model.load_named_weights(shard_weights(checkpoint.load_weights(source), self.unwrapped_model))
        if state["optimizer_name"] != self.settings.optimizer:
            raise UserError(
                f"train.optimizer: {source.path} was trained with {state['optimizer_name']}; resume with it"
            )
        for index, moments in state["optimizer"]["state"].items():
            parameter = self.parameters[index]
            state["optimizer"]["state"][index] = {
                name: shard_like(value, parameter) if value.shape == parameter.shape else value
                for name, value in moments.items()
            }
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:
            # Use the current hyperparameters, not the checkpoint's.
            group.update(betas=tuple(self.settings.adamw.betas), weight_decay=self.settings.adamw.weight_decay)
        self.progress = Progress(**state["progress"] | {"place": Place(**state["progress"]["place"])})
        self.saved = replace(self.progress)
        if state["data"] != self.data.fingerprint() and self.progress.place != START:
            self.progress.place = START
            log.info("the data or how it is read has changed: epoch %d begins anew", self.progress.epoch)
        num_before, num_now = state["num_processes"], self.accelerator.num_processes
        if num_before == num_now:
            _set_random_state(state["ranks"][self.accelerator.process_index])
        else:
            log.info("trained on %d processes before, now on %d: training goes on at its place", num_before, num_now)

    @contextmanager
    def _unless_stopped(self) -> Iterator[None]:
        """If a stop signal also killed the DataLoader workers, treat it as a normal stop; otherwise raise UserError."""
        try:
            yield
        except WorkerDiedError:
            self.stop_signal = self.signals.stop_signal
            if not self.stop_signal or self.accelerator.num_processes > 1:
                raise

    def _is_save_due(self) -> bool:
        """Every so many steps, and when a signal asks for it; put off while steps are skipped."""
        interval = self.settings.save_checkpoint_steps
        if self.save_is_asked or (interval and self.progress.step % interval == 0):
            self.save_is_due = True
        return self.save_is_due and not self.skipped.num_in_a_row

    def _has_diverged(self) -> bool:
        """On a GPU only checked at log steps: reading the counter forces a sync."""
        is_asked = self.accelerator.device.type == "cpu" or self.progress.step % self.settings.log_interval == 0
        return is_asked and self.skipped.too_many

    def _sync_signals(self) -> None:
        """Share signals between ranks, so that all stop or save after the same step."""
        stop_signal, save_is_asked = self._all_reduce_max([self.signals.stop_signal, self.signals.save_is_asked])
        self.signals.save_is_asked = False
        self.stop_signal, self.save_is_asked = stop_signal, bool(save_is_asked)

    def _is_over(self) -> bool:
        settings, progress = self.settings, self.progress
        if self._has_diverged() or self.stop_signal:
            return True
        return progress.epoch >= settings.max_epoch or bool(settings.max_steps and progress.step >= settings.max_steps)

    def new_metrics(self) -> MetricSums:
        return MetricSums(self.unwrapped_model.loss_names, self.accelerator.device)

    def _log(self, phase: str, means: dict[str, float]) -> None:
        self.accelerator.log({f"{phase}/{name}": value for name, value in means.items()}, step=self.progress.step)

    def _bar_units(self, group: Sequence[Batch]) -> int:
        if self.settings.max_steps:
            return 1
        return sum(batch.num_utterances for batch in group) * self.accelerator.num_processes

    def _progress_bar(self) -> tqdm:
        """Counts steps where they are what ends training, else utterances."""
        settings, progress = self.settings, self.progress
        by_step = settings.max_steps is not None
        return progress_bar(
            desc="training",
            total=settings.max_steps if by_step else settings.max_epoch * self.num_utterances,
            initial=progress.step if by_step else progress.epoch * self.num_utterances,
            unit="step" if by_step else "utterance",
            disable=not self.accelerator.is_main_process,
        )


def _random_state(device: torch.device) -> dict[str, Any]:
    state = {"cpu": torch.get_rng_state()}
    return state | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else state


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
