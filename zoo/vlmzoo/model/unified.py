"""Unified embedding (LLaVA, arXiv:2304.08485, section 4.1): image tokens take the places of placeholders in the text."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import Cache

from vlmzoo.model.rows import check_rows, split_rows, without_borders
from vlmzoo.model.supervision import Supervision
from vlmzoo.model.vlm import VLM, VLMOutput
from vlmzoo_registry import DataError


class UnifiedVLM(VLM):
    """A model in which projected image tokens stand in the decoder's input sequence."""

    def forward(  # noqa: D102 - the base class has it
        self,
        input_ids: Int[Tensor, "B S"],
        attention_mask: Int[Tensor, "B T"] | None = None,
        position_ids: Int[Tensor, "B S"] | None = None,
        past_key_values: Cache | None = None,
        cache: Cache | None = None,
        pixel_values: Float[Tensor, "R V C H W"] | None = None,
        vision_features: Float[Tensor, "R V N D"] | None = None,
        image_mask: Bool[Tensor, "R V"] | None = None,
        image_layout: Int[Tensor, "R I 4"] | None = None,
        instruction_ids: Int[Tensor, "R Q"] | None = None,
        instruction_mask: Int[Tensor, "R Q"] | None = None,
        prefix_mask: Bool[Tensor, "B S"] | None = None,
        segment_ids: Int[Tensor, "B S"] | None = None,
        span_positions: Int[Tensor, "B S"] | None = None,
        row_lengths: Int[Tensor, " R"] | None = None,
        labels: Int[Tensor, "B S"] | None = None,
        targets: Int[Tensor, "B S"] | None = None,
        sentence_labels: Int[Tensor, " B"] | None = None,
        loss_weights: Float[Tensor, "B S"] | None = None,
        num_items_in_batch: int | float | Tensor | None = None,
        num_sentences_in_batch: int | float | Tensor | None = None,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        use_cache: bool | None = None,
        logits_to_keep: int | None = None,
        return_dict: bool | None = None,
    ) -> VLMOutput:
        if row_lengths is not None:
            images = next((len(given) for given in (pixel_values, vision_features) if given is not None), None)
            refused = {
                "attention_mask": attention_mask,
                "past_key_values": past_key_values,
                "cache": cache,
                "use_cache": use_cache or None,
                "sentence_labels": sentence_labels,
            }
            check_rows(row_lengths, input_ids, images, refused)
            labels = None if labels is None else without_borders(labels, row_lengths)
        cache = self.filled_cache(past_key_values, cache, use_cache)
        reads_prompt = cache is None or cache.get_seq_length() == 0
        slots = input_ids == self.config.image_token_id  # [B, S]
        supervision = Supervision(
            labels=labels,
            targets=targets,
            sentence_labels=sentence_labels,
            loss_weights=loss_weights,
            num_items_in_batch=num_items_in_batch,
            num_sentences_in_batch=num_sentences_in_batch,
            label_smoothing=label_smoothing,
            z_loss=z_loss,
        )

        self.refuse_unread(pixel_values, vision_features, image_mask, image_layout, instruction_ids, instruction_mask)
        embeddings = self.language.embedding(input_ids)  # [B, S, d]
        if pixel_values is not None or vision_features is not None:
            seen = self.encode_images(
                pixel_values, image_mask, image_layout, instruction_ids, instruction_mask, vision_features=vision_features
            )
            placed = [[self.layout(image.views, image.arrangement) for image in row] for row in seen]  # [M, d] each
            self.check_slots(split_rows(slots, row_lengths), placed)
            embeddings = place(embeddings, slots, placed)  # [B, S, d]
        elif reads_prompt:
            rows = split_rows(slots, row_lengths)
            self.check_slots(rows, [[]] * len(rows))
        reading = (
            self.reading(input_ids, attention_mask, labels, prefix_mask, segment_ids, span_positions, row_lengths)
            if reads_prompt
            else {}
        )
        hidden = self.language.decode(  # [B, S, d]
            embeddings,
            attention_mask=attention_mask,
            position_ids=self.positions(attention_mask, position_ids, input_ids, row_lengths),
            cache=cache,
            **reading,
        )
        return self.finish(hidden, cache, attention_mask, supervision, logits_to_keep)

    @staticmethod
    def check_slots(rows: Sequence[Bool[Tensor, "1 _"]], placed: Sequence[Sequence[Float[Tensor, "_ d"]]]) -> None:
        """Refuse a batch in which any row has more or fewer placeholders than its images have tokens.

        A count over the whole batch would let the surplus of one row fill the lack of another.
        """
        have = torch.stack([row.sum() for row in rows]).tolist()
        reasons = [
            f"row {row}: {slot} image slots in `input_ids`, but {_counted([len(image) for image in images])} features"
            for row, (slot, images) in enumerate(zip(have, placed, strict=True))
            if slot != sum(len(image) for image in images)
        ]
        if reasons:
            raise DataError(
                "image slots and images do not match (`model.processor` writes as many slots as there are tokens)", reasons
            )


def place(
    embeddings: Float[Tensor, "B S d"], slots: Bool[Tensor, "B S"], placed: Sequence[Sequence[Float[Tensor, "_ d"]]]
) -> Float[Tensor, "B S d"]:
    """The embeddings with the tokens of the images in their slots, row by row and image by image."""
    tokens = [image for row in placed for image in row]
    if not tokens:
        return embeddings
    return embeddings.masked_scatter(slots[..., None], torch.cat(tokens).to(embeddings.dtype))


def _counted(tokens: Sequence[int]) -> str:
    """`2 images x 16 tokens = 32`, or `2 images of 16 + 32 tokens = 48`."""
    if len(set(tokens)) == 1:
        return f"{len(tokens)} images x {tokens[0]} tokens = {sum(tokens)}"
    return f"{len(tokens)} images of {' + '.join(map(str, tokens))} tokens = {sum(tokens)}" if tokens else "0 images = 0"
