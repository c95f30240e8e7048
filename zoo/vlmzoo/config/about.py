"""The `about:` section of a recipe: what it reproduces, where that was published, and what of it nobody has checked.

For readers: nothing here changes a run, so nothing here is recorded with one. The tests hold the recipe to its figures.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints

from vlmzoo.config.node import quotable
from vlmzoo.config.section import Section

Line = Annotated[str, StringConstraints(min_length=1, pattern=r"^[^\n]+$")]
Rounded = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?[KMB]?$")]
Counted = Literal["vision", "connector", "language", "total"]

_SIZE = re.compile(r"[1-9][0-9]*x[1-9][0-9]*")

UNITS = {"K": 10**3, "M": 10**6, "B": 10**9}


class Published(Section):
    """Figures of the publication, which the plan of the recipe must give again."""

    called: ClassVar[str] = "what was published"

    image_tokens: int | dict[str, int] = Field(
        description="Tokens per image: one number, or, where it depends on the image, a number for each size, as "
        "`{672x1008: 2144}` (width x height in pixels)."
    )
    parameters: dict[Counted, Rounded] = Field(
        default_factory=dict,
        description="Parameters of parts, or in `total`, as they were published: `428M`, `7.06B`, `124439808`.",
    )

    @classmethod
    def conflicts(cls, values: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Sizes are sizes."""
        tokens = values.get("image_tokens")
        if not isinstance(tokens, Mapping):
            return []
        wrong = [size for size in tokens if not _SIZE.fullmatch(size)]
        if not tokens or wrong:
            shown = f"has `{quotable(wrong[0])}`" if wrong else "is empty"
            return [("image_tokens", f"{shown}: write sizes as width x height in pixels, such as `672x1008: 2144`")]
        return []

    def at_sizes(self) -> dict[tuple[int, int] | None, int]:
        """Tokens per image by height and width in pixels; under None where all images have as many."""
        if isinstance(self.image_tokens, int):
            return {None: self.image_tokens}
        sizes = {tuple(map(int, size.split("x"))): count for size, count in self.image_tokens.items()}
        return {(height, width): count for (width, height), count in sizes.items()}


class About(Section):
    """What a recipe reproduces, and how well that is known."""

    called: ClassVar[str] = "what a recipe is about"

    title: Line = Field(description="The published model, or what the recipe makes, in a few words.")
    sources: Annotated[tuple[Line, ...], Field(strict=False, min_length=1)] = Field(
        description="Where it comes from: papers, repositories, files."
    )
    published: Published | None = Field(default=None, description="Figures to be held to.")
    differs: Annotated[tuple[Line, ...], Field(strict=False)] = Field(
        default=(), description="What the publication does otherwise."
    )
    unverified: Annotated[tuple[Line, ...], Field(strict=False)] = Field(
        default=(), description="What was taken from a paper or another's account, and not read in the project's own files."
    )


def rounds_to(count: int, published: str) -> bool:
    """Whether a count is the published figure, at the precision of the figure: 7,063,427,072 is `7.06B` and `7B`."""
    unit = UNITS.get(published[-1], 1)
    digits = published.rstrip("KMB")
    decimals = len(digits.partition(".")[2])
    return abs(count / unit - float(digits)) <= 0.5 * 10**-decimals
