"""The options of `timm/encoder`; importable without torch or timm."""

from typing import Any

from pydantic import Field, model_validator

from vlmzoo_registry import ComponentConfig, EncoderOptions

_RESERVED = {
    "checkpoint_path": "give `model` and `weights`",
    "features_only": "give `layers`",
    "in_chans": "images have 3 channels here",
    "num_classes": "the classifier is left out anyway",
    "out_indices": "give `layers`",
    "patch_drop_rate": "every image token has its place here, so that none can be dropped",
    "pretrained": "give `model` for pretrained weights",
    "pretrained_cfg": "give `mean`, `std`, `interpolation`, `resize` and `crop_fraction`",
    "pretrained_cfg_overlay": "give `mean`, `std`, `interpolation`, `resize` and `crop_fraction`",
}


class TimmSource(ComponentConfig):
    """Which timm model: pretrained, or an architecture."""

    model: str | None = Field(
        default=None,
        description="A timm name with pretrained weights, or a folder with timm's config.json and model.safetensors.",
    )
    weights: str | None = Field(
        default=None, description="A safetensors file to load into `model`, instead of the weights that timm would fetch."
    )
    config: dict[str, Any] | None = Field(
        default=None,
        description="The architecture, with random weights: `architecture` (a timm name) and timm's arguments for it. Among "
        "them `img_size` is the size it is built for; `image_size` beside `config` resizes what was built.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> "TimmSource":
        reasons = []
        if (self.model is None) == (self.config is None):
            given = "neither" if self.model is None else "both"
            reasons.append(f"give either `model` (pretrained weights) or `config` (an architecture), not {given}")
        if self.weights is not None and self.config is not None:
            reasons.append(
                f"`weights` (={self.weights}) go with `model`; `config` describes an architecture with random weights"
            )
        if self.config is not None:
            if not isinstance(self.config.get("architecture"), str):
                reasons.append("`config` needs `architecture`, the name of a timm model (for example `vit_base_patch16_224`)")
            reasons.extend(f"`config.{key}`: {remedy}" for key, remedy in _RESERVED.items() if key in self.config)
        if reasons:
            raise ValueError("; ".join(reasons))
        return self


class TimmConfig(EncoderOptions, TimmSource):
    """A timm model. Every field of the preprocessing that is left out is the model's own."""

    final_norm: bool = Field(
        default=False,
        description="Whether what the model has after its last block is applied: a transformer's norm, to every layer taken; "
        "of other models (EfficientNet's head convolution) all of timm's `forward_features`, with `layers: [-1]` only.",
    )
