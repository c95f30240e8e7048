"""A model whose parts have shapes and no values, with its real processor: what turns samples into rows, at the price of files.

Whoever looks at labels or counts a budget needs the text side of a model, and no weight of it.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vlmzoo.assemble import assemble, finish, make_processor
from vlmzoo.config import ModelConfig
from vlmzoo.image_token import find_image_token
from vlmzoo.known_shapes import KnownShapes
from vlmzoo.model.vlm import VLM
from vlmzoo.offline import offline
from vlmzoo.tokenizer import read_tokenizer
from vlmzoo_registry.notes import Note


def without_values(config: ModelConfig) -> VLM:
    """The model on the meta device, with its real processor; architectures are those that this machine knows.

    Raises `AssemblyError` where the parts do not fit together, or the tokenizer cannot be read.
    """
    with offline(), torch.device("meta"), KnownShapes(), _without_notes():
        parts = assemble(config, described=True)
    tokenizer = read_tokenizer(config.language, parts.language)  # these files may be fetched
    token, token_id = find_image_token(tokenizer, parts.layout.control_tokens)
    with offline(), torch.device("meta"), _without_notes():
        model = finish(config, parts, token_id)
        model.processor = make_processor(model, config, tokenizer, token)
    return model


@contextmanager
def _without_notes() -> Iterator[None]:
    """Notes of parts are a plan's business: what matters here is the number of tokens."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        yield
