"""Architectures of transformers as the `config:` of a zoo part and back, and what a published config leaves unsaid of them."""

from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModel, PreTrainedConfig

from vlmzoo_registry import AssemblyError
from vlmzoo_registry.compat.transformers import UNSAVED_FIELDS

_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
}


def fields(config: PreTrainedConfig) -> dict[str, Any]:
    """The `config:` of the zoo part that has this architecture."""
    return {
        "model_type": config.model_type,
        **{key: value for key, value in config.to_diff_dict().items() if key not in (*UNSAVED_FIELDS, "model_type")},
    }


def published(part: dict[str, Any]) -> PreTrainedConfig:
    """The architecture of a zoo part of a spelt out section."""
    given = dict(part["config"])
    return AutoConfig.for_model(given.pop("model_type"), **given)


def causal_lm(config: PreTrainedConfig) -> dict[str, Any]:
    """The `language:` of a config that has a text model and says itself whether the head is tied to the embedding."""
    text = {**fields(config.text_config), "tie_word_embeddings": config.tie_word_embeddings}
    return {"name": "transformers/causal-lm", "config": text}


def prefix_tokens(vision: PreTrainedConfig) -> int:
    """How many tokens a tower puts before those of the patches, counted in a run without values."""
    height, width = sides(vision.image_size)
    rows, columns = height // sides(vision.patch_size)[0], width // sides(vision.patch_size)[1]
    with torch.device("meta"), torch.no_grad():
        tower = AutoModel.from_config(vision)
        return tower(pixel_values=torch.zeros(1, 3, height, width)).last_hidden_state.shape[1] - rows * columns


def sides(size: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    """Height and width of a size that is written as one number where both are the same."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def blocks(hidden_states: int | list[int], depth: int) -> list[int]:
    """The blocks, counted from the end, whose outputs stand at these places of transformers' `hidden_states`.

    The first of these is the embedding, so place k is what block k - 1 puts out. Raises `AssemblyError` for the embedding.
    """
    places = [hidden_states] if isinstance(hidden_states, int) else list(hidden_states)
    counted = [place if place < 0 else place - depth - 1 for place in places]
    beyond = [place for place, block in zip(places, counted, strict=True) if not -depth <= block <= -1]
    if beyond:
        raise AssemblyError(
            "the layers of the tower cannot be told apart",
            [f"`vision_feature_layer` names {beyond}: that is not the output of one of the tower's {depth} blocks"],
        )
    return counted


def hidden_states(layers: list[int], depth: int) -> int | list[int]:
    """The other way: places of transformers' `hidden_states`, counted from the end."""
    places = [layer if layer < 0 else layer - depth for layer in layers]
    return places[0] if len(places) == 1 else places


def activation(name: str) -> str:
    """A connector's word for an activation of transformers. Raises `AssemblyError` for one that connectors do not have."""
    if name not in _ACTIVATIONS:
        raise AssemblyError(
            "the activation of the connector is unknown here",
            [f"`projector_hidden_act` (={name}) is none of those that connectors have: {', '.join(sorted(_ACTIVATIONS))}"],
        )
    return _ACTIVATIONS[name]


def published_activation(name: str) -> str:
    """Transformers' word for a connector's activation."""
    return next(published for published, own in _ACTIVATIONS.items() if own == name)


def backbone_names(text: PreTrainedConfig, published_backbone: str) -> tuple[tuple[str, str], ...]:
    """Where a text model, and `lm_head` beside it, stand in the zoo's `transformers/causal-lm` of the same architecture."""
    causal: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(text)]  # a class
    with torch.device("meta"):
        twin = causal(text)
    head = next(name for name, module in twin.named_modules() if module is twin.get_output_embeddings())
    return (
        (published_backbone, f"language.model.{causal.base_model_prefix}"),
        ("lm_head", f"language.model.{head}"),
    )
