"""The gated perceptron (arXiv:2002.05202, section 2): one matrix says what, another how much of it."""

from jaxtyping import Float
from torch import Tensor, nn

from vlmzoo_connectors.activation import activation_module
from vlmzoo_connectors.config import Activation


class GatedPerceptron(nn.Module):
    """down(activation(gate(x)) * up(x))."""

    def __init__(self, width: int, hidden: int, output: int, *, activation: Activation, bias: bool) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=bias)
        self.up = nn.Linear(width, hidden, bias=bias)
        self.down = nn.Linear(hidden, output, bias=bias)
        self.activation = activation_module(activation)

    def forward(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B N d"]:
        """[B, N, D] -> [B, N, d]."""
        return self.down(self.activation(self.gate(tokens)) * self.up(tokens))
