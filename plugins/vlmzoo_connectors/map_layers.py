"""What the convolving connectors share: a norm on each place of a map, and a gate on each channel."""

from jaxtyping import Float
from torch import Tensor, nn


class PlaceNorm(nn.Module):
    """LayerNorm over the channels of each place; its epsilon is that of timm's, over which the papers' codes are built."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-5)

    def forward(self, places: Float[Tensor, "B D h w"]) -> Float[Tensor, "B D h w"]:
        """[B, D, h, w] -> [B, D, h, w]."""
        return self.norm(places.movedim(1, -1)).movedim(-1, 1)


class ChannelGate(nn.Module):
    """Squeeze and excitation (arXiv:1709.01507): what the whole map holds says how much of each channel passes."""

    def __init__(self, width: int, squeezed: int, activation: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.squeeze = nn.Linear(width, squeezed)
        self.excite = nn.Linear(squeezed, width)
        self.activation, self.gate = activation, gate

    def forward(self, places: Float[Tensor, "B D h w"]) -> Float[Tensor, "B D h w"]:
        """[B, D, h, w] -> [B, D, h, w]."""
        share = self.gate(self.excite(self.activation(self.squeeze(places.mean((2, 3))))))  # B D
        return places * share[:, :, None, None]


class PlacePerceptron(nn.Module):
    """Matrices on each place of a map, with activations between them."""

    def __init__(self, width: int, output_width: int, depth: int, activation: type[nn.Module]) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(width, output_width)]
        for _ in range(depth - 1):
            layers += [activation(), nn.Linear(output_width, output_width)]
        self.layers = nn.Sequential(*layers)

    def forward(self, places: Float[Tensor, "B D h w"]) -> Float[Tensor, "B d h w"]:
        """[B, D, h, w] -> [B, d, h, w]."""
        return self.layers(places.movedim(1, -1)).movedim(-1, 1)
