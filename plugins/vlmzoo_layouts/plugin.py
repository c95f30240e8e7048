"""The layouts that ship with vlmzoo, described; nothing heavy is imported here."""

from vlmzoo_registry import ComponentSpec, hookimpl


@hookimpl
def vlmzoo_components() -> list[ComponentSpec]:
    """Describe the layouts."""
    return [
        ComponentSpec(
            kind="layout",
            name="whole",
            factory="vlmzoo_layouts.whole:Whole",
            config="vlmzoo_registry.config:NoOptions",
            summary="The whole image as one view, as the encoder's own transform makes it (LLaVA-1.5, BLIP-2, PaliGemma).",
            paper="https://arxiv.org/abs/2304.08485",
            license="Apache-2.0",
            tiny={},
        ),
    ]
