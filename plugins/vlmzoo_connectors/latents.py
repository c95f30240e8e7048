"""The shell around the layers of a Perceiver: learned latents go through them, each time with the image tokens to attend to.

`resampler` (Flamingo's layers) and `perceiver` (Idefics2's) are it, with layers and a norm of their own.
"""

from collections.abc import Iterable

from torch import Tensor, nn

from vlmzoo_registry import Connector, ConnectorContext, Grid, VisionFeatures, check_tokens


class Latents(Connector):
    """[B, N, D] -> [B, queries, D], then a matrix to the output width where one is asked for and differs.

    Any number of tokens goes in, prefix tokens included; what comes out has no places. `latents` are [queries, D] where they
    begin; a layer is called with the latents [B, queries, D] and the tokens [B, N, D], and returns the latents; `name` is the
    component's, for errors.
    """

    def __init__(
        self, name: str, latents: Tensor, layers: Iterable[nn.Module], norm: nn.Module, context: ConnectorContext
    ) -> None:
        super().__init__()
        width = context.input.width
        self._name, self._output_width = name, context.output_width or width
        self.latents = nn.Parameter(latents)
        self.layers = nn.ModuleList(layers)
        self.norm = norm
        self.projection = nn.Identity() if self._output_width == width else nn.Linear(width, self._output_width, bias=False)

    @property
    def output_width(self) -> int:
        """The width that was asked for, or else the one that comes in."""
        return self._output_width

    def output_grid(self, grid: Grid | None) -> Grid | None:
        """None: the latents have no places."""
        return None

    def token_count(self, grid: Grid | None, count: int) -> int:
        """The number of latents, whatever goes in."""
        return self.latents.shape[0]

    def forward(self, features: VisionFeatures) -> VisionFeatures:
        """[B, N, D] -> [B, queries, d]."""
        check_tokens(self._name, "tokens", features.tokens, self.latents.shape[1])
        latents = self.latents.expand(features.tokens.shape[0], -1, -1)  # B Q D
        for layer in self.layers:
            latents = layer(latents, features.tokens)
        return VisionFeatures(self.projection(self.norm(latents)), grid=None)
