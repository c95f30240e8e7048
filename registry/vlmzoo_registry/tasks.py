"""The contracts of the data side: samples, templates that keep track of characters, and objectives."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from PIL import Image

if TYPE_CHECKING:
    from torch import Generator
    from transformers import PreTrainedTokenizerBase

    from vlmzoo_registry.token_row import TokenRow

Reading = Literal["full_prefix", "segment_ids", "span_positions", "sentence_labels", "row_lengths"]
"""What an objective may ask of a language model beside ids and labels; see `LanguageModel.reads`."""

IMAGE = "<image>"
"""How an image is written in the text of a turn; the assembler swaps it for the tokenizer's own placeholder."""


def marker_positions(text: str) -> tuple[int, ...]:
    """Where `<image>` stands in a text: what `Rendered.images` holds."""
    return tuple(match.start() for match in re.finditer(re.escape(IMAGE), text))


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation. `text` marks the places of images with `<image>`, in the order of the sample's images."""

    role: Literal["system", "user", "assistant"]
    text: str


@dataclass(frozen=True)
class Sample:
    """One row of a dataset. `images` are opened when called, decoded in full, in RGB. `source` is `file:line` or a row id.

    What opens the same image should compare equal in all samples, as `vlmzoo_registry.images.ImageFile` does: rules that bring
    together what is said of one image know it by that.
    """

    id: str
    turns: tuple[Turn, ...]
    images: tuple[Callable[[], Image.Image], ...]
    source: str
    label: int | None = None
    """What a sentence head is to say of the sample: 0 where its second text follows the first, 1 where it does not."""
    weight: float = 1.0
    """How much its loss counts beside that of other samples; set by the stage, not by datasets."""
    epoch: int = 0
    """In which round through the data it is drawn; set by training, so that what is drawn for it differs between rounds."""


@dataclass(frozen=True)
class Span:
    """Characters `start` to `end` (exclusive) of a rendered text, whose tokens are supervised with this weight."""

    start: int
    end: int
    weight: float = 1.0


@dataclass(frozen=True)
class Rendered:
    """A text with the places of its images and its supervised characters; never re-tokenised piece by piece.

    `images` are the character positions where an `<image>` marker stands in `text`; `spans` the characters that count.
    `end` says whether the tokenizer's end token follows the last character, and is supervised with it.
    """

    text: str
    images: tuple[int, ...]
    spans: tuple[Span, ...]
    end: bool


class Dataset(ABC):
    """Implement this to bring a data source; constructed as `factory(config)`.

    Bad rows raise `DataError` naming file:line:field: `BadRowsError` with all of them where the others can be used without,
    else `RefusedRowsError`; a row that is seen to be bad only when it is asked for raises `BadRowError`.
    The `workers` of a stage are forked: what is read row by row is opened when a row is read, as all of them would share the
    position in a file that was open before. A component of this kind has no option called `rules`, which a recipe writes beside
    the options.
    """

    @abstractmethod
    def __len__(self) -> int:
        """How many samples there are."""

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """The sample at this index; the same every time."""


@dataclass(frozen=True)
class Ruled:
    """What a rule makes of a dataset, and a `note` of what it did, with numbers: for the log of a run."""

    rows: Dataset
    note: str


class Rule(ABC):
    """Implement this to change what a dataset gives (merge, split, sample, leave out); constructed as `factory(config)`.

    A recipe lists rules under `rules:` of a dataset; they are applied in this order.
    """

    @abstractmethod
    def apply(self, rows: Dataset) -> Ruled:
        """The dataset with the rule applied, and a note of what it did.

        The same rows give the same result; what is drawn is keyed by the samples' ids, never by their order. Ids that differ
        before differ after. Opens no image. Where the rule cannot be applied it raises `RefusedRowsError` with every sample
        that it is refused for, by their sources, or `BadRowError` when such a sample is asked for.
        """


class Template(ABC):
    """Implement this to bring a conversation style; constructed as `factory(config)`, then bound to a tokenizer once."""

    @abstractmethod
    def render(self, turns: Sequence[Turn], *, prompt: bool) -> Rendered:
        """The turns as one text with spans over what the assistant says, the token that ends each answer included.

        With `prompt=True` the text ends where the assistant would begin to speak; the ids of a prompt in training equal those
        at generation. Raises `DataError` for turns that the style cannot write.
        """

    def bind(self, tokenizer: "PreTrainedTokenizerBase") -> "Template":
        """The template for this tokenizer; called once, before any `render`.

        Raises `AssemblyError` where the tokenizer lacks what the style writes. Default: itself, for a style of plain words.
        """
        return self

    @property
    def control_tokens(self) -> tuple[str, ...]:
        """The special tokens that the style writes by their names, each of which a tokenizer must have as one token."""
        return ()

    @property
    def stop(self) -> str | None:
        """The token that ends an answer, at which generation stops; None: the tokenizer's own end token, or `stop_words`."""
        return None

    @property
    def stop_words(self) -> str | None:
        """The words that end an answer, at which generation stops, for a style that ends with words and not with a token.

        A turn that contains them must be refused.
        """
        return None


class Objective(ABC):
    """Implement this to bring a training objective; constructed as `factory(config)`."""

    @abstractmethod
    def render(self, sample: Sample, template: Template) -> Rendered:
        """The text of a sample with the spans this objective supervises.

        Raises `DataError` naming `sample.source` where nothing is supervised.
        """

    def bind(self, tokenizer: "PreTrainedTokenizerBase") -> "Objective":
        """The objective for this tokenizer; called once, before any `corrupt`.

        Raises `AssemblyError` where the tokenizer lacks a token that the objective writes. Default: itself.
        """
        return self

    @property
    def attention(self) -> Literal["causal", "prefix", "full"]:
        """Which tokens see each other.

        "causal": each sees itself and those before it. "prefix": those before the first supervised one (or as many as
        `TokenRow.prefix` says) also see each other in both directions. "full": all see all.
        """
        return "causal"

    @property
    def shift(self) -> bool:
        """Whether the position before a label predicts it; False: each position predicts the label that stands at it."""
        return self.attention != "full"

    @property
    def needs(self) -> frozenset[Reading]:
        """What the language model must be able to read (or say) for this objective."""
        return frozenset()

    @property
    def keeps_length(self) -> bool:
        """Whether `corrupt` leaves every row as long as it is, so that batches can be filled by lengths that are known before.

        Default: yes.
        """
        return True

    def corrupt(self, row: "TokenRow", generator: "Generator") -> "TokenRow":
        """Change the tokens of a row, now that it has labels: those of what may be hidden. Default: the row as it is.

        All that is random comes from `generator`, which is keyed by the run's seed, the stage, the epoch and the sample: the
        same in every process and after every interruption, another in each epoch. Image slots keep their number and order.
        """
        return row


class Metric(ABC):
    """Implement this to bring a measure of answers; constructed as `factory(config)`.

    The result over many answers is the mean of their scores; higher is better.
    """

    @abstractmethod
    def score(self, truth: str, said: str) -> float:
        """How well what was said fits the true answer: 0 to 1, and 1 for the truth itself. Any two texts, also empty ones."""
