"""Where transformers parts come from: a hub id, a folder, or an architecture written out."""

import json
from typing import Any, TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig

from vlmzoo_registry import ConfigError
from vlmzoo_registry.compat.transformers import UNSAVED_FIELDS
from vlmzoo_transformers.config import PretrainedConfig, TextConfig
from vlmzoo_transformers.known import known_architecture

TextOptions = TypeVar("TextOptions", bound=TextConfig)


def architecture(config: PretrainedConfig, *, offline: bool = False) -> PreTrainedConfig:
    """The transformers config that `config` names or describes.

    Offline, what is not on this machine may be among the architectures of `known.py`. Raises `ConfigError` where it cannot
    be read, or (offline) where it is in neither place.
    """
    if config.config is not None:
        return _from_fields(config.config)
    assert config.model is not None
    try:
        return AutoConfig.from_pretrained(config.model, local_files_only=offline, trust_remote_code=False)
    except (OSError, ValueError) as error:
        known = known_architecture(config.model) if offline else None
        if known is not None:
            return _from_fields(known["config"])
        where = "on this machine" if offline else "here or on the hub"
        raise ConfigError(
            f"`model` (={config.model!r}): no transformers config was found {where}. Give a folder that holds `config.json`, "
            f"download the model first, or write the architecture under `config:`. ({str(error).splitlines()[0]})"
        ) from error


def _from_fields(given: dict[str, Any]) -> PreTrainedConfig:
    fields = dict(given)
    model_type = fields.pop("model_type")
    try:
        return AutoConfig.for_model(model_type, **fields)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise ConfigError(f"`config` is not an architecture of transformers: {error}") from error


def tower_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The vision part of a config that has several (CLIP's holds a text tower too)."""
    return config.vision_config if "vision_config" in config.sub_configs else config


def written_out(config: PreTrainedConfig) -> dict[str, Any]:
    """An architecture as the plain `config:` mapping that builds it again."""
    fields = {key: value for key, value in config.to_diff_dict().items() if key not in UNSAVED_FIELDS}
    # Through JSON, which is what a checkpoint keeps: some configs have numbers as keys.
    written: dict[str, Any] = json.loads(json.dumps({"model_type": config.model_type, **fields}))
    return written


def resolve_text(config: TextOptions) -> TextOptions:
    """The config of a language model with its architecture written out, and its tokenizer named; reads `config.json`, offline.

    Raises as `architecture` does.
    """
    written = written_out(architecture(config, offline=True))
    return config.model_copy(update={"model": None, "config": written, "tokenizer": config.tokenizer or config.model})


def torch_dtype(name: str) -> torch.dtype:
    """The dtype of this name."""
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
