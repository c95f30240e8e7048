"""Folds neighbouring tokens into the channels of one: fewer image tokens at the price of wider ones.

InternVL-1.5 (arXiv:2404.16821, section 3.1), Idefics3 (arXiv:2408.12637, section 2.2), NVILA (arXiv:2412.04468, section 2.1).
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vlmzoo_connectors.config import PixelShuffleConfig
from vlmzoo_connectors.grid_rule import Divided
from vlmzoo_connectors.on_grid import OnGrid
from vlmzoo_registry import ConnectorContext


class FoldNeighbours(nn.Module):
    """Windows of rows x columns places become one place; zeros fill up the last windows."""

    def __init__(self, rows: int, columns: int, order: Literal["dy_dx_c", "c_dy_dx"]) -> None:
        super().__init__()
        self.rows, self.columns, self.order = rows, columns, order

    def forward(self, places: Float[Tensor, "B c h w"]) -> Float[Tensor, "B C H W"]:
        """[B, c, h, w] -> [B, rows * columns * c, h / rows, w / columns]."""
        height, width = places.shape[2:]
        places = functional.pad(places, (0, -width % self.columns, 0, -height % self.rows))
        windows = places.unflatten(3, (-1, self.columns)).unflatten(2, (-1, self.rows))  # B c H dy W dx
        if self.order == "dy_dx_c":
            windows = windows.permute(0, 3, 5, 1, 2, 4)  # B dy dx c H W
        else:
            windows = windows.permute(0, 1, 3, 5, 2, 4)  # B c dy dx H W
        return windows.flatten(1, 3)


def pixel_shuffle(config: PixelShuffleConfig, context: ConnectorContext) -> OnGrid:
    """[B, h*w, c] -> [B, (h/f)*(w/f), f*f*c]; it has no parameters."""
    rows, columns = (config.factor, config.factor) if isinstance(config.factor, int) else config.factor
    module, rule = FoldNeighbours(rows, columns, config.order), Divided(rows, columns, "factor", config.pad)
    return OnGrid("connectors/pixel-shuffle", module, rule, context, output_width=rows * columns * context.input.width)
