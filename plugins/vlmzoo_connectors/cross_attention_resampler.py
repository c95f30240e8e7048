"""One layer in which learned queries, each with a place on a grid, attend to the image tokens: Qwen-VL's adapter.

Qwen-VL (arXiv:2308.12966, section 2.1; its code: Tongyi Qianwen License).
"""

import torch
from torch import nn
from torch.nn import functional

from vlmzoo_connectors.config import CrossAttentionResamplerConfig
from vlmzoo_connectors.sine_positions import resized, sine_positions
from vlmzoo_registry import AssemblyError, Connector, ConnectorContext, Grid, VisionFeatures, check_tokens


class CrossAttentionResampler(Connector):
    """[B, h*w, D] -> [B, grid * grid, d]; queries and keys carry the sines of their places, values do not.

    The places of the image tokens are read off the queries' grid, so that a query and a key of one place in the image have
    like positions at any resolution. What comes out has no places: a query may look anywhere.
    """

    def __init__(self, config: CrossAttentionResamplerConfig, context: ConnectorContext) -> None:
        super().__init__()
        width = context.target_width
        self._input_width, self._grid, self._head_width = context.input.width, (config.grid, config.grid), config.head_width
        reasons = self._misfits(context.input.grid, context.input.prefix)
        if width % config.head_width or width % 4:
            reasons.append(f"`head_width` (={config.head_width}) and 4 must divide the width that comes out (={width})")
        if reasons:
            raise AssemblyError(f"`connectors/cross-attention-resampler` does not fit to {context.input}", reasons)
        self.queries = nn.Parameter(torch.empty(config.grid**2, width))
        nn.init.trunc_normal_(self.queries, std=0.02)
        same = context.input.width == width
        self.token_projection = nn.Identity() if same else nn.Linear(context.input.width, width, bias=False)
        self.query_norm = nn.LayerNorm(width, eps=config.norm_epsilon)
        self.token_norm = nn.LayerNorm(width, eps=config.norm_epsilon)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=config.norm_epsilon)
        self.projection = nn.Linear(width, width, bias=False)

    @property
    def output_width(self) -> int:
        """The width that was asked for, or else that of the language model."""
        return self.queries.shape[1]

    def output_grid(self, grid: Grid | None) -> Grid | None:
        """None; raises `AssemblyError` where no grid comes in."""
        self._check(grid, 0)
        return None

    def token_count(self, grid: Grid | None, count: int) -> int:
        """The number of queries; raises `AssemblyError` where no grid comes in, or a prefix does."""
        self._check(grid, 0 if grid is None else count - grid[0] * grid[1])
        return self.queries.shape[0]

    def forward(self, features: VisionFeatures) -> VisionFeatures:
        """[B, h*w, D] -> [B, grid * grid, d]; raises `AssemblyError` without a grid or with a prefix."""
        check_tokens("connectors/cross-attention-resampler", "tokens", features.tokens, self._input_width)
        self.token_count(features.grid, features.tokens.shape[1])
        assert features.grid is not None
        places = sine_positions(*self._grid, self.output_width, like=features.tokens)  # Q d
        token_places = resized(places, self._grid, features.grid)  # N d
        tokens = self.token_norm(self.token_projection(features.tokens))  # B N d
        queries = self.query(self.query_norm(self.queries) + places.to(tokens.dtype))  # Q d
        keys = self.key(tokens + token_places.to(tokens.dtype))  # B N d
        values = self.value(tokens)  # B N d
        split = [
            part.unflatten(2, (-1, self._head_width)).transpose(1, 2)
            for part in (queries.expand(len(tokens), -1, -1), keys, values)
        ]  # B heads . head_width
        attended = functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)  # B Q d
        return VisionFeatures(self.projection(self.norm(self.output(attended))), grid=None)

    def _check(self, grid: Grid | None, prefix: int) -> None:
        reasons = self._misfits(grid, prefix)
        if reasons:
            raise AssemblyError("`connectors/cross-attention-resampler` cannot take these tokens", reasons)

    def _misfits(self, grid: Grid | None, prefix: int) -> list[str]:
        reasons = []
        if grid is None:
            reasons.append(
                "its keys carry their places, and these tokens have no grid: put it before the connector that drops the grid"
            )
        if prefix:
            reasons.append(
                f"it takes 0 prefix tokens and {prefix} come in, which have no place: set `prefix: drop` in the encoder"
            )
        return reasons
