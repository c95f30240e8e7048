"""The options of the datasets of this plugin, apart from the datasets so that reading them loads nothing heavy."""

import re
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


class SystemConfig(ComponentConfig):
    """`system` is what the system says where the data has no turn of it; None: nothing."""

    system: System | None = None


class HumanConfig(SystemConfig):
    """`system` is what the system says where the data has no turn of it; None: nothing. Default: Vicuna 0's words."""

    system: System | None = (
        "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, and "
        "polite answers to the human's questions."
    )


class VicunaConfig(SystemConfig):
    """`system` is what the system says where the data has no turn of it; None: nothing. Default: Vicuna 1.1's words."""

    system: System | None = (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and "
        "polite answers to the user's questions."
    )


class MmtagConfig(SystemConfig):
    """`system` is what the system says where the data has no turn of it; None: nothing.

    The default is LLaVA's words; no space stands behind their second sentence there either.
    """

    system: System | None = (
        "A chat between a curious user and an artificial intelligence assistant. The assistant is able to understand the "
        "visual content that the user provides, and assist the user with a variety of tasks using natural language.The visual "
        "content will be provided with the following format: <Image>visual content</Image>."
    )


class Llama2Config(SystemConfig):
    """`system` is what the system says where the data has no turn of it; None: nothing.

    The default is Llama 2's words; two spaces stand behind their second sentence there too.
    """

    system: System | None = (
        "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe.  Your "
        "answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. Please "
        "ensure that your responses are socially unbiased and positive in nature.\n\nIf a question does not make any sense, or "
        "is not factually coherent, explain why instead of answering something not correct. If you don't know the answer to a "
        "question, please don't share false information."
    )


class LlavaLlama2Config(SystemConfig):
    """`system` is what the system says where the data has no turn of it; None: nothing. Default: LLaVA's words on Llama 2."""

    system: System | None = (
        "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
        "provides, and assist the user with a variety of tasks using natural language."
    )


class MptConfig(SystemConfig):
    """`system` is what the system says where the data has no turn of it; None: nothing. Default: LLaVA's words on MPT."""

    system: System | None = (
        "A conversation between a user and an LLM-based AI assistant. The assistant gives helpful and honest answers."
    )


class AnswerConfig(SystemConfig):
    """`system` is what the system says where the data has no turn of it; None: nothing. Default: LLaVA-1.6 34B's words."""

    system: System | None = "Answer the questions."


class QwenConfig(SystemConfig):
    """`system` is what the system says where the data has no turn of it; None: nothing. Default: Qwen 1.5's and 2's words."""

    system: System | None = "You are a helpful assistant."


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


def _image_pattern(pattern: str) -> str:
    fields = [(field, specification, conversion) for _, field, specification, conversion in Formatter().parse(pattern)]
    used = [entry for entry in fields if entry[0] is not None]
    if [entry[0] for entry in used] != ["image_id"] or used[0][2] or not re.fullmatch(r"(0\d{1,2}d)?", used[0][1] or ""):
        raise ValueError(f"must name the image once, as `{{image_id}}` or `{{image_id:012d}}` (is {pattern!r})")
    return pattern


class VqaConfig(ComponentConfig):
    """`questions` and `annotations`: the two files of VQA v2 (or OK-VQA), also `.gz`; `images`: the folder of images.

    `file` is the name of an image by its id: `COCO_train2014_{image_id:012d}.jpg` as they were published,
    `{image_id:012d}.jpg` as COCO 2017 has the same ones.
    """

    questions: Path
    annotations: Path
    images: Path
    file: Annotated[str, AfterValidator(_image_pattern)] = "COCO_train2014_{image_id:012d}.jpg"


class FolderConfig(ComponentConfig):
    """`path`: a folder of images (and of folders of them); `text`: the ending of the files that hold their words.

    `prompts` is what the user may say, one is drawn for each sample.
    """

    path: Path
    text: Annotated[str, Field(pattern=r"^\.[A-Za-z0-9]+$")] = ".txt"
    prompts: Prompts = ()


class ArrowConfig(ComponentConfig):
    """`path`: a `.parquet` or `.arrow` file, or a folder of them, which are read in the order of their names.

    Rows hold what is said in `messages` (of role and content), `conversations` (LLaVA's), `texts` (The Cauldron's pairs of user
    and assistant) or `caption`, and images in `images` or `image`: bytes, or paths below the folder `images` of this config.
    `column` and `image_column` name these columns where they are called otherwise; `form` then says which of the four it is.
    `prompts` is what the user may say where rows have captions, one is drawn for each sample.
    """

    path: Path
    images: Path | None = None
    form: Literal["messages", "conversations", "texts", "caption"] | None = None
    column: str | None = None
    image_column: str | None = None
    prompts: Prompts = ()

    @model_validator(mode="after")
    def _a_column_has_a_form(self) -> Self:
        if self.column is not None and self.form is None:
            raise ValueError(f"`column` (={self.column}) needs `form`: messages, conversations, texts or caption")
        return self


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
