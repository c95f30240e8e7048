"""Tokens as they come: for encoders whose width is the language model's, and as the null of a comparison."""

from torch import nn

from vlmzoo_connectors.config import IdentityConfig
from vlmzoo_connectors.widths import keeping_width
from vlmzoo_registry import ConnectorContext, PerToken


def identity(config: IdentityConfig, context: ConnectorContext) -> PerToken:
    """Passes everything on; raises `AssemblyError` where another width is needed."""
    return PerToken(nn.Identity(), keeping_width("connectors/identity", context))
