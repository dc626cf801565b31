"""Text to speech in the voice of a recording, from Python.

    import vallet

    tts = vallet.load("ckpts/tts/libritts_nar")
    tts.say("Hello.", prompt="anna.wav", prompt_text="What is said in it.").save("hello.wav")

`load` takes the folder of an experiment, or of a released model. Without a folder it takes the pretrained pair.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vallet._packages import check_packages

if TYPE_CHECKING:
    from synthesis.queue import SpokenText
    from utils.errors import UserError
    from vallet.tts import TTS, load

check_packages()

__all__ = ["TTS", "SpokenText", "UserError", "load"]
_MODULES = {"TTS": "vallet.tts", "SpokenText": "synthesis.queue", "UserError": "utils.errors", "load": "vallet.tts"}


def __getattr__(name: str) -> Any:
    """Import what is used for the first time: `import vallet` alone does not wait for torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = getattr(import_module(_MODULES[name]), name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
