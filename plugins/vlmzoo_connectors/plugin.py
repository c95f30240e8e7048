"""The connectors that ship with vlmzoo, described; nothing heavy is imported here.

The licence is that of the code here, written for vlmzoo from the papers; the modules name the licence of a paper's own code.
"""

from vlmzoo_registry import ComponentSpec, hookimpl


@hookimpl
def vlmzoo_components() -> list[ComponentSpec]:
    """Describe the connectors."""
    return [
        ComponentSpec(
            kind="connector",
            name="identity",
            factory="vlmzoo_connectors.identity:identity",
            config="vlmzoo_connectors.config:IdentityConfig",
            summary="Tokens as they come, where their width already fits.",
            license="Apache-2.0",
            tiny={},
        ),
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
            name="norm",
            factory="vlmzoo_connectors.norm:norm",
            config="vlmzoo_connectors.config:NormConfig",
            summary="LayerNorm or RMSNorm on each token, as a link of a chain (Gemma-3, Mistral-Small-3.1).",
            paper="https://arxiv.org/abs/1910.07467",
            license="Apache-2.0",
            tiny={"kind": "rms_offset"},
        ),
        ComponentSpec(
            kind="connector",
            name="pixel-shuffle",
            factory="vlmzoo_connectors.pixel_shuffle:pixel_shuffle",
            config="vlmzoo_connectors.config:PixelShuffleConfig",
            summary="Folds neighbouring tokens into the channels: fewer, wider tokens (InternVL, Idefics3). No parameters.",
            paper="https://arxiv.org/abs/2404.16821",
            license="Apache-2.0",
            tiny={"factor": 2},
        ),
        ComponentSpec(
            kind="connector",
            name="average-pool",
            factory="vlmzoo_connectors.average_pool:average_pool",
            config="vlmzoo_connectors.config:AveragePoolConfig",
            summary="The mean of kernel x kernel neighbours (Gemma-3). No parameters.",
            paper="https://arxiv.org/abs/2503.19786",
            license="Apache-2.0",
            tiny={"kernel": 2},
        ),
        ComponentSpec(
            kind="connector",
            name="adaptive-pool",
            factory="vlmzoo_connectors.adaptive_pool:adaptive_pool",
            config="vlmzoo_connectors.config:AdaptivePoolConfig",
            summary="Means that give a grid of a fixed size (PerceptionLM). No parameters.",
            paper="https://arxiv.org/abs/2504.13180",
            license="Apache-2.0",
            tiny={"grid": [2, 3]},
        ),
        ComponentSpec(
            kind="connector",
            name="interpolate",
            factory="vlmzoo_connectors.interpolate:interpolate",
            config="vlmzoo_connectors.config:InterpolateConfig",
            summary="A grid of another size, read off between the places (LLaVA-OneVision). No parameters.",
            paper="https://arxiv.org/abs/2408.03326",
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
