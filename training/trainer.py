"""The one training loop, for any codec language model."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, astuple, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from config.schema import TrainSettings
from models.contract import Batch, CodecLM
from training import parallel
from training.averaging import AveragedWeights
from training.data import TrainData
from training.metrics import MAX_NON_FINITE_STEPS, MetricSums, NonFiniteSteps
from training.parallel import EvalModel, all_reduce_max, full_tensor, gather, local_shard
from training.samples import SampleLogger
from training.schedule import fit_schedule, learning_rate, log_schedule
from training.state import Progress, load_resumable, random_state, restore, resumable, set_random_state
from utils import checkpoint
from utils.checkpoint import Checkpoint
from utils.errors import UserError
from utils.log import log, progress_bar
from utils.signals import Signals, exit_status
from utils.workers import WorkerDiedError

# Ten times the loss of guessing among 1024 codes: weights that do worse are ruined.
_MAX_LOSS = 70.0


def build_optimizer(parameters: Sequence[nn.Parameter], settings: TrainSettings) -> torch.optim.Optimizer:
    kind: type[torch.optim.AdamW] = getattr(torch.optim, settings.optimizer)
    return kind(
        parameters,
        lr=settings.base_lr,
        betas=(settings.adamw.betas[0], settings.adamw.betas[1]),
        weight_decay=settings.adamw.weight_decay,
        fused=True,
    )


def dropout_arguments(settings: TrainSettings) -> list[float]:
    """What a model in training takes beside its batch. Only models with guidance take `condition_dropout`."""
    return [settings.audio_token_dropout, *([settings.condition_dropout] if settings.condition_dropout else [])]


class Trainer:
    """Trains `model` on `data` into the experiment folder `folder`.

    `samples` writes a sample at each validation, or is None. A checkpoint holds all that resuming needs: weights,
    optimizer, `Progress`, the scale of the loss in fp16, and each rank's random state.
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
        meta: dict[str, Any],
    ) -> None:
        self.settings = settings
        self.data = data
        self.folder = folder
        self.accelerator = accelerator
        self.samples = samples
        self.meta = meta
        self.saved: Progress | None = None
        self.signals, self.stop_signal, self.save_is_asked = Signals(), 0, 0
        # A checkpoint that is due after a skipped step is saved after the next good one.
        self.save_is_due, self.ends_epoch = False, False
        self.last_batch: Batch | None = None
        # A gloo group for small counts and flags, so that agreeing on them never synchronizes with the GPU.
        self.cpu_group = torch.distributed.new_group(backend="gloo") if accelerator.num_processes > 1 else None
        self.skipped = NonFiniteSteps(accelerator.device)
        self.progress = Progress()
        self.unwrapped_model, self.eval_model = model.to(accelerator.device), eval_model
        optimizer = build_optimizer(
            [parameter for parameter in model.parameters() if parameter.requires_grad], settings
        )
        self.autocast = parallel.autocast_options(accelerator)
        self.model, self.optimizer = parallel.prepare(model, optimizer, accelerator)
        # FSDP replaced the parameters by sharded ones.
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.averages = AveragedWeights(self.parameters, settings.ema_decay) if settings.ema_decay else None

    def train(self) -> int:
        """Train from `progress` to the last step, and save a checkpoint.

        Returns the exit status: 0, or that of the signal that ended training early, after its step and a checkpoint.
        Raises UserError when training diverged, which leaves no checkpoint of ruined weights.
        """
        settings, progress = self.settings, self.progress
        # Every rank computes the same plan, so all know how many steps there are without asking each other.
        num_steps = self.data.num_steps(progress.position, progress.step)
        last_step = progress.step + num_steps
        if not num_steps:
            log.info("nothing left to train: raise train.max_epoch or train.max_steps to continue")
        schedule = fit_schedule(settings, last_step)
        log_schedule(settings, schedule, last_step, self.data.steps_per_epoch)
        metrics, num_tokens, started = self.new_metrics(), 0, time.perf_counter()
        is_quiet = not self.accelerator.is_main_process
        bar = progress_bar(desc="training", total=last_step, unit="step", initial=progress.step, disable=is_quiet)
        with Signals() as self.signals, self._unless_stopped(), bar:
            for batches in self.data.steps(progress.position, num_steps):
                rate = learning_rate(schedule, progress.step, progress.epoch)
                gradient_norm = self.step(batches, rate, metrics)
                self.last_batch = batches[-1]

                # The step may have used the last batches of an epoch and the first ones of the next.
                epochs_before = progress.epoch
                next_position = self.data.sequence.after(progress.position, self.data.batches_per_step)
                progress.step, progress.epoch, progress.batch = progress.step + 1, *astuple(next_position)
                self._sync_signals()
                num_tokens += sum(batch.num_tokens for batch in batches) * self.accelerator.num_processes
                bar.update()

                # The only place where a step reads numbers back from the GPU.
                if progress.step % settings.log_interval == 0:
                    means = metrics.means(self.accelerator)
                    means |= {"learning_rate": rate, "gradient_norm": float(gradient_norm)}
                    means["tokens_per_second"] = num_tokens / (time.perf_counter() - started)
                    means["skipped_steps"] = float(self.skipped.total)
                    self.accelerator.log({f"train/{name}": value for name, value in means.items()}, step=progress.step)
                    progress.loss = means["loss"]
                    bar.set_postfix(epoch=progress.epoch, loss=f"{progress.loss:.3f}")
                    metrics, num_tokens, started = self.new_metrics(), 0, time.perf_counter()

                # Save at the end of epochs, every so many steps, and when a signal asks for it.
                ended = range(epochs_before + 1, progress.epoch + 1)
                if any(epoch % stride == 0 for epoch in ended for stride in settings.save_checkpoint_stride):
                    self.save_is_due = self.ends_epoch = True
                interval = settings.save_checkpoint_steps
                self.save_is_due |= bool(self.save_is_asked or (interval and progress.step % interval == 0))
                if self.save_is_due and not self.skipped.num_in_a_row:
                    self.save()
                if progress.step % settings.valid_interval == 0:
                    self.validate()
                # On a GPU reading the counter of skipped steps forces a sync: only at log steps.
                can_read = self.accelerator.device.type == "cpu" or progress.step % settings.log_interval == 0
                if self.stop_signal or (can_read and self.skipped.too_many):
                    break
        if self.skipped.too_many:
            raise self._divergence(f"{MAX_NON_FINITE_STEPS} steps in a row had a loss or gradient that is not finite")
        # The last batches of the run may be too few for a step.
        self.ends_epoch |= not self.data.has_step(progress.position)
        self.save()
        self.data.log_unused(progress.position)
        if self.stop_signal:
            log.info("stopped at step %d by a signal; continue with --resume true", progress.step)
        return exit_status(self.stop_signal)

    def step(self, batches: Sequence[Batch], rate: float, metrics: MetricSums) -> Tensor:
        """One optimizer step; returns the gradient norm before clipping.

        The loss of each model, such as AR or NAR, is the mean over its targets in all batches of all ranks.
        """
        models = sorted(set(self.unwrapped_model.loss_names.values()))
        targets = [self.unwrapped_model.num_targets(batch) for batch in batches]
        counts = torch.tensor([sum(of_batch[name] for of_batch in targets) for name in models], dtype=torch.double)
        if self.cpu_group is not None:
            # Counted and summed on the CPU, so that no step synchronizes with its GPU.
            torch.distributed.all_reduce(counts, group=self.cpu_group)
        num_targets = dict(zip(models, counts.clamp(min=1), strict=True))

        self.model.train()
        for index, batch in enumerate(batches, start=1):
            # Ranks reduce their gradients once a step, with the last batch.
            with nullcontext() if index == len(batches) else self.accelerator.no_sync(self.model):
                with self.accelerator.autocast(self.autocast):
                    losses = self.model(batch.to(self.accelerator.device), *dropout_arguments(self.settings))
                loss = sum(sums.loss_sum / num_targets[sums.model] for sums in losses.values())
                # The ranks' gradients are averaged, but their losses are parts of one mean.
                self.accelerator.backward(loss * self.accelerator.num_processes)
            metrics.add(losses)
        # In fp16 accelerate divides the gradients by the scale of the loss before it clips them.
        gradient_norm = full_tensor(self.accelerator.clip_grad_norm_(self.parameters, self.settings.gradient_clip_norm))

        # The fused optimizer skips the step where `found_inf` is 1, without reading it back from the GPU.
        self.optimizer.found_inf = self.skipped.record(gradient_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        if self.accelerator.scaler is not None:
            # Halves the scale after an overflow, which is a skipped step as any other.
            self.accelerator.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.averages is not None:
            self.averages.update()
        return gradient_norm

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Scores of the weights that are exported on the fixed validation batches, logged; then the samples."""
        metrics = self.new_metrics()
        with self.eval_model.synced(self.unwrapped_model, self.averages) as model:
            model.eval()
            for batch in self.data.valid_batches:
                with self.accelerator.autocast():
                    metrics.add(model(batch.to(self.accelerator.device)))
            means = metrics.means(self.accelerator)
            if len(means) > 1:
                log.info("step %d: validation loss %.4f", self.progress.step, means["loss"])
                self.accelerator.log({f"valid/{name}": value for name, value in means.items()}, self.progress.step)
            if self.samples is not None and self.accelerator.is_main_process:
                self.samples.log(self.progress.step)
        self.accelerator.wait_for_everyone()
        return means

    def save(self) -> None:
        """Write a checkpoint, unless the current step has one, and remove the checkpoints that no rule keeps.

        Raises UserError where training has diverged: resuming takes the newest checkpoint, which must be a good one.
        """
        ends_epoch, self.save_is_due, self.ends_epoch = self.ends_epoch, False, False
        if self.saved == self.progress:
            return
        if not self._has_good_weights():
            raise self._divergence(f"after step {self.progress.step} weights or loss are not finite or far too large")
        self.saved = replace(self.progress)
        random_states: list[dict[str, Any]] = gather_object([random_state(self.accelerator.device)])
        weights, optimizer = gather(self.unwrapped_model.named_weights()), gather(self.optimizer.state_dict())
        averaged = {}
        if self.averages is not None:
            # Inference takes the averages. Resuming needs the parameters as well, in the optimizer's order.
            trained = gather([parameter.detach() for parameter in self.parameters])
            averaged["averaged"] = {"parameters": trained, "num_updates": self.averages.num_updates}
            weights = gather(self.averages.named(self.unwrapped_model))
        scaled = {} if self.accelerator.scaler is None else {"scaler": self.accelerator.scaler.state_dict()}
        if self.accelerator.is_main_process:
            progress, settings = self.progress, self.settings
            folder = self.folder / "checkpoint"
            checkpoint.save_checkpoint(
                folder,
                checkpoint.checkpoint_name(progress.epoch, progress.step, progress.loss),
                weights=weights,
                state=averaged
                | scaled
                | resumable(optimizer, settings.optimizer, progress, len(random_states), self.data.fingerprint()),
                meta={**self.meta, **asdict(progress), "ends_epoch": ends_epoch},
                rank_states=random_states,
            )
            checkpoint.rotate(folder, settings.save_checkpoint_stride, settings.keep_last, settings.keep_last_steps)
        self.accelerator.wait_for_everyone()

    @torch.no_grad()
    def _has_good_weights(self) -> bool:
        """Whether the weights are finite and predict the last batch at least a little. The same on all ranks.

        The last step's own loss was computed with the weights before that step.
        """
        if self.last_batch is None:
            return True
        with self.eval_model.synced(self.unwrapped_model) as model, self.accelerator.autocast(self.autocast):
            model.eval()
            losses = model(self.last_batch.to(self.accelerator.device))
        are_finite = [local_shard(parameter).isfinite().all() for parameter in self.parameters]
        # Also False for nan.
        are_small = [sums.loss_sum <= _MAX_LOSS * max(1, sums.num_targets) for sums in losses.values()]
        is_good = bool(torch.stack(are_finite + are_small).all())
        return not all_reduce_max([not is_good], self.cpu_group)[0]

    def _divergence(self, what: str) -> UserError:
        found = checkpoint.find_checkpoints(self.folder / "checkpoint")
        way = f"continue from {found[-1].path} with --resume true" if found else "start again: no checkpoint was saved"
        return UserError(f"training diverged: {what}; lower train.base_lr, and {way}")

    def resume(self, source: Checkpoint) -> None:
        """Take weights, optimizer, position and random states from a checkpoint."""
        state = load_resumable(source, self.settings.optimizer)
        weights = parallel.shard_weights(checkpoint.load_weights(source), self.unwrapped_model)
        self.unwrapped_model.load_named_weights(weights)
        if "averaged" in state:
            # The exported weights are averages.
            if self.averages is not None:
                self.averages.load(self.unwrapped_model, weights, state["averaged"]["num_updates"])
            for parameter, trained in zip(self.parameters, state["averaged"]["parameters"], strict=True):
                parameter.data.copy_(parallel.shard_like(trained, parameter))
        self.progress = restore(state, self.optimizer, self.parameters, self.settings, self.data.fingerprint())
        if self.accelerator.scaler is not None and "scaler" in state:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.saved = replace(self.progress)
        num_before, num_now = state["num_processes"], self.accelerator.num_processes
        if num_before == num_now:
            set_random_state(state["ranks"][self.accelerator.process_index])
        else:
            log.info("%d ranks before, now %d: training continues with the next batch", num_before, num_now)

    @contextmanager
    def _unless_stopped(self) -> Iterator[None]:
        """If a stop signal also killed the DataLoader workers, treat it as a normal stop; otherwise raise UserError."""
        try:
            yield
        except WorkerDiedError:
            self.stop_signal = self.signals.stop_signal
            if not self.stop_signal or self.accelerator.num_processes > 1:
                raise

    def _sync_signals(self) -> None:
        """Share signals between ranks, so that all stop or save after the same step."""
        received = [self.signals.stop_signal, self.signals.save_is_asked]
        self.signals.save_is_asked = False
        self.stop_signal, self.save_is_asked = all_reduce_max(received, self.cpu_group)

    def new_metrics(self) -> MetricSums:
        return MetricSums(self.unwrapped_model.loss_names, self.accelerator.device)
