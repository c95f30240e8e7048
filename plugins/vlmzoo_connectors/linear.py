"""One matrix from the vision width to the language width: the first LLaVA's connector (arXiv:2304.08485, section 4.1)."""

from torch import nn

from vlmzoo_connectors.config import LinearConfig
from vlmzoo_connectors.widths import with_width
from vlmzoo_registry import ConnectorContext, PerToken


def linear(config: LinearConfig, context: ConnectorContext) -> PerToken:
    """Projects each token; places and prefix stay as they are."""
    context = with_width("connectors/linear", context, config.width)
    return PerToken(nn.Linear(context.input.width, context.target_width, bias=config.bias), context)
