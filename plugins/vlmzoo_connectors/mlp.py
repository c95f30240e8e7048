"""A perceptron on each token: LLaVA-1.5's connector (arXiv:2310.03744, section 3.2) and its variants with norms."""

from itertools import pairwise

from torch import nn

from vlmzoo_connectors.activation import activation_module
from vlmzoo_connectors.config import MlpConfig
from vlmzoo_registry import ConnectorContext, PerToken


def mlp(config: MlpConfig, context: ConnectorContext) -> PerToken:
    """`depth` matrices with an activation between them, and LayerNorms where asked for; places and prefix stay.

    Its module holds, in order: the input norm, matrices and activations in turn, the output norm.
    """
    output_width = context.target_width
    hidden = [config.hidden_width or output_width] * (config.depth - 1)
    layers: list[nn.Module] = []
    if config.input_norm != "none":
        learned = config.input_norm == "layer"
        layers.append(nn.LayerNorm(context.input.width, eps=config.norm_epsilon, elementwise_affine=learned))
    for index, (before, after) in enumerate(pairwise([context.input.width, *hidden, output_width])):
        if index > 0:
            layers.append(activation_module(config.activation))
        layers.append(nn.Linear(before, after, bias=config.bias))
    if config.output_norm != "none":
        norm = nn.LayerNorm(output_width, eps=config.norm_epsilon)
        if config.output_scale is not None:
            nn.init.constant_(norm.weight, config.output_scale)
        layers.append(norm)
    return PerToken(nn.Sequential(*layers), context)
