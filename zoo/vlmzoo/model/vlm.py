"""What unified and cross-attention models share: encoding images, connecting, the loss, generation, and saving.

Letters: B batch, I images per row at most, n images in the batch, N vision tokens, D vision width, M tokens per image after
the connectors, d language width, S text length, T length with the cache, V vocabulary.
"""

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import Cache, GenerationMixin, PreTrainedModel
from transformers.utils import ModelOutput

from vlmzoo.adapters import Adapter
from vlmzoo.loss import masked_nll
from vlmzoo.manifest import ComponentRecord
from vlmzoo.model.configuration import VLMConfig
from vlmzoo_registry import Connector, DataError, FeatureShape, LanguageModel, PluginError, VisionEncoder, VisionFeatures

PARTS = ("vision", "connector", "language")


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
class VLMOutput(ModelOutput):
    """What a forward returns; `logits` is None where labels were given and no logits were asked for."""

    loss: Float[Tensor, ""] | None = None
    logits: Float[Tensor, "B K V"] | None = None
    past_key_values: Cache | None = None


class VLM(PreTrainedModel, GenerationMixin):
    """An assembled vision-language model; made by `vlmzoo.build` and `vlmzoo.load`, not by hand.

    Its three parts are `vision`, `connector` (a list: connectors chain) and `language`; nothing else holds parameters.
    """

    config_class = VLMConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ["image", "text"]  # noqa: RUF012 - transformers' own kind of class attribute
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(
        self,
        config: VLMConfig,
        vision: VisionEncoder,
        connector: Sequence[nn.Module],
        language: LanguageModel,
    ) -> None:
        config.attach_text_config(language.text_config)
        super().__init__(config)
        self.vision = vision
        self.connector = nn.ModuleList(connector)
        self.language = language
        self.processor: Any = None
        # Set by the assembler: what a checkpoint records of the parts, and what their tensors were when they were built.
        self.components: dict[str, tuple[ComponentRecord, ...]] = {}
        self.built: dict[str, dict[str, tuple[tuple[int, ...], torch.dtype]]] = {}
        # The parts that have adapters now: what training or a checkpoint has put on them.
        self.adapters: dict[str, Adapter] = {}
        shapes = [vision.output_shape]
        for part in self.sequence_connectors:
            shapes.append(part.output_shape(shapes[-1]))
        self._shapes = tuple(shapes)
        self.eval()

    @property
    def sequence_connectors(self) -> list[Connector]:
        """The connectors that map tokens to tokens, in order."""
        return [part for part in self.connector if isinstance(part, Connector)]

    @property
    def image_shape(self) -> FeatureShape:
        """What one image has become when it meets the text; its count is M, the tokens per image."""
        return self._shapes[-1]

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The three parts by name."""
        return {"vision": self.vision, "connector": self.connector, "language": self.language}

    @abstractmethod
    def forward(
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
        """Run the model.

        Args:
            input_ids: the text, with image placeholders where the processor put them.
            attention_mask: 0 at padding, on either side.
            position_ids: default: counted from the attention mask, so that padding does not move them.
            past_key_values: the cache; updated in place.
            pixel_values: the images of each row, in the order of its placeholders, padded to the same number.
            image_mask: which of them are images; default: all.
            labels: targets aligned with `input_ids` (the loss shifts); -100 is not supervised.
            loss_weights: the weight of each target.
            num_items_in_batch: the loss's denominator where the batch is part of a larger one; default: its own count.
            use_cache: whether to make a cache where none was given.
            logits_to_keep: logits of the last so many positions; 0 for all. Default: all, or none where labels are given.
            return_dict: accepted for transformers' callers; the result is always a `VLMOutput`.
        """

    # ---- images -----------------------------------------------------------------------------------------------------

    def encode_images(
        self, pixel_values: Float[Tensor, "B I 3 H W"], image_mask: Bool[Tensor, "B I"] | None
    ) -> tuple[VisionFeatures, Bool[Tensor, "B I"]]:
        """Encode and connect the n images of a batch, row by row; returns their features [n, M, D] and the image mask.

        A frozen encoder runs without gradients.
        """
        if pixel_values.ndim != 5:
            raise DataError(
                f"`pixel_values` has {pixel_values.ndim} axes {tuple(pixel_values.shape)}; it must be [rows, images per row, "
                "3, height, width], as `model.processor` makes it"
            )
        if image_mask is None:
            image_mask = torch.ones(pixel_values.shape[:2], dtype=torch.bool, device=pixel_values.device)
        pixels = pixel_values[image_mask]  # [n, 3, H, W]
        vision_trains = any(parameter.requires_grad for parameter in self.vision.parameters())
        with nullcontext() if vision_trains else torch.no_grad():
            features = self.vision(pixels)  # [n, N, D]
        self._check_shape("vision encoder", features, self._shapes[0])
        for connector, shape in zip(self.sequence_connectors, self._shapes[1:], strict=True):
            features = connector(features)  # [n, M, d']
            self._check_shape(type(connector).__name__, features, shape)
        return features, image_mask

    @staticmethod
    def _check_shape(name: str, features: VisionFeatures, declared: FeatureShape) -> None:
        if features.shape != declared:
            raise PluginError(f"`{name}` declared {declared}, but returned {features.shape}; its description is wrong")

    # ---- text -------------------------------------------------------------------------------------------------------

    @staticmethod
    def positions(
        attention_mask: Int[Tensor, "B T"] | None, position_ids: Int[Tensor, "B S"] | None, length: int
    ) -> Int[Tensor, "B S"] | None:
        """Positions counted from the mask, so that a row means the same whatever the padding and its side."""
        # Generation with a compiled cache passes finished masks; it passes the positions too.
        if position_ids is not None or not isinstance(attention_mask, Tensor) or attention_mask.ndim != 2:
            return position_ids
        return (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)[:, -length:]

    def finish(
        self,
        hidden: Float[Tensor, "B S d"],
        cache: Cache | None,
        labels: Int[Tensor, "B S"] | None,
        loss_weights: Float[Tensor, "B S"] | None,
        num_items_in_batch: int | float | Tensor | None,
        logits_to_keep: int | None,
    ) -> VLMOutput:
        """From hidden states to the loss and the logits; without labels no loss, without a request no [B, S, V] beside one."""
        loss = logits = None
        if labels is not None:
            loss = masked_nll(hidden, self.language.head, labels, weights=loss_weights, normalizer=num_items_in_batch).loss
        if labels is None or logits_to_keep is not None:
            logits = self.language.head(hidden[:, -(logits_to_keep or 0) :])  # [B, K, V]; -0 keeps all
        return VLMOutput(loss=loss, logits=logits, past_key_values=cache)

    def prepare_inputs_for_generation(
        self, input_ids: Int[Tensor, "B S"], *args: Any, is_first_iteration: bool | None = False, **kwargs: Any
    ) -> dict[str, Any]:
        """What one step of generation passes to `forward`: images only in the step that reads the prompt."""
        inputs: dict[str, Any] = cast(Any, super()).prepare_inputs_for_generation(
            input_ids, *args, is_first_iteration=is_first_iteration, **kwargs
        )
        if inputs.get("pixel_values") is None:
            inputs.pop("image_mask", None)
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

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Recompute layers in the backward pass instead of keeping their activations; only torch's non-reentrant form."""
        options = dict(gradient_checkpointing_kwargs or {})
        if options.get("use_reentrant"):
            raise ValueError(
                "`use_reentrant=True` would recompute a decoder layer without the images it attended to; leave it out"
            )
        options.update(use_reentrant=False, context_fn=partial(type(self)._checkpoint_contexts, self))
        super().gradient_checkpointing_enable(gradient_checkpointing_kwargs=options, **kwargs)

    def _checkpoint_contexts(self) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        """What a checkpointed layer runs in, the first time and when it is recomputed."""
        return nullcontext(), nullcontext()

    # ---- files ------------------------------------------------------------------------------------------------------

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: parts come initialised or loaded, and transformers must not fill them again."""

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:  # type: ignore[override]
        """Write a checkpoint folder; see `vlmzoo.checkpoint.save`. Raises `CheckpointError` for options it does not know."""
        from vlmzoo.checkpoint import save

        save(self, save_directory, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> "VLM":  # type: ignore[override]
        """Load a checkpoint folder; the same as `vlmzoo.load`."""
        from vlmzoo.checkpoint import load

        return load(pretrained_model_name_or_path, **kwargs)
