"""The open_clip encoder, described; nothing heavy is imported here."""

from vlmzoo_registry import ComponentSpec, hookimpl


@hookimpl
def vlmzoo_components() -> list[ComponentSpec]:
    """Describe the encoder."""
    return [
        ComponentSpec(
            kind="vision_encoder",
            name="encoder",
            factory="vlmzoo_openclip.encoder:OpenClipEncoder",
            config="vlmzoo_openclip.config:OpenClipConfig",
            summary="The vision tower of any open_clip model: CLIP, SigLIP, EVA, ConvNeXt and their many training sets.",
            paper="https://arxiv.org/abs/2212.07143",
            license="MIT",
            requires=("open-clip-torch>=3.0",),
            tiny={
                "config": {
                    "embed_dim": 8,
                    "quick_gelu": True,
                    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 3},
                },
                "layers": [-2, -1],
                "final_norm": True,
                "prefix": "keep",
            },
        )
    ]
