"""Attention of text positions to the image tokens they see, finite also where a position sees none."""

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional


def attend_visible(
    queries: Float[Tensor, "B H S w"],
    keys: Float[Tensor, "B G M w"],
    values: Float[Tensor, "B G M w"],
    visible: Bool[Tensor, "B S M"],
) -> tuple[Float[Tensor, "B S H*w"], Bool[Tensor, "B S 1"]]:
    """What each position gathers, heads side by side, and which positions see anything at all.

    H heads share G heads of keys and values. A position that sees nothing attends to everything instead, as in transformers'
    Mllama: a softmax over an empty set is NaN, in the gradient too, so such rows are computed and then left out by the caller.
    """
    sees = visible.any(dim=2, keepdim=True)  # B S 1
    mask = (visible | ~sees).unsqueeze(1)  # B 1 S M
    gathered = functional.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, enable_gqa=queries.shape[1] != keys.shape[1]
    )
    return gathered.transpose(1, 2).flatten(2), sees
