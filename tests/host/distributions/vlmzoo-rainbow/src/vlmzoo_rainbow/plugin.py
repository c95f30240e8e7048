"""What this distribution provides, described; nothing heavy is imported here."""

from vlmzoo_registry import ComponentSpec, hookimpl


@hookimpl
def vlmzoo_components() -> list[ComponentSpec]:
    """Describe the connector."""
    return [
        ComponentSpec(
            kind="connector",
            name="rainbow",
            factory="vlmzoo_rainbow.connector:Rainbow",
            config="vlmzoo_rainbow.config:RainbowConfig",
            summary="A gated perceptron on each token (SwiGLU).",
            paper="https://arxiv.org/abs/2002.05202",
            license="Apache-2.0",
            requires=("torch>=2.0",),
            tiny={"expansion": 1.5},
        )
    ]
