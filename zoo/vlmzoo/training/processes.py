"""The device of a run, and the processes that were started together for it."""

import os
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import gather_object

from vlmzoo_registry import ResourceError

PATIENCE = timedelta(hours=6)
"""How long a process waits for the others.

Before the first step of a stage they measure rows and encode images, not equally fast, and after the last step one of them
writes: the 10 minutes that are usual for NCCL would end healthy runs. A process that dies ends the others at once where
`accelerate launch` or `torchrun` started them.
"""

Brought = TypeVar("Brought")


def join_processes() -> Accelerator:
    """The device, and the processes that were started together.

    Raises `ResourceError` where they do not find each other: each would train alone and write over the others.
    """
    # Without `cpu`, processes on a machine without an accelerator would each train alone. Precision is chosen where the
    # forward runs: accelerate would keep its choice for the rest of the process.
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),
        mixed_precision="no",
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )
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


def exchanged_here(accelerator: Accelerator, mine: Brought) -> list[Brought]:
    """What each process on this machine brings, in one order for all of them; to be called by all processes of all machines."""
    if accelerator.num_processes == 1:
        return [mine]
    machine = accelerator.process_index - accelerator.local_process_index  # the first of its processes
    return [brought for where, brought in gather_object([(machine, mine)]) if where == machine]


def agreed(accelerator: Accelerator, *numbers: int) -> tuple[int, ...]:
    """For each of these numbers the largest that any process brings: what one of them noticed, all of them act upon."""
    if accelerator.num_processes == 1:
        return numbers
    brought = accelerator.gather(torch.tensor([numbers], device=accelerator.device))  # [processes, numbers]
    return tuple(int(number) for number in brought.amax(dim=0))
