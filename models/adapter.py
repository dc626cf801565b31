"""LoRA adapters (arXiv 2106.09685): low-rank updates of a trained model's linear layers, by peft."""

import hashlib
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from config.schema import LoraSettings
from models.contract import CodecLM

_DOWN, _UP = "lora_A.weight", "lora_B.weight"


def add_adapter(model: CodecLM, settings: LoraSettings) -> None:
    """Freeze the model, and add an update to each linear layer that trains and has a name of `targets`.

    The updates begin at zero, so that outputs stay the same, bit for bit. From then on the weights that are saved and
    loaded are those of the adapter. Raises ValueError for a name that no such layer has.
    """
    # Importing peft takes seconds, and only a training of an adapter needs it.
    from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model

    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    trainable = [name for name in linears if model.get_parameter(f"{name}.weight").requires_grad]
    known = {name.rpartition(".")[2] for name in trainable}
    for target in settings.targets:
        if target not in known:
            names = ", ".join(sorted(name for name in known if not name.isdigit()))
            raise ValueError(f"no linear layer that trains is called {target}; there are {names}")
    chosen = [name for name in trainable if name.rpartition(".")[2] in settings.targets]
    # As a pattern of whole names: names in a list would also match the ends of others.
    pattern = "|".join(map(re.escape, chosen))
    inject_adapter_in_model(LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=pattern), model)
    own = model.state_dict(keep_vars=True)
    # Without the adapter's own name in them.
    saved = {id(value): name for name, value in get_peft_model_state_dict(model, state_dict=own).items()}
    model.adapter_names = {name: model.weight_name(saved[id(own[name])]) for name in own if id(own[name]) in saved}


def merged(base: Mapping[str, Tensor], adapter: Mapping[str, Tensor], settings: LoraSettings) -> dict[str, Tensor]:
    """The weights of a base with an adapter, both by checkpoint name: `W + alpha / rank * B A` in fp32.

    Raises ValueError if the base has no such layer, or one of another shape.
    """
    weights = dict(base)
    for name, up in adapter.items():
        if not name.endswith(_UP):
            continue
        layer = name.removesuffix(_UP)
        down, target = adapter.get(layer + _DOWN), base.get(layer + "weight")
        if down is None or target is None or target.shape != (len(up), down.shape[1]):
            raise ValueError(f"{layer}weight of the base does not fit the adapter")
        update = up.float() @ down.float()
        weights[layer + "weight"] = target.float() + settings.alpha / settings.rank * update
    return weights


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """Tells a base from others: a hash of its names, shapes and vectors, which every step of a training changes.

    The matrices are not read, as they may have gigabytes.
    """
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        if value.ndim < 2:
            digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
