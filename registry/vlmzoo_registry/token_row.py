"""One row as the model reads it: ids with what is to be said at each of them, where they stand, and who sees whom.

It is what an objective may still change once labels exist: masked LM and blank infilling work on tokens, not on characters.
"""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

IGNORE = -100
"""The label of a position that is not supervised."""


@dataclass(frozen=True)
class TokenRow:
    """The tokens of one sample.

    `labels` stand beside their own ids, -100 where nothing is supervised; an objective whose `shift` is False puts them where
    they are to be said. `weights` is None where every weight is 1.

    The others are None unless an objective sets them. `prefix`: so many tokens at the beginning see each other in both
    directions. `position_ids`: where each token stands in the text. `span_positions`: where it stands in a span that is filled
    in, 0 outside of one. `segment_ids`: 0 for the first of two texts, 1 for the second. `sentence_label`: what a sentence head
    is to say of the row.
    """

    input_ids: Int[Tensor, " S"]
    labels: Int[Tensor, " S"]
    weights: Float[Tensor, " S"] | None = None
    prefix: int | None = None
    position_ids: Int[Tensor, " S"] | None = None
    span_positions: Int[Tensor, " S"] | None = None
    segment_ids: Int[Tensor, " S"] | None = None
    sentence_label: int | None = None
