"""The device of a run, and the processes that were started together for it."""

import os

import torch
from accelerate import Accelerator

from vlmzoo_registry import ResourceError


def join_processes() -> Accelerator:
    """The device, and the processes that were started together.

    Raises `ResourceError` where they do not find each other: each would train alone and write over the others.
    """
    # Without `cpu`, processes on a machine without an accelerator would each train alone. Precision is chosen where the
    # forward runs: accelerate would keep its choice for the rest of the process.
    accelerator = Accelerator(cpu=not torch.accelerator.is_available(), mixed_precision="no")
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != started:
        raise ResourceError(
            f"{started} processes were started together (WORLD_SIZE), but accelerate has joined {accelerator.num_processes}: "
            "start them with `accelerate launch` or `torchrun`, and import nothing before that makes an `Accelerator`"
        )
    return accelerator


def share_here(accelerator: Accelerator) -> tuple[int, int]:
    """Which one this is of the processes on this machine, and how many these are: they share its disk, others may not."""
    return accelerator.local_process_index, int(os.environ.get("LOCAL_WORLD_SIZE", accelerator.num_processes))


def agreed(accelerator: Accelerator, number: int) -> int:
    """The largest of the numbers that the processes bring: what one of them noticed, all of them act upon."""
    if accelerator.num_processes == 1:
        return number
    return int(accelerator.gather(torch.tensor([number], device=accelerator.device)).max())
