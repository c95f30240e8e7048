"""No question to the hub: a check that promises to download nothing must not depend on every part keeping that promise."""

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants


@contextmanager
def offline() -> Iterator[None]:
    """Let huggingface_hub (and so transformers, timm, open_clip) look only at this machine while the block runs."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
