"""The one door for weights in other people's pickles: nothing in them is executed, and their bytes are known beforehand.

vlmzoo itself writes safetensors and JSON alone.
"""

import hashlib
import pickle
from pathlib import Path

import torch
from torch import Tensor

from vlmzoo_registry.errors import CheckpointError


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_foreign(path: Path, *, sha256: str) -> dict[str, Tensor]:
    """The state dict in a `.pth` or `.bin` file, on the CPU.

    Raises `CheckpointError` where the file is not the one of this SHA-256 (checked before anything is unpickled), or holds
    anything but tensors by name.
    """
    found = file_sha256(path)
    if found != sha256:
        raise CheckpointError(
            f"`{path}` has the SHA-256 {found}, not {sha256}: it is damaged or another file; install it again"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"`{path}` holds more than tensors, and is not loaded: {str(error).splitlines()[0]}") from error
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise CheckpointError(f"`{path}` is not a state dict (tensors by name)")
    return dict(state)
