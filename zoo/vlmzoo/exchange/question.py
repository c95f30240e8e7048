"""One image and one question through a zoo model's processor and a published one: they must make the same inputs of it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin

from vlmzoo.exchange.exchange import Exchange
from vlmzoo.exchange.trial import Difference, apart, in_type
from vlmzoo.model.vlm import VLM
from vlmzoo_registry import AssemblyError, Turn
from vlmzoo_registry.tasks import IMAGE

QUESTION = " What is this?"

Inputs = dict[str, Tensor]


def same_question(
    exchange: Exchange, processor: ProcessorMixin, model: VLM, config: PreTrainedConfig, *, pixels: float
) -> tuple[Inputs, Inputs]:
    """The batch of the zoo model's processor, and that of `processor`; `pixels` is how far their pixels may be apart.

    Raises `AssemblyError` with every input in which they differ.
    """
    zoo, transform = model.processor, model.vision.transform
    size = (transform.height + 9, 2 * transform.width - 5, 3)  # no size of any transform, and wider than high
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8))
    own = zoo(text=IMAGE + QUESTION, images=image)
    text = zoo.template.render([Turn("user", IMAGE + QUESTION)], prompt=True).text
    asked = exchange.prompt(text, zoo.image_token.text, zoo.tokenizer.bos_token)
    theirs: Any = processor(images=[image], return_tensors="pt", **asked)
    given = {name: theirs[name] for name in theirs if name not in _NOT_READ}
    reasons = unlike(exchange.inputs(own, config), exchange.seen(given, config), pixels=pixels)
    if reasons:
        raise AssemblyError(f"the processor of {exchange.name} and that of the zoo model make other inputs", reasons)
    return own, given


_NOT_READ = ("mm_token_type_ids", "labels")
"""What processors add for other programs, and what is not an input."""


def unlike(own: Mapping[str, Tensor], theirs: Mapping[str, Tensor], *, pixels: float) -> list[str]:
    """How the inputs for a published class differ that are made of the zoo's from those that its processor makes."""
    reasons = []
    for name in sorted(own.keys() | theirs.keys()):
        if name not in own or name not in theirs:
            reasons.append(f"`{name}`: only {'the zoo' if name in own else 'the processor of transformers'} makes it")
            continue
        mine, other = own[name], theirs[name]
        if mine.shape != other.shape:
            reasons.append(f"`{name}`: {list(mine.shape)} and, of transformers, {list(other.shape)}")
            continue
        apart = (mine.double() - other.double()).abs().max().item()
        if apart > (pixels if mine.is_floating_point() else 0):
            reasons.append(f"`{name}`: they differ by {apart:.3g}")
    return reasons


def question_difference(published: PreTrainedModel, model: VLM, own: Inputs, theirs: Inputs) -> Difference:
    """The logits of both models, each for the inputs of its own processor."""
    device = model.device
    inputs = in_type({name: tensor.to(device) for name, tensor in theirs.items()}, published.dtype)
    with torch.inference_mode():
        logits = model(**{name: tensor.to(device) for name, tensor in own.items()}).logits
        return apart(logits, published(**inputs).logits)
