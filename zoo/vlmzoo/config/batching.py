"""How a stage makes batches of its samples: how rows stand beside each other, and which samples are brought together."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from vlmzoo.config.section import Section


class BatchingConfig(Section):
    """How batches are made. A *piece* is what stands together in any case: one sample, or as many as `max_tokens` lets in."""

    called: ClassVar[str] = "a way of batching"

    mode: Literal["padded", "flatten", "pack"] | None = Field(
        default=None,
        description="`padded`: rows are filled up to the longest of their forward pass. `flatten`: they stand one after the "
        "other and do not see each other, so nothing is filled up; the same update. `pack`: so do pieces that are put together "
        "of samples which fill `max_tokens` best. Default: `flatten` where the language model and the objective can, else "
        "`padded`; a run says which.",
    )
    group_by: Literal["none", "length", "modality"] = Field(
        default="none",
        description="What the samples of a forward pass have in common. `length`: they are about as long. `modality`: besides, "
        "all of them have images or none has. Forward passes still come in random order.",
    )
    max_tokens: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="A piece takes as many samples as fit into so many tokens, image slots and with `padded` the filling "
        "included. `batch_size` and `micro_batch` then count these pieces; padded, `micro_batch` is the number of processes, "
        "as several pieces would be padded to the longest of all. Default: a piece is one sample.",
    )
    max_images: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="Besides, a piece has no more images; one that is cut into views counts as so many. Default: any number.",
    )
    buffer: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="How many samples of the epoch's random order are looked at together. Default: 1,000 to pack; to sort, "
        "those of 50 forward passes (as transformers does), at most a quarter of all.",
    )

    @property
    def by_length(self) -> bool:
        """Whether the lengths of all samples must be known before the first step."""
        return self.max_tokens is not None or self.group_by != "none"

    @classmethod
    def conflicts(cls, values: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Packs have a budget and an order of their own; nothing is said that nothing reads."""
        found = []
        packs, grouped = values.get("mode") == "pack", values.get("group_by", "none") != "none"
        if packs and values.get("max_tokens") is None:
            found.append(("max_tokens", "is missing: `mode: pack` fills packs of so many tokens, for example `8192`"))
        if packs and grouped:
            found.append(("group_by", "stands beside `mode: pack`, which mixes samples to fill packs: leave one of them out"))
        if values.get("max_images") is not None and values.get("max_tokens") is None and not packs:
            found.append(("max_images", "needs `max_tokens`, as without it a piece is one sample: add it, or leave this out"))
        if values.get("buffer") is not None and not (packs or grouped):
            found.append(
                ("buffer", "needs `mode: pack` or `group_by`, as otherwise nothing is sorted: add one, or leave this out")
            )
        return found
