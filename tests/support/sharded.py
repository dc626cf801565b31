"""`bins/train.py` with FSDP on the CPU: a program for a launcher of processes.

accelerate turns FSDP on for GPUs alone, though all of it runs without. It is chosen as on GPUs, by the file that
`accelerate launch` is given.
"""

import sys

from accelerate import PartialState
from accelerate.utils import DistributedType

import bins.train


def allow_fsdp() -> None:
    """Let accelerate take these processes for those of GPUs."""
    PartialState(cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


if __name__ == "__main__":
    allow_fsdp()
    sys.exit(bins.train.main(sys.argv[1:]))
