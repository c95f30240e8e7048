"""The options of the connectors; importable without torch, so that recipes are checked and schemas written fast."""

from vlmzoo_connectors.config.common import Activation
from vlmzoo_connectors.config.convolution import CAbstractorConfig, LdpConfig, LdpV2Config
from vlmzoo_connectors.config.cross_attention import CrossAttentionConfig
from vlmzoo_connectors.config.grid import (
    AdaptivePoolConfig,
    AttentionPoolConfig,
    AveragePoolConfig,
    InterpolateConfig,
    PixelShuffleConfig,
)
from vlmzoo_connectors.config.per_token import IdentityConfig, LinearConfig, MlpConfig, NormConfig
from vlmzoo_connectors.config.queries import (
    CrossAttentionResamplerConfig,
    InstructedQFormerConfig,
    PerceiverConfig,
    QFormerConfig,
    ResamplerConfig,
)

__all__ = [
    "Activation",
    "AdaptivePoolConfig",
    "AttentionPoolConfig",
    "AveragePoolConfig",
    "CAbstractorConfig",
    "CrossAttentionConfig",
    "CrossAttentionResamplerConfig",
    "IdentityConfig",
    "InstructedQFormerConfig",
    "InterpolateConfig",
    "LdpConfig",
    "LdpV2Config",
    "LinearConfig",
    "MlpConfig",
    "NormConfig",
    "PerceiverConfig",
    "PixelShuffleConfig",
    "QFormerConfig",
    "ResamplerConfig",
]
