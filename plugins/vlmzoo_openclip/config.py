"""The options of `open_clip/encoder`; importable without torch or open_clip."""

from typing import Any

from pydantic import Field, model_validator

from vlmzoo_registry import ComponentConfig, EncoderOptions

_ARCHITECTURE = ("embed_dim", "quick_gelu", "vision_cfg")


class OpenClipSource(ComponentConfig):
    """Which open_clip model: pretrained, or an architecture."""

    model: str | None = Field(
        default=None, description="An open_clip name, with `pretrained`; or a folder with open_clip_config.json and weights."
    )
    pretrained: str | None = Field(
        default=None, description="The tag of the weights of `model` (for example `laion2b_s32b_b79k`), or a file with them."
    )
    config: dict[str, Any] | None = Field(
        default=None,
        description="The architecture, with random weights: `vision_cfg`, `embed_dim` and `quick_gelu` as in open_clip's model "
        "configs. In it, `image_size` is the size it is built for; `image_size` beside `config` resizes what was built.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> "OpenClipSource":
        reasons = []
        if (self.model is None) == (self.config is None):
            given = "neither" if self.model is None else "both"
            reasons.append(f"give either `model` (pretrained weights) or `config` (an architecture), not {given}")
        if self.config is not None:
            if self.pretrained is not None:
                reasons.append(
                    f"`pretrained` (={self.pretrained}) goes with `model`; `config` describes an architecture with random "
                    "weights"
                )
            missing = [key for key in ("embed_dim", "vision_cfg") if key not in self.config]
            if missing:
                reasons.append(f"`config` needs {' and '.join(f'`{key}`' for key in missing)}, as in open_clip's model configs")
            surplus = sorted(set(self.config) - set(_ARCHITECTURE))
            if surplus:
                reasons.append(
                    f"`config` is that of the vision tower ({', '.join(f'`{key}`' for key in _ARCHITECTURE)}), and nothing "
                    "reads " + ", ".join(f"`{key}`" for key in surplus)
                )
        if reasons:
            raise ValueError("; ".join(reasons))
        return self


class OpenClipConfig(EncoderOptions, OpenClipSource):
    """The vision tower of an open_clip model. Every field of the preprocessing that is left out is the model's own."""
