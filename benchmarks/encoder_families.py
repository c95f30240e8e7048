"""Every family of vision encoder, tiny and with random weights, against the library it comes from and through the kit.

`python benchmarks/encoder_families.py` writes docs/reference/encoder-families.md; a test holds the page to a fresh run. What is
compared: the tokens of a layer with the hidden states (feature maps) that the library's own class gives for it, bit for bit.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlmzoo.conformance import check_component
from vlmzoo_registry import ConfigError, VisionEncoder, default_catalogue
from vlmzoo_registry.testing.tiny import make, read_config

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "encoder-families.md"

BLOCKS: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
PAIRS: dict[str, Any] = BLOCKS | {"image_size": [32, 32], "patch_size": [8, 8]}
STAGES: dict[str, Any] = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "image_size": 64}
SMALL: dict[str, Any] = {"depth": 2, "embed_dim": 32, "num_heads": 2, "img_size": 64}

TRANSFORMERS: dict[str, dict[str, Any]] = {
    "aimv2_vision_model": BLOCKS | {"is_native": True},
    "altclip_vision_model": BLOCKS,
    "beit": BLOCKS | {"use_relative_position_bias": True},
    "blip_2_vision_model": BLOCKS,
    "blip_vision_model": BLOCKS,
    "chinese_clip_vision_model": BLOCKS,
    "clip_vision_model": BLOCKS,
    "convnext": STAGES,
    "convnextv2": STAGES,
    "data2vec-vision": BLOCKS,
    "deit": BLOCKS,
    "dinov2": BLOCKS,
    "dinov2_with_registers": BLOCKS,
    "dinov3_convnext": STAGES,
    "dinov3_vit": BLOCKS | {"num_register_tokens": 4},
    "flava_image_model": BLOCKS,
    "git_vision_model": BLOCKS,
    "got_ocr2_vision": BLOCKS | {"output_channels": 8, "window_size": 2, "global_attn_indexes": [1], "mlp_dim": 64},
    "idefics2_vision": BLOCKS,
    "idefics3_vision": BLOCKS,
    "ijepa": BLOCKS,
    "instructblip_vision_model": BLOCKS,
    "internvl_vision": PAIRS,
    "janus_vision_model": BLOCKS,
    "kosmos_2_vision_model": BLOCKS,
    "metaclip_2_vision_model": BLOCKS,
    "mlcd_vision_model": BLOCKS,
    "owlv2_vision_model": BLOCKS,
    "owlvit_vision_model": BLOCKS,
    "phi4_multimodal_vision": BLOCKS,
    "pixio": BLOCKS,
    "pixtral": BLOCKS,
    "radio": BLOCKS,
    "regnet": {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "embedding_size": 8, "groups_width": 8},
    "resnet": {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "embedding_size": 8, "layer_type": "basic"},
    "sam_vision_model": BLOCKS | {"output_channels": 8, "window_size": 2, "global_attn_indexes": [1], "mlp_dim": 64},
    "siglip2_vision_model": BLOCKS | {"num_patches": 16},
    "siglip_vision_model": BLOCKS,
    "smolvlm_vision": BLOCKS,
    "tipsv2_vision_model": BLOCKS,
    "vit": BLOCKS,
    "vit_msn": BLOCKS,
    "sam3_vit_model": BLOCKS | {"window_size": 2, "global_attn_indexes": [1]},
    "vitdet": BLOCKS,
}
"""`model_type` -> fields of a tiny architecture."""

TIMM: dict[str, dict[str, Any]] = {
    "beit_base_patch16_224": SMALL,
    "cait_xxs24_224": SMALL | {"num_heads": 2},
    "convnextv2_atto": {"dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1]},
    "deit3_small_patch16_224": SMALL,
    "deit_tiny_distilled_patch16_224": SMALL,
    "eva02_tiny_patch14_224": SMALL | {"img_size": 56},
    "hiera_tiny_224": {"embed_dim": 8, "stages": [1, 1, 1, 1]},
    "mobilenetv3_small_050": {},
    "pvt_v2_b0": {},
    "regnetx_002": {},
    "resnet10t": {},
    "samvit_base_patch16": {"depth": 2, "embed_dim": 32, "num_heads": 2, "img_size": 64, "global_attn_indexes": [1]},
    "swin_tiny_patch4_window7_224": {
        "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1], "img_size": 56, "window_size": 7
    },
    "swinv2_cr_tiny_224": {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1], "img_size": 224},
    "test_convnext": {},
    "test_efficientnet": {},
    "test_nfnet": {},
    "test_vit": {"img_size": 64},
    "vit_base_patch16_siglip_224": SMALL,
    "vit_pe_core_tiny_patch16_384": SMALL,
    "vit_small_patch14_reg4_dinov2": SMALL | {"img_size": 56},
    "vit_small_patch16_dinov3": SMALL,
    "xcit_nano_12_p8_224": SMALL,
}  # fmt: skip
"""timm's name -> arguments that make it small."""

_VIT = {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 3}
OPEN_CLIP: dict[str, dict[str, Any]] = {
    "ViT": {"vision_cfg": _VIT},
    "ViT, QuickGELU": {"vision_cfg": _VIT, "quick_gelu": True},
    "ViT, patches pooled by attention (CoCa)": {"vision_cfg": _VIT | {"attentional_pool": True, "attn_pooler_heads": 2}},
    "ViT, sines for positions (CLIPA)": {"vision_cfg": _VIT | {"pos_embed_type": "sin_cos_2d", "no_ln_pre": True}},
    "timm trunk, ViT (SigLIP, EVA)": {
        "vision_cfg": {"timm_model_name": "test_vit", "image_size": 160, "timm_pool": "token", "timm_proj": "linear"}
    },
    "timm trunk, ConvNeXt": {"vision_cfg": {"timm_model_name": "test_convnext", "image_size": 64, "timm_pool": "avg"}},
    "ResNet": {"vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "head_width": 16, "image_size": 64}},
}
"""Kind of tower -> an open_clip model config."""

REFUSED: dict[str, dict[str, Any]] = {
    "focalnet": {"embed_dim": 8, "depths": [1, 1, 1, 1], "image_size": 64},
    "glm4v_vision": {},
    "groupvit_vision_model": {"image_size": 32, "patch_size": 8},
    "llama4_vision_model": BLOCKS
    | {"intermediate_size": 128, "projector_input_dim": 32, "projector_output_dim": 32, "vision_output_dim": 32},
    "qwen2_5_vl_vision": {},
    "qwen2_vl_vision": {},
    "qwen3_vl_vision": {},
    "swin": {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 1], "image_size": 32, "window_size": 4},
    "videomae": BLOCKS,
    "vit_mae": BLOCKS,
    "vjepa2": {},
    "yolos": BLOCKS | {"image_size": [32, 32], "num_detection_tokens": 5},
}
"""Families of transformers that `transformers/vision` does not take, with an architecture that shows why."""


@dataclass(frozen=True)
class Family:
    """One family: the component that takes it, and its options for a tiny instance."""

    component: str
    name: str
    options: dict[str, Any] = field(hash=False)

    def build(self, **more: Any) -> VisionEncoder:
        """An instance with every parameter at random."""
        component = default_catalogue().get("vision_encoder", self.component)
        torch.manual_seed(0)
        built = make(component, VisionEncoder, read_config(component, self.options | more)).eval()
        with torch.no_grad():
            for parameter in built.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
        return built


def families() -> list[Family]:
    """All of them."""
    return [
        *(Family("transformers/vision", name, {"config": {"model_type": name, **fields}} | _size(fields))
          for name, fields in TRANSFORMERS.items()),
        *(Family("timm/encoder", name, {"config": {"architecture": name, **arguments}} | _timm_size(arguments))
          for name, arguments in TIMM.items()),
        *(Family("open_clip/encoder", name, {"config": {"embed_dim": 8, **config}}) for name, config in OPEN_CLIP.items()),
    ]  # fmt: skip


def _size(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {} if "image_size" in fields else {"image_size": 64}


def _timm_size(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {} if "img_size" in arguments or "stages" in arguments else {"image_size": 64}


def states(encoder: VisionEncoder, pixels: Tensor) -> list[Tensor]:
    """The output of every layer as the library's own class tells it, [B, any number of leading tokens + h*w, D]."""
    return _STATES[type(encoder).__module__](encoder, pixels)


def _of_transformers(encoder: Any, pixels: Tensor) -> list[Tensor]:
    # Pixtral joins the images of a batch into one row of tokens: there they are asked for one by one.
    batches = pixels.split(1) if encoder._tower.packed else [pixels]
    found = []
    for batch in batches:
        output = encoder.model(**encoder._tower.inputs(batch), output_hidden_states=True)
        found.append([_as_rows(state, encoder._tower.maps) for state in output.hidden_states])
    return [torch.cat(layer) for layer in zip(*found, strict=True)]


def _of_timm(encoder: Any, pixels: Tensor) -> list[Tensor]:
    maps = encoder.model.forward_intermediates(pixels, intermediates_only=True)
    return [_as_rows(image, "channels first") for image in maps]


def _of_open_clip(encoder: Any, pixels: Tensor) -> list[Tensor]:
    output = encoder.tower.forward_intermediates(pixels, intermediates_only=True)
    return [_as_rows(image, "channels first") for image in output["image_intermediates"]]


_STATES: dict[str, Callable[[Any, Tensor], list[Tensor]]] = {
    "vlmzoo_transformers.vision": _of_transformers,
    "vlmzoo_timm.encoder": _of_timm,
    "vlmzoo_openclip.encoder": _of_open_clip,
}


def _as_rows(state: Tensor, maps: str | None) -> Tensor:
    if state.ndim == 3:
        return state
    return state.flatten(1, 2) if maps == "channels last" else state.flatten(2).transpose(1, 2)


@dataclass(frozen=True)
class Row:
    """What was found of one family."""

    family: Family
    tokens: str
    layers: int
    norm: str
    sizes: str
    difference: float
    kit: str

    def cells(self) -> list[str]:
        """The row as the page has it."""
        found = [self.tokens, str(self.layers), self.norm, self.sizes, f"{self.difference:.1g}"]
        return [self.family.component, self.family.name, *found, self.kit]


def look(family: Family, *, kit: bool = True) -> Row:
    """Run one family."""
    encoder = family.build()
    shape = encoder.output_shape
    size = (encoder.transform.height, encoder.transform.width)
    pixels = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        library = states(encoder, pixels)
        # transformers counts what enters the first layer as a state too.
        depth = len(encoder.encoder_blocks) if family.component == "transformers/vision" else len(library)
        difference = _difference(encoder, library[-1], pixels)
        if depth > 1:
            before = family.build(layers=[-2])
            before.load_state_dict({name: encoder.state_dict()[name] for name in before.state_dict()})
            difference = max(difference, _difference(before, library[-2], pixels))
    prefix, norm = _prefix_and_norm(family)
    return Row(
        family,
        tokens=f"{shape.grid[0]}x{shape.grid[1]}" + (f" + {prefix}" if prefix else ""),
        layers=depth,
        norm="yes" if norm else "no",
        sizes=_sizes(encoder, size),
        difference=difference,
        kit=_kit(family) if kit else "",
    )


def _difference(encoder: VisionEncoder, state: Tensor, pixels: Tensor) -> float:
    """How far the tokens are from those of the library's state, without its leading tokens."""
    came = encoder(pixels)
    if came.shape != encoder.output_shape:
        raise RuntimeError(f"declared {encoder.output_shape}, came {came.shape}")
    return float((came.tokens - state[:, state.shape[1] - came.tokens.shape[1] :]).abs().max())


def _prefix_and_norm(family: Family) -> tuple[int, bool]:
    """How many leading tokens can be kept, and whether there is a last norm to apply."""
    built = _if_taken(family, prefix="keep", final_norm=True)
    if built is not None:
        return built.output_shape.prefix, True
    kept = _if_taken(family, prefix="keep")
    return (0 if kept is None else kept.output_shape.prefix), _if_taken(family, final_norm=True) is not None


def _if_taken(family: Family, **options: Any) -> VisionEncoder | None:
    try:
        return family.build(**options)
    except ConfigError:
        return None


def _sizes(encoder: VisionEncoder, size: tuple[int, int]) -> str:
    view = (size[0] * 2, size[1] * 3)
    try:
        declared = encoder.shape_at(view)
    except ConfigError:
        return "its own"
    with torch.no_grad():
        if encoder(torch.zeros(1, 3, *view)).shape != declared:
            raise RuntimeError(f"at {view} it declares {declared}, and something else comes out")
    return "any"


def _kit(family: Family) -> str:
    component = default_catalogue().get("vision_encoder", family.component)
    report = check_component(replace(component, spec=component.spec.model_copy(update={"tiny": family.options})))
    report.raise_for_failures()
    return f"{report.counts['passed']} of {report.counts['run']}"


def refusal(name: str) -> str:
    """Why a family is refused."""
    try:
        Family("transformers/vision", name, {"config": {"model_type": name, **REFUSED[name]}, "image_size": 32}).build()
    except ConfigError as error:
        return str(error)
    raise RuntimeError(f"`{name}` is not refused")


def cell(text: str) -> str:
    """A text as it can stand in a cell of a table."""
    return " ".join(text.replace("|", " ").split())


def page() -> str:
    """The page, from a fresh run."""
    lines = [
        "# Families of vision encoders",
        "",
        "Each row is a run: a tiny instance with random weights of the library's own class. *Tokens* is the grid of patches of "
        "that instance, and how many leading tokens (class, registers) `prefix: keep` keeps. *Norm* says whether `final_norm: "
        "true` has something to apply. *Sizes*: whether views of other sizes than the transform's are taken. *Difference* is "
        "the largest between the tokens of the layers -1 and -2 and the library's hidden states or feature maps of these. "
        "*Kit*: checks of the conformance kit passed, of those that apply.",
        "",
        "Written by `python benchmarks/encoder_families.py`; a test compares it with a fresh run.",
        "",
        "| component | family | tokens | layers | norm | sizes | difference | kit |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in map(look, families()):
        lines.append(f"| {' | '.join(row.cells())} |")
    lines += [
        "",
        "## What `transformers/vision` does not take",
        "",
        "Refused before anything runs, with these words:",
        "",
        "| family | why |",
        "| --- | --- |",
    ]
    lines += [f"| {name} | {cell(refusal(name))} |" for name in REFUSED]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
