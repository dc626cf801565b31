"""Every setting of an experiment: its name, type, range and unit.

The values are in `base.json <- tts.json <- valle.json` beside this file and in the experiment's `exp_config.json`.
Nothing here has a default, so that each default is written in one place only.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model, field_validator, model_validator

from config.class_path import import_class

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Dataset = Literal["libritts", "ljspeech", "vctk", "hifitts", "librispeech", "custom"]


class Section(BaseModel):
    """A group of settings. An unknown key or a value of the wrong type is an error."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class MelRVQSettings(Section):
    """The built-in codec: residual k-means on log-mel frames, decoded by Griffin-Lim."""

    frame_rate_hz: Positive = Field(description="code frames per second")
    num_mels: Count = Field(description="mel bands of a spectrogram frame")
    num_codebooks: Annotated[int, Field(ge=2)] = Field(description="codebooks Q; model.num_quantizers must be the same")
    fit_frames: Count = Field(description="at most this many training frames are used to fit the codebooks")
    fit_iterations: Count = Field(description="k-means iterations per codebook")
    griffin_lim_iterations: Count = Field(description="phase-recovery iterations when decoding")


class SpeechRVQOptions(Section):
    """How the learned codec is used. Its architecture is in the file with its weights."""

    num_codebooks: Annotated[int, Field(ge=2)] | None = Field(
        description="how many of its codebooks are used, from the first on; null: all; model.num_quantizers must be "
        "the same"
    )


class RecordingsSettings(Section):
    """Stage 0: from recordings to a corpus. After `audio_format` come limits, which leave finished segments out."""

    speakers: Literal["auto", "folder", "cluster"] = Field(
        description="folder: the speaker is the folder below --audio_dir that a recording lies in, or the one that a "
        "transcript table names; cluster: speakers are told apart by their voices; auto: folder if any recording lies "
        "in a folder or a table names speakers, else cluster"
    )
    max_voice_distance: Annotated[float, Field(gt=0, le=2)] = Field(
        description="with cluster: voices whose embeddings are nearer than this cosine distance are one speaker"
    )
    vad_threshold: Annotated[float, Field(ge=0.2, le=0.95)] = Field(
        description="silero-vad's probability from which a frame is speech"
    )
    cut_pause: Annotated[float, Field(ge=0.1)] = Field(
        description="seconds; pauses as long as this are cut at, unless a part would be shorter than min_duration"
    )
    max_pause: Annotated[float, Field(ge=0.1)] = Field(description="seconds; no segment has a longer pause inside")
    padding: Annotated[float, Field(ge=0)] = Field(description="seconds before and after the speech of a segment")
    min_duration: Positive = Field(description="seconds of a segment; shorter ones are left out")
    max_duration: Positive = Field(description="seconds of a segment; longer speech is cut at its longest pauses")
    sample_rate: Count = Field(description="Hz, of the segments")
    loudness_lufs: Annotated[float, Field(ge=-60, le=0)] | None = Field(
        description="integrated loudness of each segment (ITU-R BS.1770); null: as it was recorded"
    )
    audio_format: Literal["flac", "wav"] = Field(description="format of the segments, with 16 bits")
    min_source_rate: Count = Field(description="Hz; recordings with a lower sample rate are left out")
    min_snr_db: float | None = Field(description="least ratio of speech to noise; null: any")
    min_dnsmos: Annotated[float, Field(ge=1, le=5)] | None = Field(
        description="with --dnsmos_dir: least overall rating (P.835); null: any"
    )
    min_characters_per_second: Annotated[float, Field(ge=0)] = Field(
        description="letters and digits of the text for each second; slower segments are left out"
    )
    max_characters_per_second: Positive = Field(description="the same; faster segments are left out")
    languages: list[str] = Field(description="languages that are kept, such as en and de; empty: all")
    min_language_probability: Fraction = Field(description="of the language that the recognizer detected")
    min_log_probability: Annotated[float, Field(le=0)] | None = Field(
        description="least mean log probability of the recognized tokens; null: any"
    )
    min_duplicate_similarity: Fraction | None = Field(
        description="segments this similar to an earlier one are duplicates of it; null: only equal recordings are"
    )
    num_report_clips: CountOrZero = Field(description="segments with sound in the report, for each reason")
    num_workers: CountOrZero = Field(description="worker processes that cut recordings while the recognizer runs")

    @model_validator(mode="after")
    def _ordered(self) -> "RecordingsSettings":
        if self.max_duration < 2 * self.min_duration:
            raise ValueError("max_duration must be at least twice min_duration, so that longer speech can be cut")
        if self.max_pause < self.cut_pause:
            raise ValueError("max_pause must not be below cut_pause")
        if self.max_characters_per_second < self.min_characters_per_second:
            raise ValueError("min_characters_per_second must not exceed max_characters_per_second")
        return self


class PreprocessSettings(Section):
    """Stage 1: from a corpus to phones and codes."""

    processed_dir: str = Field(
        description="folder that stage 1 writes to and stage 2 reads from; for stage 2 also a URL"
    )
    phone_extractor: Literal["auto", "espeak", "graphemes", "pypinyin", "pyopenjtalk"] = Field(
        description="espeak: IPA phones; graphemes: the lower-cased characters of the text; pypinyin (Mandarin): "
        "initials and finals with tones; pyopenjtalk (Japanese): phones with accent marks; auto: pypinyin and "
        "pyopenjtalk for these two languages, espeak for others"
    )
    language: str = Field(
        description="language of all texts: an espeak-ng voice such as en-us or de, or an alias such as en, zh or jp; "
        "auto: each utterance has its own, and phones begin with a symbol of it"
    )
    dataset_languages: dict[Dataset, str] = Field(
        description="with language auto: the language of a corpus's utterances that name none"
    )
    normalize_text: Literal["auto", "none"] = Field(
        description="auto: read numbers, dates, prices, abbreviations and addresses in words, by the rules of the "
        "language; none: leave them to the phonemizer"
    )
    lexicon: str | None = Field(
        description="file with a word, a tab, and its phones in IPA or another spelling in each line; null: none"
    )
    symbol_table: str | None = Field(description="existing symbols.dict that phones must come from; null builds one")
    add_blank: bool = Field(description="put id 0 around and between phones")
    acoustic_token_extractor: Literal["Encodec", "Dac", "Mimi", "XCodec2", "MelRVQ", "SpeechRVQ"] = Field(
        description="the codec"
    )
    codec_checkpoint: str | None = Field(
        description="the codec's weights: a file, a folder in the format of transformers, or a name on the hub such as "
        "descript/dac_16khz; for MelRVQ the codebooks of another corpus; null downloads the usual weights once, fits "
        "MelRVQ's, and takes SpeechRVQ's from the pretrained pair"
    )
    encodec_backend: Literal["auto", "encodec", "transformers"] = Field(
        description="the package that runs EnCodec, which changes no code; auto: encodec if it is installed"
    )
    num_codebooks: Annotated[int, Field(ge=2)] | None = Field(
        description="how many codebooks of Dac or Mimi are used, from the first on; null: all; model.num_quantizers "
        "must be the same"
    )
    mel_rvq: MelRVQSettings
    speech_rvq: SpeechRVQOptions
    sample_rate: Count = Field(description="Hz; audio is resampled to it before the codec")
    min_duration: Positive = Field(description="seconds; shorter utterances are left out")
    max_duration: Positive = Field(description="seconds; longer utterances are left out")
    valid_fraction: Fraction = Field(description="share for validation if a corpus has no split of its own")
    test_fraction: Fraction = Field(description="share for testing if a corpus has no split of its own")
    split_by: Literal["auto", "speaker", "utterance"] = Field(
        description="what such a split never divides; auto: speaker from 20 speakers on"
    )
    split_seed: int = Field(description="seed of such a split")
    shard_size: Count = Field(description="utterances per shard")
    codec_batch_seconds: Positive = Field(description="seconds of audio per codec batch, padding included")
    num_workers: CountOrZero = Field(description="worker processes that read audio and phonemize while the codec runs")

    @model_validator(mode="after")
    def _ordered(self) -> "PreprocessSettings":
        if self.min_duration > self.max_duration:
            raise ValueError("min_duration must not exceed max_duration")
        if self.valid_fraction + self.test_fraction >= 1:
            raise ValueError("valid_fraction and test_fraction leave nothing to train on")
        return self


class ModelSettings(Section):
    """Settings that every model has; each `model_type` adds its own."""

    num_quantizers: Annotated[int, Field(ge=2)] = Field(description="codebooks Q")
    text_token_num: Annotated[int, Field(ge=4)] = Field(description="rows of the text embeddings")
    audio_token_num: Count = Field(description="codes per codebook")


class ValleSettings(ModelSettings):
    """Architecture of the AR and NAR models (VALL-E, section 4)."""

    decoder_dim: Count = Field(description="width D")
    nhead: Count = Field(description="attention heads H")
    num_decoder_layers: Count
    norm_first: bool = Field(description="pre-norm; false: post-norm")
    add_prenet: bool = Field(description="convolutions on text and linears on audio before the positions")
    dropout: Fraction = Field(description="in the transformer and after the positions")
    prefix_mode: Literal[0, 1, 2, 4] = Field(
        description="the NAR's prompt in training: 0 none, 1 first frames, 2 a segment of the utterance, "
        "4 a segment of another utterance of the speaker"
    )
    share_embedding: bool = Field(description="NAR head j shares the weight of audio embedding j+2")
    nar_scale_factor: Positive = Field(description="scales the NAR's width, heads and layers")
    nar_num_decoder_layers: Count | None = Field(
        description="layers of the NAR; null: num_decoder_layers times nar_scale_factor"
    )
    prepend_bos: bool = Field(description="begin the AR's audio with a begin symbol")
    group_size: Annotated[int, Field(ge=1, le=8)] = Field(
        description="frames that the AR reads and predicts in one step (VALL-E 2, section 3)"
    )

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> "ValleSettings":
        if self.decoder_dim % self.nhead:
            raise ValueError("decoder_dim must be a multiple of nhead")
        sizes = (self.decoder_dim, self.nhead, self.num_decoder_layers)
        width, heads, layers = (int(size * self.nar_scale_factor) for size in sizes)
        layers = self.nar_num_decoder_layers or layers
        if min(width, heads, layers) < 1 or width % heads:
            raise ValueError(
                f"nar_scale_factor gives the NAR a width of {width}, {heads} heads and {layers} layers; each must be "
                "at least 1, and the width a multiple of the heads"
            )
        return self


MODEL_SETTINGS: dict[str, type[ModelSettings]] = {"VALLE": ValleSettings}
"""The type of the `model` section of each registered `model_type`."""


def model_settings(model_type: str) -> type[ModelSettings]:
    """The type of the `model` section: the registered one, or `settings_class` of `package.module:Class`.

    Raises ValueError if `model_type` does not name a model.
    """
    if model_type in MODEL_SETTINGS:
        return MODEL_SETTINGS[model_type]
    hint = f"it must be {', '.join(MODEL_SETTINGS)}, or package.module:Class of a model of your own"
    try:
        found = getattr(import_class(model_type), "settings_class", None)
    except ValueError as error:
        raise ValueError(f"{error}; {hint}") from error
    if not (isinstance(found, type) and issubclass(found, ModelSettings)):
        raise ValueError(f"{model_type} has no settings_class that is a ModelSettings; {hint}")
    return found


@lru_cache
def _with_model_section(settings: type["Settings"], section: type[ModelSettings]) -> type["Settings"]:
    # A class that has this section already stays itself, so that its instances can be pickled.
    if settings.model_fields["model"].annotation is section:
        return settings
    return create_model(settings.__name__, __base__=settings, model=(section, ...))


class AdamSettings(Section):
    betas: Annotated[list[Fraction], Field(min_length=2, max_length=2)]
    weight_decay: Annotated[float, Field(ge=0)]


class DataloaderSettings(Section):
    num_worker: CountOrZero = Field(description="processes that build batches; 0: the training process itself")


class LoraSettings(Section):
    """Training of an adapter in place of the weights (LoRA, arXiv 2106.09685)."""

    rank: CountOrZero = Field(description="rank of the updates; 0: train the weights themselves")
    alpha: Positive = Field(description="updates are scaled by alpha / rank")
    targets: Annotated[list[str], Field(min_length=1)] = Field(
        description="names of the linear layers that get an update, such as in_proj and linear1"
    )


class TrainSettings(Section):
    """Stage 2."""

    batch_size: Count = Field(description="utterances per batch when use_dynamic_batchsize is false")
    use_dynamic_batchsize: bool = Field(description="length-bucketed batches by total tokens")
    max_tokens: Count | Literal["auto"] = Field(
        description="phones and frames per batch, padding included; groups of frames when a grouped AR trains alone; "
        "auto: as many as fit the GPU's memory, 4000 on a CPU"
    )
    max_sentences: Count = Field(description="utterances per batch at most, when dynamic")
    shards_per_pool: Count | None = Field(
        description="shards that are read ahead together and then shuffled; null: all, by reading at random places"
    )
    dataset_weights: dict[Dataset, Positive] = Field(
        description="how often an epoch reads a corpus: 0.5 half of it, 2 all of it twice; 1 where it is not named"
    )
    join_probability: Fraction = Field(description="share of examples that are two utterances of a speaker joined")
    audio_token_dropout: Fraction = Field(
        description="share of the AR's audio inputs masked, so that it reads the text"
    )
    condition_dropout: Fraction = Field(
        description="probability that the AR is trained on an utterance without its text, as infer.guidance needs"
    )
    init_from_codec: bool = Field(
        description="begin with the codec's vectors as embeddings of its codes and as weights of the output layers; "
        "false: with random ones"
    )
    init_nar_from_ar: bool = Field(
        description="begin a NAR with the layers and embeddings of the trained AR; false: with random ones"
    )
    lora: LoraSettings
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="decay of an exponential moving average of the weights, which is validated and exported; 0: none"
    )
    max_epoch: Count
    max_steps: Count | None = Field(description="optimizer steps at which training stops; null: max_epoch alone")
    optimizer: Literal["AdamW", "Adam"]
    adamw: AdamSettings
    base_lr: Positive = Field(description="peak learning rate")
    scheduler: Literal["cosine", "noam", "eden"]
    warmup_steps: CountOrZero = Field(
        description="steps until the rate is at its peak; at most 5 % of the run where total_training_steps is null"
    )
    total_training_steps: Count | None = Field(
        description="steps after which the cosine has reached zero; null: the steps of the run"
    )
    gradient_clip_norm: Positive
    gradient_accumulation_step: Count = Field(description="batches per optimizer step")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        description="auto: bf16 where the hardware has it, else fp16 on a GPU and fp32 on a CPU; fp16: GPUs alone"
    )
    compile: bool = Field(description="torch.compile the layers: slow to start, faster from then on")
    activation_checkpointing: bool = Field(description="compute activations again instead of keeping them")
    save_checkpoint_stride: Annotated[list[Count], Field(min_length=1)] = Field(
        description="epochs between checkpoints"
    )
    keep_last: Annotated[list[int], Field(min_length=1)] = Field(
        description="how many checkpoints of each stride stay; -1: all"
    )
    save_checkpoint_steps: Count | None = Field(description="optimizer steps between checkpoints; null: epochs alone")
    keep_last_steps: Count = Field(description="how many checkpoints made between epoch ends stay")
    valid_interval: Count = Field(description="optimizer steps between validations, each with a synthesized sample")
    valid_max_batches: Count = Field(description="validation batches at most")
    log_interval: Count = Field(description="optimizer steps between log points")
    random_seed: int
    tracker: list[Literal["tensorboard", "wandb", "trackio", "mlflow"]] = Field(
        description="where numbers and samples are logged, one name or several; []: nowhere"
    )
    dataloader: DataloaderSettings

    @property
    def tokens_per_batch(self) -> int:
        """`max_tokens`, once auto has been resolved to a number."""
        if self.max_tokens == "auto":
            raise ValueError("train.max_tokens is auto, which was not resolved yet")
        return self.max_tokens

    @field_validator("tracker", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _paired(self) -> "TrainSettings":
        if len(self.save_checkpoint_stride) != len(self.keep_last):
            raise ValueError("save_checkpoint_stride and keep_last must be equally long")
        if any(keep == 0 or keep < -1 for keep in self.keep_last):
            raise ValueError("keep_last takes positive numbers, or -1 for all")
        return self


class SamplingSettings(Section):
    """How codes are sampled."""

    top_k: CountOrZero = Field(description="sample among the k likeliest codes; 0: all, 1: greedy")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(description="sample among the likeliest codes of this mass")
    temperature: Positive
    seed: CountOrZero
    repetition_window: CountOrZero = Field(description="frames that repetition-aware sampling looks back; 0: off")
    repetition_threshold: Fraction = Field(description="share of them above which a code is drawn again")


class SpeechSettings(SamplingSettings):
    """What a single request may change."""

    speed: Annotated[float, Field(ge=0.5, le=2)] = Field(
        description="how fast the speech and its pauses are played, at the same pitch; 1: as they are synthesized"
    )
    loudness_lufs: Annotated[float, Field(ge=-60, le=0)] | None = Field(
        description="integrated loudness of the speech (ITU-R BS.1770); null: as it is synthesized"
    )


class InferSettings(SpeechSettings):
    """Stage 3."""

    guidance: Annotated[float, Field(ge=1, le=10)] = Field(
        description="how far the AR follows the text beyond its own prediction (classifier-free guidance); 1: not, and "
        "at no cost; needs a training with train.condition_dropout"
    )
    precision: Literal["auto", "fp32", "bf16", "int8"] = Field(
        description="of the weights; auto: bf16 on a GPU, fp32 on a CPU; int8 (CPUs): the AR in int8, the NAR in bf16"
    )
    min_seconds_per_phone: Annotated[float, Field(ge=0)] | None = Field(
        description="minimum length of the speech for each phone of the text; null: measured on the corpus"
    )
    max_seconds_per_phone: Positive | None = Field(
        description="maximum length for each phone of the text, plus slack_seconds; null: measured on the corpus"
    )
    min_seconds: Annotated[float, Field(ge=0)] = Field(description="minimum length of any speech")
    slack_seconds: Annotated[float, Field(ge=0)] = Field(description="added to the maximum length of a text")
    max_tries: Count = Field(description="seeds to try when speech is cut off, ends at once or is silent")
    continual_prompt_seconds: Positive = Field(description="with --continual, how much of the prompt's audio is kept")
    max_batch_size: Count = Field(description="texts, parts of long texts, and their candidates, decoded together")
    num_candidates: Annotated[int, Field(ge=1, le=64)] = Field(
        description="continuations of each text, or part of a long text, of which the best is taken"
    )
    rank_by: Literal["likelihood", "coverage", "asr"] = Field(
        description="which is the best: the likeliest; the one whose attention covers the text; or the one that a "
        "speech recognizer understands"
    )
    asr: Literal["pocketsphinx", "whisper", "hubert"] = Field(description="the recognizer of rank_by asr")
    asr_model: str | None = Field(
        description="folder, or name on the hub, of another model for that recognizer; null: its default"
    )
    word_times: bool = Field(description="find when each word is spoken, and words that may be wrong")
    nar_decoding: Literal["greedy", "expected"] = Field(
        description="decode the NAR's likeliest codes, or the means of all codes' vectors by their probabilities"
    )
    max_part_seconds: Positive | None = Field(
        description="expected speech of a part; a text with more is split into parts; null: measured on the corpus"
    )
    max_total_seconds: Positive | None = Field(
        description="of a prompt and the part that continues it; null: measured on the corpus"
    )
    stream_first_frames: Annotated[int, Field(ge=0)] | None = Field(
        description="frames after which a stream begins, inside its first part; 0 or null: with whole parts only"
    )
    context: Literal["prompt", "previous"] = Field(
        description="what a part of a long text continues: the prompt, or the part before it in the same paragraph"
    )
    vocoder: Literal["codec", "vocos"] = Field(
        description="what turns codes into audio: the codec's own decoder, or Vocos, for EnCodec's codes only"
    )
    vocoder_checkpoint: str | None = Field(
        description="Vocos's weights: a file, a folder with pytorch_model.bin, or a name on the hub; null downloads "
        "charactr/vocos-encodec-24khz once"
    )

    def speech_settings(self, given: Mapping[str, float | None] | None = None) -> SpeechSettings:
        """What a request may change, with the values that it gives. Raises ValidationError if one is invalid."""
        own = self.model_dump(include=set(SpeechSettings.model_fields))
        changes = {name: value for name, value in (given or {}).items() if value is not None}
        # Programs and browsers may give whole numbers as floats.
        return SpeechSettings.model_validate({**own, **changes}, strict=False)


class Settings(Section):
    """All settings of one experiment."""

    retired: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("train.shuffle_buffer", "train.num_buckets", "train.shards_per_block", "train.num_streams"),
        "epochs are planned from an index; train.shards_per_pool says how many shards are read together",
    )
    """Keys of older versions, which are accepted and ignored, and why."""

    model_type: str = Field(description="VALLE, or package.module:Class of a model of your own")
    dataset: Annotated[list[Dataset], Field(min_length=1)]
    dataset_path: dict[Dataset, str] = Field(description="where each corpus lies")
    log_dir: str = Field(description="parent of the experiment folders")
    recordings: RecordingsSettings
    preprocess: PreprocessSettings
    model: ModelSettings
    train: TrainSettings
    infer: InferSettings

    @classmethod
    def for_content(cls, content: Mapping[str, Any]) -> type["Settings"]:
        """These settings, with the type of the `model` section that the content's `model_type` has.

        If `model_type` does not name a model, its own validator reports that.
        """
        try:
            return _with_model_section(cls, model_settings(str(content.get("model_type"))))
        except ValueError:
            return cls

    @field_validator("model_type")
    @classmethod
    def _names_a_model(cls, model_type: str) -> str:
        model_settings(model_type)
        return model_type

    @model_validator(mode="after")
    def _paths_known(self) -> "Settings":
        twice = [name for name in self.dataset if self.dataset.count(name) > 1]
        if twice:
            raise ValueError(f"dataset names {twice[0]} twice; put the corpora together, or name it once")
        for name in self.dataset:
            path = self.dataset_path.get(name)
            if path is None:
                raise ValueError(f"dataset_path.{name} is missing, and dataset names {name}")
        for name in self.train.dataset_weights:
            if name not in self.dataset:
                raise ValueError(f"train.dataset_weights.{name}: dataset does not name {name}")
        if self.preprocess.dataset_languages and self.preprocess.language != "auto":
            raise ValueError(
                "preprocess.dataset_languages is for preprocess.language auto, which is "
                f"{self.preprocess.language} for all corpora; leave one of them out"
            )
        return self


class CorpusSettings(BaseModel):
    """The settings of stage 0, of a config whose corpora do not matter."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)
    recordings: RecordingsSettings


class TextSettings(BaseModel):
    """The settings that decide how a text is read, of a config whose corpora do not matter."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)
    preprocess: PreprocessSettings


class CodecSettings(TextSettings):
    """The settings of the codec and of its decoder, of a config whose corpora do not matter."""

    infer: InferSettings


class ValleExperiment(Settings):
    """Settings of an experiment whose model is VALL-E, for the benchmarks of that model."""

    model: ValleSettings
