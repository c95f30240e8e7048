"""A perceptron on each token: LLaVA-1.5's connector (arXiv:2310.03744, section 3.2) and its variants with norms and gates."""

from itertools import pairwise

from torch import nn

from vlmzoo_connectors.activation import activation_module
from vlmzoo_connectors.config import MlpConfig
from vlmzoo_connectors.gated import GatedPerceptron
from vlmzoo_connectors.widths import with_width
from vlmzoo_registry import ConnectorContext, PerToken


def mlp(config: MlpConfig, context: ConnectorContext) -> PerToken:
    """`depth` matrices with an activation between them, and LayerNorms where asked for; places and prefix stay.

    Its module holds, in order: the input norm, matrices and activations in turn (or one `GatedPerceptron`), the activation of
    the output, the output norm.
    """
    context = with_width("connectors/mlp", context, config.width)
    input_width, output_width = context.input.width, context.target_width
    hidden = _hidden_widths(config, input_width, output_width)
    layers: list[nn.Module] = []
    if config.input_norm != "none":
        learned = config.input_norm == "layer"
        layers.append(nn.LayerNorm(input_width, eps=config.norm_epsilon, elementwise_affine=learned))
    if config.gated:
        layers.append(GatedPerceptron(input_width, hidden[0], output_width, activation=config.activation, bias=config.bias))
    else:
        for index, (before, after) in enumerate(pairwise([input_width, *hidden, output_width])):
            if index > 0:
                layers.append(activation_module(config.activation))
            layers.append(nn.Linear(before, after, bias=config.bias))
    if config.output_activation:
        layers.append(activation_module(config.activation))
    if config.output_norm != "none":
        norm = nn.LayerNorm(output_width, eps=config.norm_epsilon)
        if config.output_scale is not None:
            nn.init.constant_(norm.weight, config.output_scale)
        layers.append(norm)
    return PerToken(nn.Sequential(*layers), context)


def _hidden_widths(config: MlpConfig, input_width: int, output_width: int) -> list[int]:
    """The widths between the matrices: one fewer than there are of these."""
    widths = [config.hidden_width or output_width] * (config.depth - 1)
    if config.hidden_factor is not None:
        widths[0] = max(1, round(config.hidden_factor * input_width))
    return widths
