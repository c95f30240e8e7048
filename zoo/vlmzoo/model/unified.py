"""Unified embedding (LLaVA, arXiv:2304.08485, section 4.1): image tokens take the places of placeholders in the text."""

from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import Cache, DynamicCache

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
        pixel_values: Float[Tensor, "B I 3 H W"] | None = None,
        image_mask: Bool[Tensor, "B I"] | None = None,
        labels: Int[Tensor, "B S"] | None = None,
        loss_weights: Float[Tensor, "B S"] | None = None,
        num_items_in_batch: int | float | Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | None = None,
        return_dict: bool | None = None,
    ) -> VLMOutput:
        cache = DynamicCache(config=self.config.get_text_config()) if use_cache and past_key_values is None else past_key_values
        reads_prompt = cache is None or cache.get_seq_length() == 0
        slots = input_ids == self.config.image_token_id  # [B, S]

        embeddings = self.language.embedding(input_ids)  # [B, S, d]
        if pixel_values is not None:
            features, image_mask = self.encode_images(pixel_values, image_mask)  # [n, M, d]
            self.check_slots(slots, image_mask)
            embeddings = embeddings.masked_scatter(slots[..., None], features.tokens.to(embeddings.dtype))  # [B, S, d]
        elif reads_prompt:
            self.check_slots(slots, None)
        hidden = self.language.decode(  # [B, S, d]
            embeddings,
            attention_mask=attention_mask,
            position_ids=self.positions(attention_mask, position_ids, input_ids.shape[1]),
            cache=cache,
        )
        return self.finish(hidden, cache, labels, loss_weights, num_items_in_batch, logits_to_keep)

    def check_slots(self, slots: Bool[Tensor, "B S"], image_mask: Bool[Tensor, "B I"] | None) -> None:
        """Refuse a batch in which any row has more or fewer placeholders than its images have tokens.

        A count over the whole batch would let the surplus of one row fill the lack of another.
        """
        have = slots.sum(dim=1).tolist()
        images = [0] * len(have) if image_mask is None else image_mask.sum(dim=1).tolist()
        count = self.image_shape.count
        reasons = [
            f"row {row}: {slot} image slots in `input_ids`, but {image} images x {count} tokens = {image * count} features"
            for row, (slot, image) in enumerate(zip(have, images, strict=True))
            if slot != image * count
        ]
        if reasons:
            raise DataError(
                "image slots and images do not match (`model.processor` writes as many slots as there are tokens)", reasons
            )
