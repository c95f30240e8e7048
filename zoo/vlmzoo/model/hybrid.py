"""Hybrid (NVLM-H, arXiv:2409.11402, section 3.2): the whole image stands in the text, its tiles are attended to.

One chain of connectors serves both: what it makes of the thumbnail takes places in the text, and what it makes of the tiles
gives keys and values to the blocks in the decoder.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlmzoo.model.cross_attention import CrossAttentionVLM
from vlmzoo.model.rows import split_rows
from vlmzoo.model.unified import UnifiedVLM, place
from vlmzoo.model.vlm import SeenImage
from vlmzoo_registry import PluginError


class HybridVLM(CrossAttentionVLM):
    """A model that reads a thumbnail of each image, and attends to its tiles through extra blocks.

    An image that its layout does not cut has a thumbnail alone, and nothing is attended to.
    """

    def place(  # noqa: D102 - the base class has it
        self,
        embeddings: Float[Tensor, "B S d"],
        slots: Bool[Tensor, "B S"],
        seen: Sequence[Sequence[SeenImage]],
        row_lengths: Int[Tensor, " R"] | None,
    ) -> Float[Tensor, "B S d"]:
        placed = [[image.views.tokens[self.thumbnail(image)] for image in row] for row in seen]  # [N, d] each
        UnifiedVLM.check_slots(split_rows(slots, row_lengths), placed)
        return place(embeddings, slots, placed)

    def markers(self, slots: Bool[Tensor, "B S"]) -> Bool[Tensor, "B S"]:  # noqa: D102 - the base class has it
        ordinal = slots.long().cumsum(dim=1) - 1  # every thumbnail has as many slots: an image begins at its first
        return slots & (ordinal % self.image_shape.count == 0)

    def attended(self, image: SeenImage) -> Float[Tensor, "M D"]:  # noqa: D102 - the base class has it
        views, thumbnail = image.views.tokens, self.thumbnail(image)
        return torch.cat([views[:thumbnail], views[thumbnail + 1 :]]).flatten(0, 1)

    def thumbnail(self, image: SeenImage) -> int:
        """Which view stands in the text.

        Raises `PluginError` where the layout has cut an image and names none: the assembler has asked it for some sizes only.
        """
        index, views = self.layout.thumbnail(image.arrangement), self.layout.views(image.arrangement)
        if index is None and views > 1:
            raise PluginError(
                f"`{type(self.layout).__name__}` cut an image into {views} views and says that none shows the whole "
                f"({image.arrangement}): a hybrid model reads that view in the text, and a tile cannot stand for it"
            )
        return 0 if index is None else index  # an image that is not cut is its own
