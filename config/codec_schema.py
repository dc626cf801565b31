"""Every setting of the learned codec and of its training."""

from typing import Annotated

from pydantic import Field

from config.schema import Count, CountOrZero, Fraction, Positive, Section

Weight = Annotated[float, Field(ge=0)]


class SpeechRVQSettings(Section):
    """The learned codec: convolutions on log-mel frames, residual codebooks and an inverse short-time transform."""

    sample_rate_hz: Count
    frame_rate_hz: Positive = Field(description="code frames per second")
    num_mels: Count = Field(description="mel bands of a spectrogram frame; two frames make a code frame")
    num_codebooks: Annotated[int, Field(ge=2)] = Field(description="codebooks Q")
    codebook_size: Count = Field(description="codes per codebook")
    latent_dim: Count = Field(description="width of the vectors that are quantized")
    encoder_dim: Count = Field(description="width of the encoder")
    encoder_layers: Count
    decoder_dim: Count = Field(description="width of the decoder")
    decoder_layers: Count = Field(description="layers at the code frame rate")
    decoder_fine_layers: Count = Field(description="layers at twice the code frame rate")


class CodecTrainSettings(Section):
    """Training of the learned codec."""

    manifests: Annotated[list[str], Field(min_length=1)] = Field(description="JSON lines with audio and text")
    weights: Annotated[list[Positive], Field(min_length=1)] = Field(
        description="how often an epoch reads each manifest: 2 all of it twice"
    )
    language: str = Field(description="espeak-ng voice that pronounces the texts")
    log_dir: str = Field(description="parent of the trainings' folders")
    max_seconds: Positive = Field(description="longer clips are left out")
    batch_size: Count = Field(description="clips per batch")
    crop_frames: Count = Field(description="code frames of each clip that are decoded")
    max_steps: Count
    base_lr: Positive = Field(description="peak learning rate; a cosine that ends at a tenth of it")
    warmup_steps: CountOrZero
    quantize_from: CountOrZero = Field(description="step from which latents are quantized")
    freeze_encoder_from: Count | None = Field(
        description="step from which encoder and codebooks stay unchanged, and the decoder alone learns; null: never"
    )
    adversarial_from: Count | None = Field(description="step from which the discriminator is used; null: never")
    dropout_share: Fraction = Field(
        description="share of clips that are decoded from their first k codebooks alone; k is drawn as often as 1 / k"
    )
    mel_weight: Weight = Field(description="weight of the distance of log-mel spectrograms")
    commitment_weight: Weight = Field(description="weight of the distance of latents to their codes")
    phone_weight: Weight = Field(description="weight of recognizing phones in the first codebook")
    adversarial_weight: Weight
    feature_weight: Weight = Field(description="weight of the distance of the discriminator's features")
    save_interval: Count = Field(description="steps between checkpoints")
    valid_interval: Count = Field(description="steps between validations")
    valid_clips: Count = Field(description="clips held out for validation")
    log_interval: Count
    random_seed: int


class CodecExperiment(Section):
    """A training of the learned codec."""

    codec: SpeechRVQSettings
    train: CodecTrainSettings
