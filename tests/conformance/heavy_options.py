"""Options in a module that imports torch, which no options may."""

import torch

from vlmzoo_registry import ComponentConfig


class HeavyOptions(ComponentConfig):
    """They need no torch."""

    threads: int = torch.get_num_threads()
