"""The contracts, hooks and discovery that plugins and the zoo share; importing it imports no framework.

Light names (`ComponentSpec`, `hookimpl`, errors) are here at once; contracts that need torch are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vlmzoo_registry.catalogue import Catalogue, default_catalogue
from vlmzoo_registry.component import Component
from vlmzoo_registry.config import ComponentConfig, NoOptions
from vlmzoo_registry.encoder_options import EncoderOptions
from vlmzoo_registry.errors import (
    AssemblyError,
    BadRowError,
    BadRowsError,
    CheckpointError,
    ConfigError,
    DataError,
    Fault,
    PluginError,
    RefusedRowsError,
    ResourceError,
    VlmzooError,
)
from vlmzoo_registry.features import FeatureShape, Grid
from vlmzoo_registry.hooks import hookimpl
from vlmzoo_registry.record import PluginRecord
from vlmzoo_registry.spec import API_VERSION, ComponentSpec
from vlmzoo_registry.suggest import did_you_mean, nearest

if TYPE_CHECKING:
    from vlmzoo_registry.connector import Connector, ConnectorContext, DecoderBlock, InstructedConnector, LayersConnector
    from vlmzoo_registry.embedding_scales import EmbeddingScales, measure_embedding_scales
    from vlmzoo_registry.images import ImageFile, ImageSource
    from vlmzoo_registry.inputs import check_pixels, check_tokens, check_views
    from vlmzoo_registry.language import LanguageModel
    from vlmzoo_registry.layout import Arrangement, ImageLayout, ImageSize, ImageText, LayoutContext
    from vlmzoo_registry.per_token import PerToken
    from vlmzoo_registry.tasks import IMAGE, Dataset, Metric, Objective, Rendered, Rule, Ruled, Sample, Span, Template, Turn
    from vlmzoo_registry.token_row import TokenRow
    from vlmzoo_registry.vision import ImageTransform, VisionEncoder, VisionFeatures

_LAZY = {
    "Connector": "connector",
    "ConnectorContext": "connector",
    "DecoderBlock": "connector",
    "InstructedConnector": "connector",
    "LayersConnector": "connector",
    "EmbeddingScales": "embedding_scales",
    "measure_embedding_scales": "embedding_scales",
    "LanguageModel": "language",
    "Arrangement": "layout",
    "ImageLayout": "layout",
    "ImageSize": "layout",
    "ImageText": "layout",
    "LayoutContext": "layout",
    "PerToken": "per_token",
    "check_pixels": "inputs",
    "check_tokens": "inputs",
    "check_views": "inputs",
    "IMAGE": "tasks",
    "ImageFile": "images",
    "ImageSource": "images",
    "Dataset": "tasks",
    "Metric": "tasks",
    "Objective": "tasks",
    "Rendered": "tasks",
    "Rule": "tasks",
    "Ruled": "tasks",
    "Sample": "tasks",
    "Span": "tasks",
    "Template": "tasks",
    "TokenRow": "token_row",
    "Turn": "tasks",
    "ImageTransform": "vision",
    "VisionEncoder": "vision",
    "VisionFeatures": "vision",
}

__all__ = [
    "API_VERSION",
    "IMAGE",
    "Arrangement",
    "AssemblyError",
    "BadRowError",
    "BadRowsError",
    "Catalogue",
    "CheckpointError",
    "Component",
    "ComponentConfig",
    "ComponentSpec",
    "ConfigError",
    "Connector",
    "ConnectorContext",
    "DataError",
    "Dataset",
    "DecoderBlock",
    "EmbeddingScales",
    "EncoderOptions",
    "Fault",
    "FeatureShape",
    "Grid",
    "ImageFile",
    "ImageLayout",
    "ImageSize",
    "ImageSource",
    "ImageText",
    "ImageTransform",
    "InstructedConnector",
    "LanguageModel",
    "LayersConnector",
    "LayoutContext",
    "Metric",
    "NoOptions",
    "Objective",
    "PerToken",
    "PluginError",
    "PluginRecord",
    "RefusedRowsError",
    "Rendered",
    "ResourceError",
    "Rule",
    "Ruled",
    "Sample",
    "Span",
    "Template",
    "TokenRow",
    "Turn",
    "VisionEncoder",
    "VisionFeatures",
    "VlmzooError",
    "check_pixels",
    "check_tokens",
    "check_views",
    "default_catalogue",
    "did_you_mean",
    "hookimpl",
    "measure_embedding_scales",
    "nearest",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'vlmzoo_registry' has no attribute {name!r}")
    value = getattr(import_module(f"vlmzoo_registry.{_LAZY[name]}"), name)
    globals()[name] = value
    return value
