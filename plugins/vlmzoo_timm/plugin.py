"""The timm encoder, described; nothing heavy is imported here."""

from vlmzoo_registry import ComponentSpec, hookimpl


@hookimpl
def vlmzoo_components() -> list[ComponentSpec]:
    """Describe the encoder."""
    return [
        ComponentSpec(
            kind="vision_encoder",
            name="encoder",
            factory="vlmzoo_timm.encoder:TimmEncoder",
            config="vlmzoo_timm.config:TimmConfig",
            summary="Any timm image model that gives intermediate features: vision transformers and convolutional networks.",
            paper="https://github.com/huggingface/pytorch-image-models",
            license="Apache-2.0",
            requires=("timm>=1.0.20",),
            tiny={"config": {"architecture": "test_vit"}, "image_size": 64, "layers": [-2, -1], "final_norm": True},
        )
    ]
