"""Memory in training: how much was used, and what to do where there was not enough."""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from vlmzoo_registry import ResourceError

# What the allocators of torch say; the one of the CPU raises a plain RuntimeError.
_SAID_BY_TORCH = ("not enough memory", "can't allocate memory", "out of memory")


@contextmanager
def explained_shortage(where: str, micro_batch: int) -> Iterator[None]:
    """Turn a lack of memory into a `ResourceError` that says where it was and what makes the step smaller."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        smaller = (
            f"lower `micro_batch` (={micro_batch}), which needs less and makes the same update"
            if micro_batch > 1
            else "`micro_batch` is 1 already: train fewer parts, or take smaller ones or shorter rows"
        )
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ResourceError(f"{where}: not enough memory ({said}); {smaller}") from error


def is_shortage(error: BaseException) -> bool:
    """Whether an error says that memory is used up."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error).lower() for said in _SAID_BY_TORCH)


def peak_memory() -> int:
    """The most bytes used so far: on the accelerator where there is one, else by this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if sys.platform == "linux":
        # Not `ru_maxrss`: a process inherits in it what the process that started it had used.
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024
