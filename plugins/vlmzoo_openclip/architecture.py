"""Which open_clip vision tower a config means: its architecture, its preprocessing, and where its weights come from.

Read from open_clip's own tables or from a folder's open_clip_config.json: no weights, no network.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip

from vlmzoo_openclip.config import OpenClipConfig
from vlmzoo_registry import ConfigError
from vlmzoo_registry.suggest import did_you_mean


@dataclass(frozen=True)
class Architecture:
    """`embed_dim`, `vision_cfg` and `quick_gelu` as open_clip writes them; `preprocess` is what it records of the pixels.

    `name` and `pretrained` are the arguments of `open_clip.create_model` that load the weights; None for random ones.
    """

    embed_dim: int
    vision_cfg: dict[str, Any]
    quick_gelu: bool
    preprocess: dict[str, Any]
    name: str | None = None
    pretrained: str | None = None

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"open_clip's `{self.name}`" if self.name else "the tower that `config` describes"

    @property
    def native_size(self) -> tuple[int, int]:
        """Height and width that it is built for."""
        size = self.vision_cfg.get("image_size", 224)
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    @property
    def is_transformer(self) -> bool:
        """Whether it is open_clip's own vision transformer, whose position embeddings are made for one size."""
        return "timm_model_name" not in self.vision_cfg and isinstance(self.vision_cfg.get("layers", 12), int)


def architecture(config: OpenClipConfig) -> Architecture:
    """What `model` or `config` names.

    Raises `ConfigError` for a name or tag that open_clip does not know, for weights that were trained with another activation
    than the model computes with, for patch dropout, and for a folder without a readable open_clip_config.json.
    """
    if config.config is not None:
        found = _described(config.config, preprocess={}, name=None, pretrained=None)
    else:
        assert config.model is not None
        folder = Path(config.model).expanduser()
        found = _saved(folder, config.pretrained) if folder.is_dir() else _registered(config.model, config.pretrained)
    if found.vision_cfg.get("patch_dropout"):
        raise ConfigError(
            f"`patch_dropout` (={found.vision_cfg['patch_dropout']}) drops image tokens at random, and here every token has "
            "its place: set it to 0"
        )
    return found


def _described(model: dict[str, Any], **more: Any) -> Architecture:
    # Weights for the timm trunk alone are never wanted: those of the whole tower follow, or random ones are meant.
    vision = {key: value for key, value in model["vision_cfg"].items() if key != "timm_model_pretrained"}
    return Architecture(model["embed_dim"], vision, bool(model.get("quick_gelu", False)), **more)


def _registered(name: str, pretrained: str | None) -> Architecture:
    model = open_clip.get_model_config(name)
    if model is None:
        raise ConfigError(
            f"`{name}` is neither a folder nor a model that open_clip {open_clip.__version__} knows"
            f"{did_you_mean(name, open_clip.list_models())}"
        )
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained is None:
        raise ConfigError(
            f"`model: {name}` needs `pretrained`: one of {', '.join(tags) or 'no tags'}, or a file with its weights"
        )
    model["vision_cfg"]["patch_dropout"] = 0.0  # a matter of CLIP's own training, not of the architecture
    if Path(pretrained).expanduser().is_file():
        return _described(model, preprocess={}, name=name, pretrained=str(Path(pretrained).expanduser()))
    recorded = open_clip.get_pretrained_cfg(name, pretrained)
    if not recorded:
        raise ConfigError(
            f"`pretrained` (={pretrained}) is neither a file nor a tag of open_clip's `{name}`{did_you_mean(pretrained, tags)} "
            f"It has: {', '.join(tags)}"
        )
    computed, trained = bool(model.get("quick_gelu", False)), bool(recorded.get("quick_gelu", False))
    if computed != trained:
        other = name.removesuffix("-quickgelu") if computed else f"{name}-quickgelu"
        known = other != name and other in open_clip.list_models()
        remedy = (
            f"use `model: {other}`" if known else "where the record is wrong, give the file with the weights as `pretrained`"
        )
        words = {True: "QuickGELU", False: "GELU"}
        raise ConfigError(
            f"the weights `{pretrained}` of open_clip's `{name}` were trained with {words[trained]}, and `{name}` computes "
            f"with {words[computed]}: {remedy}"
        )
    return _described(model, preprocess=dict(recorded), name=name, pretrained=pretrained)


def _saved(folder: Path, pretrained: str | None) -> Architecture:
    if pretrained is not None:
        raise ConfigError(
            f"`pretrained` (={pretrained}) goes with an open_clip name; the folder `{folder}` has its own weights"
        )
    path = folder / "open_clip_config.json"
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        model, preprocess = saved["model_cfg"], saved.get("preprocess_cfg", {})
        return _described(model, preprocess=preprocess, name=f"local-dir:{folder}", pretrained=None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"`{path}` is not an open_clip_config.json with `model_cfg` as open_clip writes it: {error!r}"
        ) from error
