"""From a checkpoint to a model that speaks."""

import torch
from torch import Tensor

from config.schema import Settings
from models.valle.interfaces import Codec, Tokenizer
from models.valle.reference import FRAMES_PER_ID
from models.valle.synthesizer import FramesPerId, Synthesizer
from models.valle.valle import VALLE
from utils.checkpoint import Checkpoint, load_meta, load_weights
from utils.device import pick_inference_precision
from utils.errors import UserError


def load_synthesizer(
    source: Checkpoint, settings: Settings, codec: Codec, tokenizer: Tokenizer, device: torch.device
) -> Synthesizer:
    """A checkpoint's pair, ready to speak. Raises UserError when it is not whole, or the codec is another one."""
    check_codec(source, codec)
    model = load_pair(source, settings)
    model.set_up_inference(pick_inference_precision(settings.infer.precision, device), device)
    synthesizer = Synthesizer(model, codec, tokenizer, settings.infer, settings.model.prefix_mode, device)
    if source.is_reference:
        synthesizer.follow_reference(FramesPerId(FRAMES_PER_ID, settings.model.prepend_bos))
    return synthesizer


def load_pair(source: Checkpoint, settings: Settings) -> VALLE:
    """A checkpoint's AR and NAR. Raises UserError when one of them is not there."""
    weights = load_weights(source)
    if not any(name.startswith("nar_") for name in weights):
        raise UserError(
            f"--infer_expt_dir: {source.path} holds an AR model alone; train a NAR with it "
            "(--model_train_stage 2) and name that experiment"
        )
    with torch.device("meta"):
        model = VALLE(settings.model)
    load_checked(model, weights, source, assign=True)
    return model


def check_codec(source: Checkpoint, codec: Codec) -> None:
    """Raises UserError when a checkpoint's codes were made by another codec: its speech would be noise."""
    if load_meta(source)["codec"] not in (None, codec.fingerprint()):
        raise UserError(f"preprocess.codec_checkpoint: not the codec that {source.path} was trained with")


def load_checked(model: VALLE, weights: dict[str, Tensor], source: Checkpoint | None, assign: bool = False) -> None:
    """Load weights of the AR, the NAR or both; raises UserError naming the checkpoint when they do not fit."""
    path = source.path if source else "weights"
    try:
        missing = model.load_named_weights(weights, assign)
    except ValueError as error:
        raise UserError(f"{path}: {error}; the model settings differ") from error
    given = {name.split("_")[0] for name in weights}
    lacking = [name for name in missing if name.split("_")[0] in given]
    if lacking:
        raise UserError(f"{path}: {len(lacking)} weights are missing, such as {lacking[0]}; the model settings differ")
