"""The same images and ids through a zoo model and a published class: how far their logits are apart."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from vlmzoo.data.reader import pack_arrangements
from vlmzoo.exchange.exchange import Exchange
from vlmzoo.model.unified import UnifiedVLM
from vlmzoo.model.vlm import VLM
from vlmzoo_registry import AssemblyError

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""The difference of logits that is taken for rounding, as a share of the largest logit; by the type of the published class."""

_WORDS = 7


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


def trial_batch(model: VLM) -> dict[str, Tensor]:
    """Two rows of random ids, with an image of noise at another place in each."""
    generator = torch.Generator().manual_seed(0)
    token = model.config.image_token_id
    height, width = model.vision.transform.height, model.vision.transform.width
    fixed = model.layout.fixed
    cut = model.layout.arrangement((height + height // 3, 2 * width + 1)) if fixed is None else fixed
    views, size = model.layout.views(cut), model.layout.view_size(cut)
    placed = model.layout.text(cut) if isinstance(model, UnifiedVLM) else (1,)
    slots = sum(piece for piece in placed if isinstance(piece, int))
    rows = []
    for before in (1, 3):
        words = torch.randint(0, min(token, model.language.text_config.vocab_size), (_WORDS,), generator=generator)
        rows.append(torch.cat([words[:before], torch.full((slots,), token), words[before:]]))
    ids = torch.stack(rows)
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(2, views, 3, *size, generator=generator),
        "image_mask": torch.ones(2, views, dtype=torch.bool),
    }
    return batch if fixed is not None else {**batch, "image_layout": pack_arrangements([[cut], [cut]])}


def difference(exchange: Exchange, published: PreTrainedModel, model: VLM, batch: Mapping[str, Tensor]) -> Difference:
    """Both models on one batch of the zoo, in evaluation mode and without gradients."""
    on_device = {name: tensor.to(model.device) for name, tensor in batch.items()}
    inputs = exchange.inputs(on_device, published.config)
    with torch.inference_mode():
        return apart(model(**on_device).logits, published(**in_type(inputs, published.dtype)).logits)


def in_type(inputs: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Inputs with their pixels in the type of the weights, as transformers wants them."""
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in inputs.items()}


def apart(own: Tensor, theirs: Tensor) -> Difference:
    """The difference of logits of a zoo model and a published class; the zoo's may have rows more than the class's head."""
    one, other = own[..., : theirs.shape[-1]].double(), theirs.double()
    return Difference((one - other).abs().max().item(), other.abs().max().item(), theirs.dtype)
