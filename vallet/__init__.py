"""Text to speech in the voice of a recording, from Python.

    import vallet

    tts = vallet.load("ckpts/tts/libritts_nar")
    tts.say("Hello.", prompt="anna.wav", prompt_text="What is said in it.").save("hello.wav")

`load` takes the folder of an experiment, or of a released model. Without a folder it takes the pretrained pair.
"""

from vallet._packages import check_packages

check_packages()

from synthesis.queue import SpokenText  # noqa: E402 (only after the check)
from utils.errors import UserError  # noqa: E402
from vallet.tts import TTS, load  # noqa: E402

__all__ = ["TTS", "SpokenText", "UserError", "load"]
