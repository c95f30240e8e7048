"""Which timm model a config means: its name, its arguments, and what timm records about it.

Read from timm's own registry or from a folder's config.json: no weights, no network.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
from timm.models import get_pretrained_cfg, is_model, list_models, split_model_name_tag
from torch import nn

from vlmzoo_registry import ConfigError
from vlmzoo_registry.compat.timm import Eva, VisionTransformer
from vlmzoo_registry.suggest import did_you_mean
from vlmzoo_timm.config import TimmConfig

_RECORDED = ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std", "num_classes", "classifier")


@dataclass(frozen=True)
class Architecture:
    """A timm model's `name` (with the tag of its pretrained weights), its `arguments`, and timm's `record` of the weights.

    `folder` is where the weights lie, for a model that comes from a folder.
    """

    name: str
    arguments: dict[str, Any]
    record: dict[str, Any]
    folder: Path | None = None

    def build(self, *, pretrained: bool = False) -> nn.Module:
        """The model as timm makes it, classifier included; `pretrained` lets timm fetch the weights of the tag.

        Raises `ConfigError` for arguments that the architecture does not take.
        """
        try:
            return timm.create_model(self.name, pretrained=pretrained, pretrained_cfg=dict(self.record), **self.arguments)
        except TypeError as error:
            raise ConfigError(f"timm's `{self.name}` does not take the arguments {sorted(self.arguments)}: {error}") from error

    def taking_any_size(self, size: tuple[int, int]) -> "Architecture":
        """The same, with vision transformers told to resample their position embeddings to whatever comes (at the size they
        are built for nothing changes). Builds the model once; call it where tensors have no values.

        Not where a patch does not divide `size`, at which they are to run (SigLIP at 384 with patches of 14): then timm leaves
        the rest out, which it refuses to do for a transformer that takes any size.
        """
        model = self.build()
        if not isinstance(model, VisionTransformer | Eva):
            return self
        whole = all(side % patch == 0 for side, patch in zip(size, model.patch_embed.patch_size, strict=True))
        return replace(self, arguments={"dynamic_img_size": True, **self.arguments}) if whole else self


def architecture(config: TimmConfig) -> Architecture:
    """What `model` or `config` names.

    Raises `ConfigError` for a name that timm does not know, for weights that were trained with another activation than the
    model computes with, and for a folder without a readable config.json.
    """
    if config.config is not None:
        arguments = {key: value for key, value in config.config.items() if key != "architecture"}
        name = config.config["architecture"]
        return Architecture(name, arguments, _record(name) | _built_for(arguments))
    assert config.model is not None
    folder = Path(config.model).expanduser()
    if folder.is_dir():
        return _saved(folder)
    record = _record(config.model)
    _check_activation(config.model, record)
    return Architecture(config.model, {}, record)


def _built_for(arguments: dict[str, Any]) -> dict[str, Any]:
    """The size that the arguments name, in the words of timm's record."""
    size = arguments.get("img_size")
    if size is None:
        return {}
    return {"input_size": (3, size, size) if isinstance(size, int) else (3, *size)}


def _record(name: str) -> dict[str, Any]:
    base, tag = split_model_name_tag(name)
    if not is_model(base):
        raise ConfigError(
            f"`{name}` is neither a folder nor a model that timm {timm.__version__} knows{did_you_mean(base, list_models())}"
        )
    tags = [known.removeprefix(f"{base}.") for known in list_models(f"{base}.*", pretrained=True)]
    if tag and tag not in tags:
        raise ConfigError(f"timm's `{base}` has no weights tagged `{tag}`{did_you_mean(tag, tags)} It has: {', '.join(tags)}")
    record: dict[str, Any] = get_pretrained_cfg(name).to_dict()
    return record


def _check_activation(name: str, record: dict[str, Any]) -> None:
    """Refuse weights that were trained with QuickGELU in a model that computes with GELU.

    timm has them under two names, one for each activation, and its records do not say which is the one of the training: it is
    always the one that was made for these weights, with QuickGELU.
    """
    base, tag = split_model_name_tag(name)
    same = [
        other
        for other in list_models(f"*_quickgelu_*.{tag or record['tag']}", pretrained=True)
        if get_pretrained_cfg(other).hf_hub_id == record["hf_hub_id"]
    ]
    if same and base not in {split_model_name_tag(other)[0] for other in same}:
        raise ConfigError(
            f"the weights of timm's `{name}` were trained with QuickGELU, and `{base}` computes with GELU: use "
            f"`model: {same[0]}`"
        )


def _saved(folder: Path) -> Architecture:
    path = folder / "config.json"
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        name, recorded = saved["architecture"], saved["pretrained_cfg"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"`{path}` is not a config.json as timm writes it, with `architecture` and `pretrained_cfg`: {error!r}"
        ) from error
    registered = _record(name)
    record = registered | {key: recorded[key] for key in _RECORDED if key in recorded}
    record |= {"num_classes": saved.get("num_classes", record["num_classes"])}
    arguments = {key: value for key, value in saved.get("model_args", {}).items() if key not in ("in_chans", "num_classes")}
    if registered["fixed_input_size"] and tuple(record["input_size"]) != tuple(registered["input_size"]):
        arguments.setdefault("img_size", list(record["input_size"][1:]))
    if saved.get("global_pool") is not None:  # decides, in transformers, whether the last norm stands before or after pooling
        arguments.setdefault("global_pool", saved["global_pool"])
    return Architecture(name, arguments, record | _built_for(arguments), folder)
