"""What vlmzoo needs of transformers beyond the names that `transformers` itself exports; holds for 5.17 to 5.24."""

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn
from transformers import Cache, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, create_masks_for_generate
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

__all__ = [
    "CACHE_KEYWORD",
    "CHECKPOINTING_RENAMED",
    "UNSAVED_FIELDS",
    "CausalLMOutput",
    "FixedCacheLayer",
    "GenerativeModel",
    "attention_function",
    "attention_implementation",
    "cache_argument",
    "cache_in",
    "enable_checkpointing",
    "finished_masks",
    "from_config",
    "mask_function",
    "modeling_classes",
]

# ---- the cache --------------------------------------------------------------------------------------------------------

CACHE_KEYWORD = (
    "cache" if "cache" in inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters else "past_key_values"
)
"""The name of the cache in every forward, output class, mask helper and step of generation.

`past_key_values` up to 5.23; `cache` since 5.24, where generation reads and passes no other name. Can go, with
`cache_argument` and `cache_in`, when the lower bound is 5.24.
"""

CausalLMOutput = CausalLMOutputWithPast
"""The output of a causal model: `loss`, `logits`, the cache under this version's name, `hidden_states`, `attentions`.

Since 4.0, in a module that `transformers` does not export. Stays.
"""


def cache_argument(cache: Cache | None) -> dict[str, Any]:
    """The cache as a keyword of transformers' forwards, output classes and mask helpers; since 5.24. Can go with it."""
    return {CACHE_KEYWORD: cache}


def cache_in(given: Mapping[str, Any]) -> Cache | None:
    """The cache among the inputs of a generation step, or in an output of transformers; since 5.24. Can go with it."""
    return cast(Cache | None, given.get(CACHE_KEYWORD))


class FixedCacheLayer(CacheLayerMixin):
    """Hold two tensors, the batch first, that no step of the text writes to; follow every change of the batch.

    `length` is the number of positions of text that the layer stands for: 0 for a layer that has nothing to do with the text.

    The base class lies in a module that `transformers` does not export, since 4.54, and its methods change: 5.20 dropped
    `get_max_cache_shape`, 5.24 asks for `is_croppable` in assisted decoding. Stays.
    """

    keys: Tensor
    values: Tensor
    is_sliding = False
    is_croppable = True
    is_compileable = False
    supports_early_init = False

    def __init__(self, keys: Tensor, values: Tensor, length: int = 0) -> None:
        super().__init__()
        self.keys, self.values, self.length = keys, values, length
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: the layer is made with its contents."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        """Refuse to write: reaching this means that cache layers were mixed up."""
        raise RuntimeError("a decoder layer tried to write into a part of the cache that no step of the text changes")

    def get_seq_length(self) -> int:
        """The number of positions of text so far."""
        return self.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """The length and offset of what is attended to: the text so far and the new positions, from the beginning."""
        return self.length + query_length, 0

    def get_max_length(self) -> int:
        """No maximum."""
        return -1

    def crop(self, tokens_to_remove: int) -> None:
        """Take back so many positions of text as the number is negative; what is held stays.

        Raises `ValueError` for a positive number, as transformers' own layers do.
        """
        if tokens_to_remove > 0:
            raise ValueError(f"`crop` takes back tokens by a negative number, and was called with {tokens_to_remove}")
        self.length = max(self.length + tokens_to_remove, 0)

    def reset(self) -> None:
        """Empty the layer: it holds no row and stands for no text."""
        self.keys, self.values, self.length = self.keys[:0], self.values[:0], 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Follow the beams."""
        self.batch_select_indices(beam_idx.to(self.keys.device))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Follow the expansion of the batch."""
        self.keys = self.keys.repeat_interleave(repeats, dim=0)
        self.values = self.values.repeat_interleave(repeats, dim=0)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Follow a selection of rows."""
        self.keys, self.values = self.keys[indices], self.values[indices]


# ---- attention and masks ----------------------------------------------------------------------------------------------


def attention_implementation(config: PreTrainedConfig) -> str | None:
    """The name of the attention function that a model of this config runs; a private attribute, since 4.36. Stays."""
    return cast(str | None, config._attn_implementation)


def attention_function(implementation: str, module: nn.Module) -> Callable[..., tuple[Tensor, Any]]:
    """The function of this name that an attention layer calls; `eager` stands in the file of each model, under one name.

    The table is `ALL_ATTENTION_FUNCTIONS` (no public way to read it, since 4.48). Stays.
    """
    if implementation == "eager":
        return cast(Callable[..., tuple[Tensor, Any]], sys.modules[type(module).__module__].eager_attention_forward)
    return cast(Callable[..., tuple[Tensor, Any]], ALL_ATTENTION_FUNCTIONS[implementation])


def mask_function(implementation: str) -> Callable[..., Any]:
    """The function that makes the mask of this attention (`ALL_MASK_ATTENTION_FUNCTIONS`, since 4.53). Stays."""
    return cast(Callable[..., Any], ALL_MASK_ATTENTION_FUNCTIONS[implementation])


def finished_masks(
    config: PreTrainedConfig, embeds: Tensor, attention_mask: Tensor | None, cache: Cache | None, block_ids: Tensor
) -> Any:
    """Masks [B, 1, S, T], one for each kind of layer, in which positions of one block see each other both ways.

    Args:
        config: the text model's.
        embeds: [B, S, d]; only its shape, type and device are read.
        attention_mask: [B, T], 0 at padding.
        cache: what has been read before.
        block_ids: [B, S], the block of each position; -1 is causal.

    `create_masks_for_generate`, in a module that `transformers` does not export, since 4.53. Stays.
    """
    return create_masks_for_generate(
        config=config,
        inputs_embeds=embeds,
        attention_mask=attention_mask,
        block_sequence_ids=block_ids,
        **cache_argument(cache),
    )


# ---- models -----------------------------------------------------------------------------------------------------------


def from_config(made: type[PreTrainedModel], config: PreTrainedConfig, **options: Any) -> Any:
    """Build this class with random weights (`_from_config`: what `AutoModel.from_config` calls, since 4.0). Stays."""
    return made._from_config(config, **options)


def modeling_classes(config: PreTrainedConfig) -> Sequence[type[PreTrainedModel]]:
    """The model classes in the module of transformers that stands beside a config's; none where there is no such module.

    By the names of its files (`configuration_x`, `modeling_x`), which all families have followed since 4.0. Stays: several
    towers are in no public table.
    """
    where = type(config).__module__.replace("configuration_", "modeling_")
    try:
        module = importlib.import_module(where)
    except ImportError:
        return ()
    classes = [value for value in vars(module).values() if isinstance(value, type) and value.__module__ == where]
    return [made for made in classes if issubclass(made, PreTrainedModel)]


CHECKPOINTING_RENAMED = "activation_checkpointing_enable" in vars(PreTrainedModel)
"""Whether activation checkpointing has its new name: since 5.23. Can go when that is the lower bound."""

UNSAVED_FIELDS = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "quantization_config")
"""Fields of a config that say where it was read from and in which type, none of its architecture; since 4.0. Stays."""


class _CheckpointingModel(PreTrainedModel):
    """A model that has a say in how its layers are recomputed in the backward pass."""

    def checkpointing_options(self, options: dict[str, Any] | None) -> dict[str, Any]:
        """Return the arguments of `torch.utils.checkpoint.checkpoint`, given those of the caller; refuse what is wrong."""
        return options or {}


# Whatever turns activation checkpointing on (a user, the Trainer, peft) must come through `checkpointing_options`. Since 5.23
# `gradient_checkpointing_enable` is an alias that goes in 6.0: overriding that one alone would then be bypassed in silence.
if CHECKPOINTING_RENAMED:

    class _OneDoor(_CheckpointingModel):
        def activation_checkpointing_enable(
            self,
            activation_checkpointing_kwargs: dict[str, Any] | None = None,
            every_n_layers: int = 1,
            offload: bool = False,
        ) -> None:
            """Recompute layers in the backward pass instead of keeping their activations."""
            options = self.checkpointing_options(activation_checkpointing_kwargs)
            super().activation_checkpointing_enable(options, every_n_layers=every_n_layers, offload=offload)

else:

    class _OneDoor(_CheckpointingModel):  # type: ignore[no-redef]
        def gradient_checkpointing_enable(
            self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **kwargs: Any
        ) -> None:
            """Recompute layers in the backward pass instead of keeping their activations."""
            options = self.checkpointing_options(gradient_checkpointing_kwargs)
            super().gradient_checkpointing_enable(gradient_checkpointing_kwargs=options, **kwargs)


class GenerativeModel(_OneDoor, GenerationMixin):
    """A pretrained model with `generate`: what transformers' private class attributes and hooks say of ours.

    Subclasses override `checkpointing_options`. `_supports_*` since 4.36 (`_supports_attention_backend` 4.48), `_init_weights`
    since 2.0. Stays.
    """

    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def _init_weights(self, module: nn.Module) -> None:
        """Do nothing: parts come initialised or loaded, and transformers must not fill them again."""

    def keep_whole(self, names: Sequence[str]) -> None:
        """Say which classes of modules are not to be split between devices or shards (`_no_split_modules`)."""
        self._no_split_modules = list(names)


def enable_checkpointing(model: PreTrainedModel, options: dict[str, Any] | None = None) -> None:
    """Recompute the layers of a model in the backward pass; `options` are those of `torch.utils.checkpoint.checkpoint`.

    `activation_checkpointing_enable` since 5.23; the older name warns from then on, ends in 6.0, and can go with 5.22.
    """
    if CHECKPOINTING_RENAMED:
        model.activation_checkpointing_enable(options)
    else:
        model.gradient_checkpointing_enable(options)
