"""The connectors that ship with vlmzoo, described; nothing heavy is imported here."""

from vlmzoo_registry import ComponentSpec, hookimpl


@hookimpl
def vlmzoo_components() -> list[ComponentSpec]:
    """Describe the connectors."""
    return [
        ComponentSpec(
            kind="connector",
            name="linear",
            factory="vlmzoo_connectors.linear:linear",
            config="vlmzoo_connectors.config:LinearConfig",
            summary="One matrix from the vision width to the language width (LLaVA).",
            paper="https://arxiv.org/abs/2304.08485",
            license="Apache-2.0",
            tiny={},
        ),
        ComponentSpec(
            kind="connector",
            name="mlp",
            factory="vlmzoo_connectors.mlp:mlp",
            config="vlmzoo_connectors.config:MlpConfig",
            summary="A perceptron on each token; by default two layers with GELU (LLaVA-1.5's mlp2x_gelu).",
            paper="https://arxiv.org/abs/2310.03744",
            license="Apache-2.0",
            tiny={"depth": 2, "hidden_width": 24, "input_norm": "layer", "output_norm": "layer_scaled", "output_scale": 0.5},
        ),
        ComponentSpec(
            kind="connector",
            name="pixel-shuffle",
            factory="vlmzoo_connectors.pixel_shuffle:PixelShuffle",
            config="vlmzoo_connectors.config:PixelShuffleConfig",
            summary="Folds neighbouring tokens into the channels: fewer, wider tokens (InternVL, Idefics3). No parameters.",
            paper="https://arxiv.org/abs/2404.16821",
            license="Apache-2.0",
            tiny={"factor": 2},
        ),
        ComponentSpec(
            kind="connector",
            name="resampler",
            factory="vlmzoo_connectors.resampler:Resampler",
            config="vlmzoo_connectors.config:ResamplerConfig",
            summary="A fixed number of learned queries that attend to the image tokens (Flamingo's Perceiver resampler).",
            paper="https://arxiv.org/abs/2204.14198",
            license="Apache-2.0",
            tiny={"queries": 5, "depth": 2, "heads": 2, "head_width": 8},
        ),
        ComponentSpec(
            kind="connector",
            name="cross-attention",
            factory="vlmzoo_connectors.cross_attention:CrossAttention",
            config="vlmzoo_connectors.config:CrossAttentionConfig",
            summary="Gated blocks between the decoder's layers, through which text attends to the image (Flamingo, Llama-3.2).",
            paper="https://arxiv.org/abs/2204.14198",
            license="Apache-2.0",
            capabilities=frozenset({"layers"}),
            tiny={"every": 1, "heads": 2, "head_width": 8},
        ),
    ]
