"""Puts a training together from settings, data and a start."""

import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import DistributedType, broadcast_object_list, gather_object, set_seed

from config.schema import Settings
from models import model_class
from models.adapter import add_adapter
from models.contract import CodecLM
from models.experiment import Experiment, load_checked
from processors.codecs import check_model
from processors.codecs.base import Codec
from processors.text import TextTokenizer
from synthesis.synthesizer import Synthesizer
from training.budget import WorstCases, find_max_tokens
from training.corpus import IndexedCorpus
from training.data import TrainData
from training.parallel import EvalModel, configure_fsdp
from training.pools import PoolReader
from training.prepared import PreprocessedData
from training.samples import SampleLogger
from training.start import InitialState, supersede, write_experiment
from training.trackers import Outcome, SafeTracker, SampleWriter, build_trackers, loggable
from training.trainer import Trainer
from utils.checkpoint import remove_leftovers
from utils.device import memory_advice, pick_device, pick_training_precision
from utils.errors import UserError
from utils.files import file_lock
from utils.log import log, set_up_logging
from utils.remote import MachineCache, is_url

_KINDS = {DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU, DistributedType.FSDP}


@dataclass(frozen=True)
class TrainingRun:
    """A training put together from settings, data and what it begins with."""

    settings: Settings
    experiment: Experiment
    data: PreprocessedData
    start: InitialState
    train_stage: int
    codec: Codec
    tokenizer: TextTokenizer

    def run(self) -> int:
        """Train into the experiment's folder; returns the exit status. A collective.

        Raises UserError when codec, data and model do not fit each other, or another training has the folder.
        """
        self._check_data()
        trackers = build_trackers(self.settings, self.experiment, self.start.continues(self.experiment))
        accelerator = build_accelerator(self.settings, self.experiment, self.train_stage, trackers)
        with exclusive(self.experiment, accelerator), pool_reader(self.data, accelerator) as pools:
            resolved = self._with_max_tokens(accelerator, pools)
            return resolved._run_exclusively(accelerator, pools)

    def _with_max_tokens(self, accelerator: Accelerator, pools: PoolReader) -> "TrainingRun":
        """This run with the number that `train.max_tokens` auto stands for. A collective."""
        train = self.settings.train
        if train.max_tokens != "auto":
            return self
        model = model_class(self.settings.model_type)(self.settings.model, self.train_stage)
        corpus = IndexedCorpus.load(self.data.train_shards, pools.cache)
        worst = WorstCases(
            num_ids=self.tokenizer.num_ids(corpus.num_phones),
            num_frames=corpus.num_frames,
            collator=model.collate(self.codec.frame_rate_hz),
            num_codebooks=self.codec.num_codebooks,
            settings=train,
        )
        found = find_max_tokens(worst, lambda: self._build_model(accelerator), accelerator)
        train = train.model_copy(update={"max_tokens": found})
        return replace(self, settings=self.settings.model_copy(update={"train": train}))

    def _run_exclusively(self, accelerator: Accelerator, pools: PoolReader) -> int:
        settings, experiment = self.settings, self.experiment
        advice = (
            f"lower train.max_tokens ({settings.train.max_tokens}) and train.max_sentences "
            f"({settings.train.max_sentences}), or set train.activation_checkpointing to true"
        )
        with memory_advice(advice), self._tracked(accelerator):
            if accelerator.is_main_process:
                write_experiment(experiment, settings, self.data, self.start)
            accelerator.wait_for_everyone()
            trainer = self._build_trainer(accelerator, pools)
            if self.start.resume_from is not None:
                trainer.resume(self.start.resume_from)
                log.info("resumed from %s", self.start.resume_from.path)
            if accelerator.is_main_process:
                supersede(self.start.superseded)
                remove_leftovers(experiment.checkpoints)
            log.info(
                "%s: %s with %.1f M parameters in training, %d utterances, %s, %s",
                experiment.folder,
                settings.model_type,
                sum(parameter.numel() for parameter in trainer.parameters) / 1e6,
                self.data.num_utterances,
                accelerator.device,
                accelerator.mixed_precision.replace("no", "fp32"),
            )
            status = trainer.train()
            # Ranks that are behind still need the cache, which the first rank of a machine removes.
            accelerator.wait_for_everyone()
            _finish(accelerator, "KILLED" if status else "FINISHED")
            accelerator.end_training()
        return status

    @contextmanager
    def _tracked(self, accelerator: Accelerator) -> Iterator[None]:
        """Starts the trackers; after an error they log what waits, and that the training failed."""
        accelerator.init_trackers("log", loggable(self.settings, train_stage=self.train_stage))
        try:
            yield
        except BaseException as error:
            _finish(accelerator, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise

    def _build_model(self, accelerator: Accelerator) -> CodecLM:
        """The model that training begins with; always the same, as it sets the random state."""
        settings = self.settings
        set_seed(settings.train.random_seed + accelerator.process_index)
        model = model_class(settings.model_type)(settings.model, self.train_stage)
        if settings.train.init_from_codec:
            self._init_codes(model)
        load_checked(model, self.start.weights, None)
        if settings.train.init_nar_from_ar and self.start.is_new:
            try:
                model.init_from_pretrained()
            except ValueError as error:
                raise UserError(f"train.init_nar_from_ar: {error}") from error
        if self.start.adapter is not None:
            try:
                add_adapter(model, settings.train.lora)
            except ValueError as error:
                raise UserError(f"train.lora.targets: {error}") from error
        return model

    def _build_trainer(self, accelerator: Accelerator, pools: PoolReader) -> Trainer:
        settings = self.settings
        model = self._build_model(accelerator)
        model.configure_training(settings.train)
        # Copied before the trainer shards the model.
        eval_model = EvalModel(model, accelerator)
        data = TrainData(
            train=IndexedCorpus.load(self.data.train_shards, pools.cache),
            valid=IndexedCorpus.load(self.data.valid_shards, pools.cache),
            tokenizer=self.tokenizer,
            collator=model.collate(self.codec.frame_rate_hz),
            settings=settings.train,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            pool_reader=pools,
        )
        return Trainer(
            settings=settings.train,
            model=model,
            eval_model=eval_model,
            data=data,
            folder=self.experiment.folder,
            accelerator=accelerator,
            samples=self._build_samples(eval_model.model, data, accelerator),
            meta=self._meta(),
        )

    def _meta(self) -> dict[str, Any]:
        """What checkpoints record beside their progress."""
        meta: dict[str, Any] = {"train_stage": self.train_stage, "codec": self.data.codec_fingerprint}
        return meta if self.start.adapter is None else {**meta, "adapter": self.start.adapter.to_meta()}

    def _init_codes(self, model: CodecLM) -> None:
        """Raises UserError if the codec has no vectors, or the model cannot begin with them."""
        vectors = self.codec.vectors
        try:
            if vectors is None:
                raise ValueError(f"{type(self.codec).__name__} has no vectors for its codes")
            model.init_codes(vectors.cpu())
        except ValueError as error:
            raise UserError(f"train.init_from_codec: {error}") from error

    def _build_samples(self, model: CodecLM, data: TrainData, accelerator: Accelerator) -> SampleLogger | None:
        """None without a tracker to log to, or without a validation utterance to synthesize."""
        if not accelerator.is_main_process or not self.settings.train.tracker:
            return None
        utterances = data.valid_utterances(20)
        if not utterances:
            return None
        codec = self.codec.to(accelerator.device)
        synthesizer = Synthesizer(model, codec, self.tokenizer, self.settings.infer, accelerator.device)
        return SampleLogger(synthesizer, utterances, SampleWriter(accelerator.trackers))

    def _check_data(self) -> None:
        """Raises UserError when the codec did not make the data, or does not suit the model."""
        if self.codec.fingerprint() != self.data.codec_fingerprint:
            raise UserError("the codec is not the one that stage 1 made the codes with; run stage 1 again")
        check_model(self.codec, self.settings.model)


def _finish(accelerator: Accelerator, outcome: Outcome) -> None:
    for tracker in accelerator.trackers:
        tracker.finish(outcome)


@contextmanager
def exclusive(experiment: Experiment, accelerator: Accelerator) -> Iterator[None]:
    """One training at a time in an experiment's folder. A collective; raises UserError where another one has it."""
    with file_lock(experiment.folder / ".lock") if accelerator.is_main_process else nullcontext() as holder:
        [holder] = broadcast_object_list([holder])
        if holder is not None and not accelerator.is_main_process:
            raise SystemExit(1)  # The main process reports it.
        if holder is not None:
            raise UserError(f"--name: {experiment.folder} is in use by {holder}; wait for it, or choose another name")
        yield


@contextmanager
def pool_reader(data: PreprocessedData, accelerator: Accelerator) -> Iterator[PoolReader]:
    """This rank's part of reading pools of shards ahead, into one cache for all ranks of a machine. A collective.

    The cache is removed at the end.
    """
    # A download that is stopped may leave a file behind while the folder is removed.
    with tempfile.TemporaryDirectory(prefix="vallet-", ignore_cleanup_errors=True) as own:
        is_remote = any(map(is_url, [*data.train_shards, *data.valid_shards]))
        # Nodes may have one name, and containers of one machine the same boot id.
        boot_id = Path("/proc/sys/kernel/random/boot_id")
        host = socket.gethostname(), boot_id.read_text() if boot_id.is_file() else ""
        # All ranks of a machine use its first rank's folder.
        folders = [folder for name, folder in gather_object([(host, own)]) if name == host]
        cache = MachineCache(Path(folders[0]) if is_remote else None)
        pools = PoolReader(cache, accelerator.local_process_index, len(folders))
        try:
            yield pools
        finally:
            pools.close()


def build_accelerator(
    settings: Settings, experiment: Experiment, train_stage: int, trackers: Sequence[SafeTracker] = ()
) -> Accelerator:
    """Processes and precision as the settings ask; no tracker is started yet."""
    device = pick_device()
    precision = pick_training_precision(settings.train.precision, device)
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision=precision.replace("fp32", "no"),
        log_with=list(trackers) or None,
        project_dir=experiment.folder,
        kwargs_handlers=[ddp_options(model_class(settings.model_type).skips_parameters(train_stage))],
    )
    set_up_logging(accelerator.is_main_process)
    if accelerator.distributed_type not in _KINDS:
        raise UserError(
            f"accelerate: {accelerator.distributed_type.value} is not supported; set distributed_type to MULTI_GPU or "
            "FSDP"
        )
    if accelerator.distributed_type == DistributedType.FSDP:
        configure_fsdp(accelerator.state.fsdp_plugin)
    return accelerator


def ddp_options(skips_parameters: bool) -> DistributedDataParallelKwargs:
    """How ranks that each have the whole model reduce its gradients."""
    # Position tables grow with what each rank sees: they must never be broadcast.
    return DistributedDataParallelKwargs(find_unused_parameters=skips_parameters, broadcast_buffers=False)
