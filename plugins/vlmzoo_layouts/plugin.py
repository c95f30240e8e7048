"""The layouts that ship with vlmzoo, described; nothing heavy is imported here."""

from vlmzoo_registry import ComponentSpec, hookimpl


@hookimpl
def vlmzoo_components() -> list[ComponentSpec]:
    """Describe the layouts."""
    return [
        ComponentSpec(
            kind="layout",
            name="whole",
            factory="vlmzoo_registry.whole:Whole",
            config="vlmzoo_registry.config:NoOptions",
            summary="The whole image as one view, as the encoder's own transform makes it (LLaVA-1.5, BLIP-2, PaliGemma).",
            paper="https://arxiv.org/abs/2304.08485",
            license="Apache-2.0",
            tiny={},
        ),
        ComponentSpec(
            kind="layout",
            name="anyres",
            factory="vlmzoo_layouts.anyres:Anyres",
            config="vlmzoo_layouts.config:AnyresConfig",
            summary="The whole image, then tiles read row by row as one large image (LLaVA-NeXT, LLaVA-OneVision).",
            paper="https://arxiv.org/abs/2408.03326",
            license="Apache-2.0",
            tiny={},
        ),
        ComponentSpec(
            kind="layout",
            name="dynamic-tiles",
            factory="vlmzoo_layouts.dynamic_tiles:DynamicTiles",
            config="vlmzoo_layouts.config:DynamicTilesConfig",
            summary="Tiles in the grid of the closest ratio, then the whole image (InternVL 1.5 to 3).",
            paper="https://arxiv.org/abs/2404.16821",
            license="Apache-2.0",
            tiny={"max_tiles": 6},
        ),
        ComponentSpec(
            kind="layout",
            name="split",
            factory="vlmzoo_layouts.split:Split",
            config="vlmzoo_layouts.config:SplitConfig",
            summary="Tiles named by row and column, then the whole image; small images are enlarged first (Idefics3, SmolVLM).",
            paper="https://arxiv.org/abs/2408.12637",
            license="Apache-2.0",
            tiny={},
        ),
        ComponentSpec(
            kind="layout",
            name="native",
            factory="vlmzoo_layouts.native:Native",
            config="vlmzoo_layouts.config:NativeConfig",
            summary="One view of the image's own ratio, a token at the end of every row (Pixtral).",
            paper="https://arxiv.org/abs/2410.07073",
            license="Apache-2.0",
            tiny={},
        ),
        ComponentSpec(
            kind="layout",
            name="canvas",
            factory="vlmzoo_layouts.canvas:Canvas",
            config="vlmzoo_layouts.config:CanvasConfig",
            summary="One view of a few tiles that the encoder sees together, the image at its top left (Llama 3.2 Vision).",
            paper="https://arxiv.org/abs/2407.21783",
            license="Apache-2.0",
            tiny={},
        ),
        ComponentSpec(
            kind="layout",
            name="tagged-tiles",
            factory="vlmzoo_layouts.tagged_tiles:TaggedTiles",
            config="vlmzoo_layouts.config:TaggedTilesConfig",
            summary="Tiles in the grid of the closest ratio, each behind its number in words, then the whole image (NVLM).",
            paper="https://arxiv.org/abs/2409.11402",
            license="Apache-2.0",
            tiny={},
        ),
        ComponentSpec(
            kind="layout",
            name="keep-ratio",
            factory="vlmzoo_layouts.keep_ratio:KeepRatio",
            config="vlmzoo_layouts.config:KeepRatioConfig",
            summary="One view of the image's own ratio, for connectors that make a fixed number of tokens of it (Idefics2).",
            paper="https://arxiv.org/abs/2405.02246",
            license="Apache-2.0",
            tiny={"shortest_edge": 16, "longest_edge": 48, "patch": 8},
        ),
    ]
