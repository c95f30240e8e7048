"""Tiny parts of each kind, described; nothing heavy is imported here."""

from vlmzoo_registry import ComponentSpec, hookimpl


@hookimpl
def vlmzoo_components() -> list[ComponentSpec]:
    """Describe the toy parts."""
    return [
        ComponentSpec(
            kind="vision_encoder",
            name="vision",
            factory="vlmzoo_toy.vision:ToyVision",
            config="vlmzoo_toy.config:ToyVisionConfig",
            summary="A vision transformer of a few thousand parameters, for tests and tutorials.",
            paper="https://arxiv.org/abs/2010.11929",
            license="Apache-2.0",
            tiny={"class_token": True, "prefix": "keep", "layers": [0, -1]},
        ),
        ComponentSpec(
            kind="connector",
            name="connector",
            factory="vlmzoo_toy.connector:ToyConnector",
            summary="One matrix; the shortest connector there can be, to copy from.",
            license="Apache-2.0",
            tiny={},
        ),
        ComponentSpec(
            kind="language_model",
            name="language",
            factory="vlmzoo_toy.language:ToyLanguage",
            config="vlmzoo_toy.config:ToyLanguageConfig",
            summary="A decoder over bytes of a few thousand parameters, for tests and tutorials.",
            paper="https://arxiv.org/abs/2104.09864",
            license="Apache-2.0",
            tiny={"width": 16, "heads": 2},
        ),
    ]
