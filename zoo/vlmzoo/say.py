"""What a model says about a batch: greedy generation, as text."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from vlmzoo.model.vlm import VLM


def say(model: VLM, batch: Mapping[str, Tensor], max_new_tokens: int) -> list[str]:
    """The text with which the model continues each row of a batch that is padded on the left; the likeliest token each time."""
    with torch.inference_mode():
        ids = cast(Any, model).generate(**batch, max_new_tokens=max_new_tokens, do_sample=False)
    return list(model.processor.decode(ids, prompt_length=batch["input_ids"].shape[1]))
