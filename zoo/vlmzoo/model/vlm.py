"""What unified and cross-attention models share: encoding images, connecting, the loss, generation, and saving.

Letters: B batch, I images per row at most, V views per row at most (one per image unless a layout cuts it), n images in the
batch, N vision tokens, D vision width, M tokens per image where it meets the text, d language width, S text length, T length
with the cache, K positions with logits, Q length of the instruction, R rows: B, or those that stand one after the other in one.
"""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import Cache, DynamicCache

from vlmzoo.adapters import Adapter
from vlmzoo.data.reader import unpack_arrangements
from vlmzoo.manifest import ComponentRecord
from vlmzoo.model.configuration import VLMConfig
from vlmzoo.model.rows import row_positions, split_rows
from vlmzoo.model.shapes import shapes_at
from vlmzoo.model.supervision import Supervision
from vlmzoo_registry import (
    Arrangement,
    Connector,
    DataError,
    FeatureShape,
    ImageLayout,
    ImageSize,
    InstructedConnector,
    LanguageModel,
    PluginError,
    VisionEncoder,
    VisionFeatures,
)
from vlmzoo_registry.compat.transformers import CausalLMOutput, GenerativeModel, cache_argument, cache_in

PARTS = ("vision", "connector", "language")


def connector_part(chain: Iterable[nn.Module], layout: ImageLayout) -> nn.ModuleList:
    """The connectors of a model and its layout: what a layout learns is between the encoder and the text, so it is theirs."""
    return nn.ModuleList([*chain, layout])


@dataclass(frozen=True)
class SeenImage:
    """One image behind the connectors: how it was cut, and the tokens of its views [views, N, d]."""

    arrangement: Arrangement
    views: VisionFeatures


def _together(views: Sequence[VisionFeatures]) -> VisionFeatures:
    """The views of one image, all of one size, as one batch."""
    return views[0] if len(views) == 1 else replace(views[0], tokens=torch.cat([view.tokens for view in views]))


def frozen_modules(part: nn.Module) -> list[nn.Module]:
    """The outermost modules of a part that have parameters of which none trains; the part itself where nothing of it does.

    Inside a part that trains in places these are the others: a batch norm there must not go on counting, and dropout in a
    frozen block would be noise that nothing learns from.
    """
    if not any(parameter.requires_grad for parameter in part.parameters()):
        return [part]
    return [
        module for child in part.children() if next(child.parameters(), None) is not None for module in frozen_modules(child)
    ]


@dataclass
class VLMOutput(CausalLMOutput):
    """What a forward returns; `logits` is None where labels were given and no logits were asked for.

    `nll` and `z` are the sums over supervised tokens that `LossOutput` describes, without weights, smoothing or gradients. The
    cache is `past_key_values`, which transformers calls `cache` from 5.24 on.
    """

    loss: Float[Tensor, ""] | None = None
    logits: Float[Tensor, "B K vocabulary"] | None = None
    nll: Float[Tensor, ""] | None = None
    z: Float[Tensor, ""] | None = None


class VLM(GenerativeModel):
    """An assembled vision-language model; made by `vlmzoo.build` and `vlmzoo.load`, not by hand.

    Its three parts are `vision`, `connector` (a list: connectors chain) and `language`; nothing else holds parameters.
    """

    config_class = VLMConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ["image", "text"]  # noqa: RUF012 - transformers' own kind of class attribute
    supports_gradient_checkpointing = True

    def __init__(
        self,
        config: VLMConfig,
        vision: VisionEncoder,
        connector: Sequence[nn.Module],
        language: LanguageModel,
        layout: ImageLayout,
    ) -> None:
        config.attach_text_config(language.text_config)
        super().__init__(config)
        self.vision = vision
        self.connector = connector_part(connector, layout)
        self.language = language
        self.processor: Any = None
        # Set by the assembler: what a checkpoint records of the parts, and what their tensors were when they were built.
        self.components: dict[str, tuple[ComponentRecord, ...]] = {}
        self.built: dict[str, dict[str, tuple[tuple[int, ...], torch.dtype]]] = {}
        # The parts that have adapters now: what training or a checkpoint has put on them.
        self.adapters: dict[str, Adapter] = {}
        self._shapes: dict[ImageSize, tuple[FeatureShape, ...]] = {}
        self.shapes_at(vision.transform.size)
        self.eval()

    @property
    def sequence_connectors(self) -> list[Connector]:
        """The connectors that map tokens to tokens, in order."""
        return [part for part in self.connector if isinstance(part, Connector)]

    @property
    def layout(self) -> ImageLayout:
        """How an image is cut into views, and their tokens put in order."""
        return cast(ImageLayout, self.connector[-1])

    @property
    def image_shape(self) -> FeatureShape:
        """What a view of the encoder's own size has become behind the connectors; the whole image where none is cut."""
        return self.shapes_at(self.vision.transform.size)[-1]

    @property
    def own_arrangement(self) -> Arrangement:
        """How an image of the encoder's own size is cut."""
        return self.layout.fixed or self.layout.arrangement(self.vision.transform.size)

    @property
    def image_tokens(self) -> int:
        """How many tokens an image of the encoder's own size becomes, in the text or for the blocks that attend to it."""
        return sum(piece for piece in self.layout.text(self.own_arrangement) if isinstance(piece, int))

    def shapes_at(self, size: ImageSize) -> tuple[FeatureShape, ...]:
        """What a view of this size becomes: behind the encoder, and behind each connector."""
        if size not in self._shapes:
            self._shapes[size] = shapes_at(self.vision, self.connector, size)
        return self._shapes[size]

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The three parts by name."""
        return dict(zip(PARTS, (self.vision, self.connector, self.language), strict=True))

    @abstractmethod
    def forward(
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
        """Run the model.

        Args:
            input_ids: the text, with image placeholders where the processor put them.
            attention_mask: 0 at padding, on either side.
            position_ids: default: counted from the attention mask, so that padding does not move them.
            past_key_values: the cache; updated in place.
            cache: the same under transformers' newer name; one of the two.
            pixel_values: the views of each row's images, in the order of its placeholders, padded to the same number and size.
            vision_features: instead of pixels, what the vision encoder has made of these views, padded to the same number of
                views and tokens.
            image_mask: which of them are there; default: all.
            image_layout: how each image was cut (`Arrangement`), where that depends on the image.
            instruction_ids: what the user says before the first answer, for a connector that reads it.
            instruction_mask: 0 at the padding of it.
            prefix_mask: the leading positions that see each other both ways, for a language model that can; default: none, or
                all before the answer for a model that always needs them.
            segment_ids: which of two texts a token belongs to, for a language model that reads it.
            span_positions: where a token stands in a span that is filled in, for a language model that reads it.
            row_lengths: the lengths of R rows that stand one after the other in `input_ids` [1, S] without padding, for a
                language model that keeps them apart. Each is what it is alone: nothing of a row reaches another. What is said
                of tokens is then [1, S] too, and what is said of rows (images, instructions) has R rows.
            labels: targets aligned with `input_ids` (the loss shifts); -100 is not supervised.
            targets: instead of labels, what each position itself predicts (masked LM); -100 is not supervised.
            sentence_labels: what the sentence head says of each row; its loss is added.
            loss_weights: the weight of each target.
            num_items_in_batch: the loss's denominator where the batch is part of a larger one; default: its own count.
            num_sentences_in_batch: the same for the sentence head.
            label_smoothing: the share of each target that is spread over the vocabulary.
            z_loss: the weight of (log Z)² beside each token's loss.
            use_cache: whether to make a cache where none was given.
            logits_to_keep: logits of the last so many positions; 0 for all. Default: all, or none where labels are given.
            return_dict: accepted for transformers' callers; the result is always a `VLMOutput`.
        """

    def generate(self, *arguments: Any, **options: Any) -> Any:
        """As transformers' `generate`; stops also at the words that end an answer, where the style ends with words.

        A model that reads prompts in both directions reads all of this one so, unless a `prefix_mask` says otherwise.
        """
        words = None if self.processor is None else self.processor.template.stop_words
        if words is not None:
            options = {"stop_strings": words, "tokenizer": self.processor.tokenizer, **options}
        prompt = arguments[0] if arguments else options.get("input_ids", options.get("inputs"))
        if self.language.prefix == "required" and isinstance(prompt, Tensor):
            # Said once, of the prompt: later steps cannot tell it from what was generated.
            mask = options.get("attention_mask")
            options = {"prefix_mask": torch.ones_like(prompt).bool() if mask is None else mask.bool(), **options}
        return cast(Any, super()).generate(*arguments, **options)

    # ---- images -----------------------------------------------------------------------------------------------------

    def refuse_unread(
        self,
        pixel_values: Float[Tensor, "B V C H W"] | None,
        vision_features: Float[Tensor, "B V N D"] | None,
        image_mask: Bool[Tensor, "B V"] | None,
        image_layout: Int[Tensor, "B I 4"] | None,
        instruction_ids: Int[Tensor, "B Q"] | None,
        instruction_mask: Int[Tensor, "B Q"] | None,
    ) -> None:
        """Refuse what nothing would read: a mask or layout of images that are not there, an instruction without a reader.

        Raises `DataError` with all of it. A connector that reads instructions may get those of rows without images.
        """
        reasons = []
        if pixel_values is not None and vision_features is not None:
            reasons.append("`pixel_values` and `vision_features` were given: pass one of them, they are the same images")
        if pixel_values is None and vision_features is None:
            of_images = {"image_mask": image_mask, "image_layout": image_layout}
            reasons += [
                f"`{name}` was given without `pixel_values`: pass the images too, or leave it out"
                for name, tensor in of_images.items()
                if tensor is not None
            ]
        if not any(isinstance(part, InstructedConnector) for part in self.connector):
            told = {"instruction_ids": instruction_ids, "instruction_mask": instruction_mask}
            reasons += [
                f"`{name}` was given, and no connector of this model reads an instruction: leave it out"
                for name, tensor in told.items()
                if tensor is not None
            ]
        if reasons:
            raise DataError("the batch has what this model would not read", reasons)

    def encode_images(
        self,
        pixel_values: Float[Tensor, "B V C H W"] | None,
        image_mask: Bool[Tensor, "B V"] | None = None,
        image_layout: Int[Tensor, "B I 4"] | None = None,
        instruction_ids: Int[Tensor, "B Q"] | None = None,
        instruction_mask: Int[Tensor, "B Q"] | None = None,
        *,
        vision_features: Float[Tensor, "B V N D"] | None = None,
    ) -> list[list[SeenImage]]:
        """Encode and connect the images of a batch; returns those of each row.

        Views of one size go through encoder and connectors together. A frozen encoder runs without gradients; where its
        features are given instead of pixels it does not run at all.

        Raises `DataError` naming the rows where views and images do not match, and for features that are not this encoder's.
        """
        given = pixel_values if vision_features is None else vision_features
        assert given is not None, "`forward` asks for images where there are some"
        if pixel_values is not None and pixel_values.ndim != 5:
            raise DataError(
                f"`pixel_values` has {pixel_values.ndim} axes {tuple(pixel_values.shape)}; it must be [rows, images per row, "
                "3, height, width], as `model.processor` makes it"
            )
        if vision_features is not None and vision_features.ndim != 4:
            raise DataError(
                f"`vision_features` has {vision_features.ndim} axes {tuple(vision_features.shape)}; it must be [rows, views "
                "per row, tokens, width], as the encoder gives them"
            )
        if image_mask is None:
            image_mask = torch.ones(given.shape[:2], dtype=torch.bool, device=given.device)
        images = self.arrangements(image_mask, image_layout)
        sizes = [self.layout.view_size(cut) for row in images for cut in row for _ in range(self.layout.views(cut))]
        if vision_features is not None:
            self._check_features(vision_features, sizes)
        given = given[image_mask]  # [views in the batch, C, H, W], or [views in the batch, N, D]
        rows = image_mask.nonzero()[:, 0]  # the row of each view
        views: list[VisionFeatures | None] = [None] * len(sizes)
        for size in dict.fromkeys(sizes):
            these = [index for index, other in enumerate(sizes) if other == size]
            index = torch.tensor(these, device=given.device)
            told = {}
            if instruction_ids is not None and instruction_mask is not None:
                told = {
                    name: tensor[rows[index]]
                    for name, tensor in (("instruction_ids", instruction_ids), ("instruction_mask", instruction_mask))
                }
            if vision_features is None:
                features = self.see(given[index, :, : size[0], : size[1]])  # [views of this size, N, D]
            else:
                shape = self.shapes_at(size)[0]
                features = VisionFeatures(given[index, : shape.count], grid=shape.grid, prefix=shape.prefix)
            features = self.connect(features, size, **told)  # [views of this size, M, d]
            for place, number in enumerate(these):
                views[number] = replace(features, tokens=features.tokens[place : place + 1])
        left = iter(cast(list[VisionFeatures], views))
        return [[SeenImage(cut, _together(list(islice(left, self.layout.views(cut))))) for cut in row] for row in images]

    def see(self, pixels: Float[Tensor, "n C H W"]) -> VisionFeatures:
        """Encode views of one size: [n, N, D]; without gradients where the encoder is frozen."""
        vision_trains = any(parameter.requires_grad for parameter in self.vision.parameters())
        with nullcontext() if vision_trains else torch.no_grad():
            features: VisionFeatures = self.vision(pixels)  # [n, N, D]
        self._check_shape("vision encoder", features, self.shapes_at((pixels.shape[2], pixels.shape[3]))[0])
        return features

    def connect(
        self,
        features: VisionFeatures,
        size: ImageSize,
        instruction_ids: Int[Tensor, "n Q"] | None = None,
        instruction_mask: Int[Tensor, "n Q"] | None = None,
    ) -> VisionFeatures:
        """From what the encoder makes of views of this size to the tokens behind the connectors: [n, M, d]."""
        for connector, shape in zip(self.sequence_connectors, self.shapes_at(size)[1:], strict=True):
            if isinstance(connector, InstructedConnector):
                if instruction_ids is None or instruction_mask is None:
                    raise DataError(
                        f"`{type(connector).__name__}` reads the instruction, and the batch has no `instruction_ids` and "
                        "`instruction_mask`: let `model.processor` make it"
                    )
                features = connector(features, instruction_ids, instruction_mask)
            else:
                features = connector(features)  # [n, M, d']
            self._check_shape(type(connector).__name__, features, shape)
        return features

    def arrangements(
        self, image_mask: Bool[Tensor, "B V"], image_layout: Int[Tensor, "B I 4"] | None
    ) -> list[list[Arrangement]]:
        """How the images of each row were cut. Raises `DataError` where that is not said, or not as many views are there."""
        views = image_mask.sum(dim=1).tolist()
        fixed = self.layout.fixed
        if image_layout is not None:
            images = unpack_arrangements(image_layout)
        elif fixed is not None:
            images = [[fixed] * (count // self.layout.views(fixed)) for count in views]
        else:
            raise DataError(
                f"`{type(self.layout).__name__}` cuts images by their size, and the batch has no `image_layout`: let "
                "`model.processor` make it"
            )
        reasons = [
            f"row {row}: {count} views are there, but its {len(cuts)} images have {sum(self.layout.views(cut) for cut in cuts)}"
            for row, (count, cuts) in enumerate(zip(views, images, strict=True))
            if count != sum(self.layout.views(cut) for cut in cuts)
        ]
        if reasons:
            raise DataError("views and images do not match (`model.processor` makes both)", reasons)
        return images

    def _check_features(self, features: Float[Tensor, "B V N D"], sizes: Sequence[ImageSize]) -> None:
        """Refuse features that are not those of this encoder, and any where it trains: it would not learn from them."""
        if self.vision.training and any(parameter.requires_grad for parameter in self.vision.parameters()):
            raise DataError(
                "`vision_features` were given, but the vision encoder trains, and they cannot change with it: pass pixels"
            )
        shapes = [self.shapes_at(size)[0] for size in dict.fromkeys(sizes)]
        count = max((shape.count for shape in shapes), default=features.shape[2])
        width = self.shapes_at(self.vision.transform.size)[0].width
        if (features.shape[2], features.shape[3]) != (count, width):
            raise DataError(
                f"`vision_features` has {features.shape[2]} tokens of width {features.shape[3]} per view, but the vision "
                f"encoder makes {count} of width {width} of such views: these are not its features"
            )

    @staticmethod
    def _check_shape(name: str, features: VisionFeatures, declared: FeatureShape) -> None:
        if features.shape != declared:
            raise PluginError(f"`{name}` declared {declared}, but returned {features.shape}; its description is wrong")

    # ---- text -------------------------------------------------------------------------------------------------------

    def filled_cache(self, past_key_values: Cache | None, cache: Cache | None, use_cache: bool | None) -> Cache | None:
        """The cache that was given under either name, or a new one where one is asked for.

        Raises `DataError` where both names were used.
        """
        if past_key_values is not None and cache is not None:
            raise DataError("`past_key_values` and `cache` were given: pass one of them, they are two names of the same thing")
        given = past_key_values if cache is None else cache
        return DynamicCache(config=self.config.get_text_config()) if use_cache and given is None else given

    @staticmethod
    def positions(
        attention_mask: Int[Tensor, "B T"] | None,
        position_ids: Int[Tensor, "B S"] | None,
        input_ids: Int[Tensor, "B S"],
        row_lengths: Int[Tensor, " R"] | None,
    ) -> Int[Tensor, "B S"] | None:
        """Positions counted in each row, from the mask, so that a row means the same whatever stands beside it."""
        if position_ids is None and row_lengths is not None:
            return row_positions(row_lengths, input_ids.device)
        # Generation with a compiled cache passes finished masks; it passes the positions too.
        if position_ids is not None or not isinstance(attention_mask, Tensor) or attention_mask.ndim != 2:
            return position_ids
        return (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]

    def prefix(
        self,
        input_ids: Int[Tensor, "B S"],
        attention_mask: Int[Tensor, "B T"] | None,
        labels: Int[Tensor, "B S"] | None,
        prefix_mask: Bool[Tensor, "B S"] | None,
        row_lengths: Int[Tensor, " R"] | None,
    ) -> dict[str, Bool[Tensor, "B S"]]:
        """What `decode` is told of the prefix of each row, where the text begins; nothing for a causal model.

        Where a model needs one and none is given, it is all that stands before the answer: the whole text where there are no
        labels. Raises `DataError` for a prefix that the model cannot take, and for rows with more than one answer: the words
        between two of them would be neither read nor said as they are in generation.
        """
        if self.language.prefix == "none":
            if prefix_mask is not None:
                raise DataError(
                    f"`prefix_mask` was given, but `{type(self.language).__name__}` is causal throughout: leave it out"
                )
            return {}
        if prefix_mask is None and self.language.prefix == "optional":
            return {}
        there = torch.ones_like(input_ids, dtype=torch.bool)
        if isinstance(attention_mask, Tensor) and attention_mask.ndim == 2:
            there = attention_mask[:, -input_ids.shape[1] :].bool()
        if prefix_mask is None and labels is None:
            prefix_mask = there
        elif prefix_mask is None and labels is not None:
            rows = split_rows(labels != -100, row_lengths)  # what is said, [1, s] each
            answers = torch.stack([(row & ~nn.functional.pad(row, (1, 0))[:, :-1]).sum() for row in rows]).tolist()
            reasons = [f"row {row}: {count} answers" for row, count in enumerate(answers) if count > 1]
            if reasons:
                raise DataError(
                    f"`{type(self.language).__name__}` reads all before the answer as its prefix, so a row has one answer",
                    reasons,
                )
            prefix_mask = torch.cat([row.long().cumsum(dim=1) == 0 for row in rows], dim=0 if row_lengths is None else 1)
        return {"prefix_mask": cast(Tensor, prefix_mask) & there}

    def reading(
        self,
        input_ids: Int[Tensor, "B S"],
        attention_mask: Int[Tensor, "B T"] | None,
        labels: Int[Tensor, "B S"] | None,
        prefix_mask: Bool[Tensor, "B S"] | None,
        segment_ids: Int[Tensor, "B S"] | None,
        span_positions: Int[Tensor, "B S"] | None,
        row_lengths: Int[Tensor, " R"] | None,
    ) -> dict[str, Tensor]:
        """What `decode` is told where the text begins, besides its mask and positions: see `prefix`, and what was given.

        Raises `DataError` for what the language model does not read.
        """
        channels = {"segment_ids": segment_ids, "span_positions": span_positions, "row_lengths": row_lengths}
        given = {name: tensor for name, tensor in channels.items() if tensor is not None}
        strange = sorted(given.keys() - self.language.reads) if given else []  # a model may have to be tried to know
        if strange:
            raise DataError(f"`{strange[0]}` was given, but `{type(self.language).__name__}` does not read it: leave it out")
        return given | self.prefix(input_ids, attention_mask, labels, prefix_mask, row_lengths)

    def finish(
        self,
        hidden: Float[Tensor, "B S d"],
        cache: Cache | None,
        attention_mask: Int[Tensor, "B T"] | None,
        supervision: Supervision,
        logits_to_keep: int | None,
    ) -> VLMOutput:
        """From hidden states to the loss and the logits; without labels no loss, without a request no [B, S, V] beside one."""
        learnt = supervision.loss(hidden, attention_mask, self.language)
        logits = None
        if learnt is None or logits_to_keep is not None:
            logits = self.language.head(hidden[:, -(logits_to_keep or 0) :])  # [B, K, V]; -0 keeps all
        if learnt is None:
            return VLMOutput(logits=logits, **cache_argument(cache))
        return VLMOutput(loss=learnt.loss, logits=logits, **cache_argument(cache), nll=learnt.nll, z=learnt.z)

    def prepare_inputs_for_generation(
        self, input_ids: Int[Tensor, "B S"], *args: Any, is_first_iteration: bool | None = False, **kwargs: Any
    ) -> dict[str, Any]:
        """What one step of generation passes to `forward`: images only in the step that reads the prompt."""
        inputs: dict[str, Any] = cast(Any, super()).prepare_inputs_for_generation(
            input_ids, *args, is_first_iteration=is_first_iteration, **kwargs
        )
        inputs.pop("tokenizer", None)  # with stop strings, `generate` hands it on to every step
        prefix, cache = inputs.pop("prefix_mask", None), cache_in(inputs)
        if prefix is not None and (cache is None or cache.get_seq_length() == 0):
            # Without a cache every step reads the prompt again, and what has been said since is no part of it.
            said = inputs["input_ids"].shape[1] - prefix.shape[1]
            inputs["prefix_mask"] = nn.functional.pad(prefix, (0, said))
        if not is_first_iteration and kwargs.get("use_cache", True):
            inputs.pop("vision_features", None)  # as transformers does with `pixel_values`
        if inputs.get("pixel_values") is None and inputs.get("vision_features") is None and not is_first_iteration:
            for name in ("image_mask", "image_layout", "instruction_ids", "instruction_mask"):
                inputs.pop(name, None)
        return inputs

    def get_input_embeddings(self) -> nn.Module:
        """The language model's, where transformers and peft look for it."""
        return self.language.embedding

    # ---- modes ------------------------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> "VLM":
        """Set training mode; what has nothing to train stays in evaluation mode, so that it is the same at every step."""
        super().train(mode)
        for part in self.parts.values():
            for module in frozen_modules(part):
                module.eval()
        return self

    def checkpointing_options(self, options: dict[str, Any] | None) -> dict[str, Any]:
        """Recompute layers by torch's non-reentrant form only, in the contexts that they ran in.

        Called for every way to turn activation checkpointing on. Raises `ValueError` for the reentrant form.
        """
        given = options or {}
        if given.get("use_reentrant"):
            raise ValueError(
                "`use_reentrant=True` would recompute a decoder layer without the images it attended to; leave it out"
            )
        return {**given, "use_reentrant": False, "context_fn": partial(type(self)._checkpoint_contexts, self)}

    def _checkpoint_contexts(self) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        """What a checkpointed layer runs in, the first time and when it is recomputed."""
        return nullcontext(), nullcontext()

    # ---- files ------------------------------------------------------------------------------------------------------

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:  # type: ignore[override]
        """Write a checkpoint folder; see `vlmzoo.checkpoint.save`. Raises `CheckpointError` for options it does not know."""
        from vlmzoo.checkpoint import save

        save(self, save_directory, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> "VLM":  # type: ignore[override]
        """Load a checkpoint folder; the same as `vlmzoo.load`."""
        from vlmzoo.checkpoint import load

        return load(pretrained_model_name_or_path, **kwargs)
