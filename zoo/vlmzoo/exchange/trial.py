"""The same images and ids through a zoo model and a published class: how far their logits are apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from vlmzoo.data.padding import pad_rows
from vlmzoo.data.reader import pack_arrangements, pad_images
from vlmzoo.exchange.exchange import Exchange
from vlmzoo.model.unified import UnifiedVLM
from vlmzoo.model.vlm import VLM
from vlmzoo_registry import Arrangement, AssemblyError

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""The difference of logits that is taken for rounding, as a share of the largest logit; by the type of the published class."""


@dataclass(frozen=True)
class Difference:
    """The largest difference of two sets of logits, and the largest logit it is to be seen against."""

    largest: float
    scale: float
    dtype: torch.dtype

    @property
    def allowed(self) -> float:
        """What is taken for rounding."""
        return TOLERANCE[self.dtype] * max(self.scale, 1.0)

    def check(self, name: str) -> None:
        """Raise `AssemblyError` where this is more than rounding."""
        if not self.largest <= self.allowed:
            raise AssemblyError(
                f"with the same weights {name} and the zoo model give other logits: they differ by {self.largest:.3g}, and "
                f"at most {self.allowed:.3g} is rounding (the largest logit is {self.scale:.3g})"
            )


def trial_batch(
    model: VLM,
    images: Sequence[int] = (1, 1),
    *,
    side: Literal["left", "right"] = "right",
    words_first: bool = True,
) -> dict[str, Tensor]:
    """Rows of random ids with so many images of noise each, words between them; shorter rows are padded on `side`.

    With `words_first` a row begins with a word, else with its first image.
    """
    generator = torch.Generator().manual_seed(0)
    token = model.config.image_token_id
    cut = _arrangement(model)
    placed = model.layout.text(cut) if isinstance(model, UnifiedVLM) else (1,)
    slots = torch.full((sum(piece for piece in placed if isinstance(piece, int)),), token)
    vocabulary = min(token, model.language.text_config.vocab_size)
    rows = []
    for number, count in enumerate(images):
        pieces = []
        for place in range(count):
            length = 1 + number + place % 2 if place or words_first else 0
            pieces += [torch.randint(0, vocabulary, (length,), generator=generator), slots]
        rows.append(torch.cat([*pieces, torch.randint(0, vocabulary, (6 + number,), generator=generator)]))
    batch = {
        "input_ids": pad_rows(rows, 0, side=side),
        "attention_mask": pad_rows([torch.ones_like(row) for row in rows], 0, side=side),
    }
    if not any(images):
        return batch
    views, size = model.layout.views(cut), model.layout.view_size(cut)
    pixels = [[torch.randn(3, *size, generator=generator) for _ in range(views * count)] for count in images]
    batch["pixel_values"], batch["image_mask"] = pad_images(pixels)
    if model.layout.fixed is None:
        batch["image_layout"] = pack_arrangements([[cut] * count for count in images])
    return batch


def _arrangement(model: VLM) -> Arrangement:
    """How an image is cut that is wider than high, where the layout cuts by size."""
    height, width = model.vision.transform.size
    fixed = model.layout.fixed
    return model.layout.arrangement((height + height // 3, 2 * width + 1)) if fixed is None else fixed


def difference(exchange: Exchange, published: PreTrainedModel, model: VLM, batch: Mapping[str, Tensor]) -> Difference:
    """Both models on one batch of the zoo, in evaluation mode and without gradients."""
    on_device = {name: tensor.to(model.device) for name, tensor in batch.items()}
    inputs = exchange.inputs(on_device, published.config)
    real = on_device["attention_mask"].bool()  # what stands at padding is nobody's business
    with torch.inference_mode():
        return apart(model(**on_device).logits[real], published(**in_type(inputs, published.dtype)).logits[real])


def in_type(inputs: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Inputs with their pixels in the type of the weights, as transformers wants them."""
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in inputs.items()}


def apart(own: Tensor, theirs: Tensor) -> Difference:
    """The difference of logits of a zoo model and a published class; the zoo's may have rows more than the class's head."""
    one, other = own[..., : theirs.shape[-1]].double(), theirs.double()
    return Difference((one - other).abs().max().item(), other.abs().max().item(), theirs.dtype)
