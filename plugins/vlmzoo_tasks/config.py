"""The options of the datasets of this plugin, apart from the datasets so that reading them loads nothing heavy."""

from pathlib import Path
from string import Formatter
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from vlmzoo_registry.config import ComponentConfig

IMAGE = "<image>"
"""As `vlmzoo_registry.tasks.IMAGE`, which stands beside what imports Pillow."""


def _spoken(words: str) -> str:
    if not words.strip():
        raise ValueError("has no words: write some, or `null` where the system says nothing")
    return words


System = Annotated[str, Field(min_length=1), AfterValidator(_spoken)]
"""What the system says."""


class VicunaConfig(ComponentConfig):
    """`system` is what the system says where the data has no turn of it; None: nothing."""

    system: System | None = (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and "
        "polite answers to the user's questions."
    )


class ChatmlDirectConfig(ComponentConfig):
    """`system` is what the system says where the data has no turn of it; None: nothing."""

    system: System | None = "Answer the questions."


class OwnChatConfig(ComponentConfig):
    """`system` is what the system says where the data has no turn of it; None: what the tokenizer's template does then."""

    system: System | None = None


class CaptionsConfig(ComponentConfig):
    """`path`: rows `{image, caption[, id]}` as JSON lines or a JSON list, also `.gz`; `images`: the folder of images."""

    path: Path
    images: Path


def _no_image(words: str) -> str:
    if IMAGE in words or not words.strip():
        raise ValueError(f"must be words without `{IMAGE}` (is {words!r}): the image stands before them by itself")
    return words


Prompts = tuple[Annotated[str, AfterValidator(_no_image)], ...]
"""What the user may say about an image: one of these for each sample, drawn by its id; none: the image alone."""


class CocoCaptionsConfig(ComponentConfig):
    """`path`: COCO's `captions_*.json`; `images`: its folder of images; `prompts`: what the user may say, one is drawn."""

    path: Path
    images: Path
    prompts: Prompts = ()


class Flickr30kConfig(ComponentConfig):
    """`path`: `results_20130124.token`, or the table of the common mirror, `results.csv`; `images`: the folder of images.

    `prompts` is what the user may say, one is drawn for each sample.
    """

    path: Path
    images: Path
    prompts: Prompts = ()


class ChatConfig(ComponentConfig):
    """`path`: rows `{messages: [{role, content}], images}` as a JSON list or JSON lines, also `.gz`; `images`: their folder."""

    path: Path
    images: Path


class LlavaConfig(ComponentConfig):
    """`path`: rows of LLaVA as a JSON list or JSON lines, also `.gz`; `images`: the folder of images."""

    path: Path
    images: Path


def _plain_fields(text: str) -> str:
    """Only `{field}`: attribute access and format specifications have no place in data."""
    for _, field, specification, conversion in Formatter().parse(text):
        if field is not None and (not field.isidentifier() or specification or conversion):
            raise ValueError(f"`{{{field}}}` must be the plain name of a label's field, as in `{{label}}`")
    return text


FieldText = Annotated[str, AfterValidator(_plain_fields)]
"""Words with fields of a label in braces; a field that holds a list is joined with commas."""


class Exchange(ComponentConfig):
    """A question about a picture and its answer, with fields of its label in braces."""

    user: Annotated[FieldText, Field(min_length=1)]
    assistant: Annotated[FieldText, Field(min_length=1)]


class SheetConfig(ComponentConfig):
    """One image of `columns` cells of `cell` x `cell` pixels in a row; its labels in JSON lines, in row-major order.

    `text` is what the assistant says of a cell, with fields of its label in braces; a field that holds a list is joined with
    commas. `prompt` is what the user says beside the image. Or `turns`: several exchanges about each picture, in this order,
    so that the picture is encoded once for all of them.
    `include_groups` and `exclude_groups` choose by the label's `group`. `concept` is the field whose value says which cells
    belong together: a share `heldout` of these values is held out, by a hash that is the same on every machine, and `split`
    says which side this dataset gives (None: both).
    """

    sheet: Path
    labels: Path
    columns: Annotated[int, Field(gt=0)]
    cell: Annotated[int, Field(gt=0)]
    text: FieldText = "{label}"
    prompt: str = ""
    turns: Annotated[tuple[Exchange, ...], Field(min_length=1)] | None = None
    include_groups: tuple[str, ...] | None = None
    exclude_groups: tuple[str, ...] = ()
    concept: str = "hex"
    split: Literal["train", "heldout"] | None = None
    heldout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @property
    def exchanges(self) -> tuple[tuple[str, str], ...]:
        """What the user and the assistant say about each picture, in order, with fields in braces."""
        if self.turns is None:
            return ((self.prompt, self.text),)
        return tuple((exchange.user, exchange.assistant) for exchange in self.turns)

    @model_validator(mode="after")
    def _one_way_of_asking(self) -> Self:
        fields = SheetConfig.model_fields
        beside = [name for name in ("prompt", "text") if getattr(self, name) != fields[name].default]
        if self.turns is not None and beside:
            raise ValueError(f"`turns` says all that is said, so `{beside[0]}` has no place beside it: leave one of them out")
        return self

    @model_validator(mode="after")
    def _split_has_a_share(self) -> Self:
        if self.split is not None and self.heldout == 0:
            raise ValueError(f"`split` (={self.split}) needs a `heldout` above 0 (is 0.0), such as 0.1")
        return self
