"""Cross-attention (Flamingo, arXiv:2204.14198, section 2; Llama 3.2 Vision): blocks between decoder layers attend to images.

The text sequence stays as it is, with one placeholder per image that says where it stands. The blocks belong to the
connector and run from hooks on the decoder layers, so the language model's own parameters keep their names.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import Cache

from vlmzoo.model.configuration import VLMConfig
from vlmzoo.model.rows import check_rows, split_rows, without_borders
from vlmzoo.model.supervision import Supervision
from vlmzoo.model.vision_cache import VisionMemory, visible_tokens
from vlmzoo.model.vlm import VLM, SeenImage, VLMOutput
from vlmzoo_registry import DataError, DecoderBlock, ImageLayout, LanguageModel, LayersConnector, VisionEncoder


class Sight:
    """What the blocks of one forward see: keys and values per block, and which tokens each position may attend to."""

    def __init__(self, memory: VisionMemory, visible: Bool[Tensor, "B S L"]) -> None:
        self.memory = memory
        self.visible = visible
        self.sees_any = visible.any(dim=-1, keepdim=True)  # [B, S, 1]
        self.has_image = (memory.owner >= 0).any(dim=1)[:, None, None]  # [B, 1, 1]


@dataclass(frozen=True)
class RowSights:
    """What the blocks see in rows that stand one after the other: the tokens of each row, and its own sight or None."""

    lengths: Sequence[int]
    rows: Sequence[Sight | None]


class CrossAttentionVLM(VLM):
    """A model whose decoder attends to image tokens through extra blocks."""

    def __init__(
        self,
        config: VLMConfig,
        vision: VisionEncoder,
        connector: Sequence[nn.Module],
        language: LanguageModel,
        layout: ImageLayout,
    ) -> None:
        super().__init__(config, vision, connector, language, layout)
        self._sight: Sight | RowSights | None = None
        layers = language.decoder_layers
        self.keep_whole(sorted({type(module).__name__ for module in (*layers, *self.blocks)}))
        for index, (block, at) in enumerate(zip(self.blocks, self.layers.placement, strict=True)):
            if self.layers.place == "before":
                layers[at].register_forward_pre_hook(_Before(self, index, block), with_kwargs=True)
            else:
                layers[at].register_forward_hook(_After(self, index, block))

    @property
    def layers(self) -> LayersConnector:
        """The connector whose blocks sit in the decoder: the last of the chain, before the layout."""
        return cast(LayersConnector, self.connector[-2])

    @property
    def blocks(self) -> list[DecoderBlock]:
        """The blocks between the decoder's layers, in order."""
        return [cast(DecoderBlock, block) for block in self.layers.blocks]

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
        seen: Sequence[Sequence[SeenImage]] = []
        memory = VisionMemory.recall(cache)
        if pixel_values is not None or vision_features is not None:
            if memory is not None:
                # They would take the place of the earlier ones, which the text goes on to speak about.
                raise DataError(
                    f"images came with a cache that holds {memory.images} images per row already: pass the whole "
                    "conversation with all its images and no cache"
                )
            seen = self.encode_images(
                pixel_values, image_mask, image_layout, instruction_ids, instruction_mask, vision_features=vision_features
            )
            embeddings = self.place(embeddings, slots, seen, row_lengths)  # [B, S, d]
            if row_lengths is None:
                memory = self.remember(seen)
        elif reads_prompt:
            self.place(embeddings, slots, [[]] * len(split_rows(slots, row_lengths)), row_lengths)
        markers = self.markers(slots)  # [B, S], one per image
        sight: Sight | RowSights | None = None if memory is None else self.look(memory, markers)
        if row_lengths is not None:
            sight = self.look_in_rows(seen, split_rows(slots, row_lengths))

        reading = (
            self.reading(input_ids, attention_mask, labels, prefix_mask, segment_ids, span_positions, row_lengths)
            if reads_prompt
            else {}
        )
        with self.seeing(sight):
            hidden = self.language.decode(  # [B, S, d]
                embeddings,
                attention_mask=attention_mask,
                position_ids=self.positions(attention_mask, position_ids, input_ids, row_lengths),
                cache=cache,
                **reading,
            )
        if cache is not None and memory is not None:
            VisionMemory(memory.keys_values, memory.seen + markers.sum(dim=1), memory.owner).store(cache)
        return self.finish(hidden, cache, attention_mask, supervision, logits_to_keep)

    # ---- what stands in the text ------------------------------------------------------------------------------------

    def place(
        self,
        embeddings: Float[Tensor, "B S d"],
        slots: Bool[Tensor, "B S"],
        seen: Sequence[Sequence[SeenImage]],
        row_lengths: Int[Tensor, " R"] | None,
    ) -> Float[Tensor, "B S d"]:
        """What the decoder reads: here the text as it is, in which one marker says where an image stands.

        Raises `DataError` where a row has more or fewer markers than images.
        """
        found = torch.stack([row.sum() for row in split_rows(slots, row_lengths)]).tolist()
        reasons = [
            f"row {row}: {marker} image markers in `input_ids`, but {len(images)} images"
            for row, (marker, images) in enumerate(zip(found, seen, strict=True))
            if marker != len(images)
        ]
        if reasons:
            raise DataError("image markers and images do not match (`model.processor` writes one marker per image)", reasons)
        return embeddings

    def markers(self, slots: Bool[Tensor, "B S"]) -> Bool[Tensor, "B S"]:
        """The positions at which an image begins to be seen, one for each."""
        return slots

    # ---- what is attended to ----------------------------------------------------------------------------------------

    def attended(self, image: SeenImage) -> Float[Tensor, "M D"]:
        """The tokens of an image that the blocks attend to: here all, in the order of the layout."""
        return self.layout(image.views, image.arrangement)

    def remember(self, seen: Sequence[Sequence[SeenImage]]) -> VisionMemory | None:
        """The keys and values of every block for the images of each row, computed once per generation; None without any."""
        rows = [[self.attended(image) for image in row] for row in seen]
        longest = max(sum(len(image) for image in row) for row in rows)
        if longest == 0:
            return None
        some = next(image for row in rows for image in row)
        tokens = some.new_zeros(len(rows), longest, some.shape[1])  # [B, L, D]; what is of no image stays 0, never visible
        owner = torch.full((len(rows), longest), -1, device=some.device)
        for number, row in enumerate(rows):
            if row:
                joined = torch.cat(row)
                tokens[number, : len(joined)] = joined
                lengths = torch.tensor([len(image) for image in row], device=some.device)
                owner[number, : len(joined)] = torch.arange(len(row), device=some.device).repeat_interleave(lengths)
        pairs = tuple(block.keys_values(tokens) for block in self.blocks)
        return VisionMemory(pairs, torch.zeros(len(rows), dtype=torch.long, device=some.device), owner)

    def look(self, memory: VisionMemory, markers: Bool[Tensor, "B S"]) -> Sight:
        """Which image tokens each text position sees."""
        visible = visible_tokens(markers, memory.seen, memory.owner, last_only=self.layers.attend == "last")
        return Sight(memory, visible)  # [B, S, L]

    def look_in_rows(self, seen: Sequence[Sequence[SeenImage]], rows: Sequence[Bool[Tensor, "1 _"]]) -> "RowSights | None":
        """The same for rows that stand one after the other: each sees what it sees alone; None where none has an image."""
        memories = [self.remember([images]) for images in seen]
        if not any(memories):
            return None
        sights = [
            None if memory is None else self.look(memory, self.markers(row)) for memory, row in zip(memories, rows, strict=True)
        ]
        return RowSights([row.shape[1] for row in rows], sights)

    @contextmanager
    def seeing(self, sight: "Sight | RowSights | None") -> Iterator[None]:
        """Let the blocks see this while the decoder runs; None skips them, which is the text-only model bit for bit."""
        before, self._sight = self._sight, sight
        try:
            yield
        finally:
            self._sight = before

    def attend(self, index: int, block: DecoderBlock, hidden: Float[Tensor, "B S d"]) -> Float[Tensor, "B S d"]:
        """Run one block on the hidden states between two decoder layers."""
        sight = self._sight
        if isinstance(sight, RowSights):
            rows = zip(hidden.split(sight.lengths, dim=1), sight.rows, strict=True)
            return torch.cat([self._through(index, block, row, seen) for row, seen in rows], dim=1)
        return self._through(index, block, hidden, sight)

    def _through(
        self, index: int, block: DecoderBlock, hidden: Float[Tensor, "B S d"], sight: Sight | None
    ) -> Float[Tensor, "B S d"]:
        if sight is None:
            return hidden
        keys, values = sight.memory.keys_values[index]
        seen = block(hidden.to(keys.dtype), keys, values, sight.visible).to(hidden.dtype)
        # A row without any image is that of the text-only model, whatever stands beside it.
        return torch.where(sight.sees_any if self.layers.masked_rows == "zero" else sight.has_image, seen, hidden)

    def _checkpoint_contexts(self) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        # A decoder layer is recomputed after `forward` has ended: it must see what it saw the first time.
        return nullcontext(), self.seeing(self._sight)


class _Before:
    """Runs a block on what enters a decoder layer."""

    def __init__(self, model: CrossAttentionVLM, index: int, block: DecoderBlock) -> None:
        self.model, self.index, self.block = model, index, block

    def __call__(
        self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (self.model.attend(self.index, self.block, args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": self.model.attend(self.index, self.block, kwargs["hidden_states"])}


class _After:
    """Runs a block on what leaves a decoder layer."""

    def __init__(self, model: CrossAttentionVLM, index: int, block: DecoderBlock) -> None:
        self.model, self.index, self.block = model, index, block

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            return (self.model.attend(self.index, self.block, output[0]), *output[1:])
        return self.model.attend(self.index, self.block, output)
