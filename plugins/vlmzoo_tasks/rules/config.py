"""The options of the rules of mixtures, apart from the rules so that reading them loads nothing heavy."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from vlmzoo_registry.config import ComponentConfig

IMAGE = "<image>"
"""As `vlmzoo_registry.tasks.IMAGE`, which stands beside what imports Pillow."""

Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]


def _words(text: str) -> str:
    if not text.strip() or IMAGE in text:
        raise ValueError(f"must be words without `{IMAGE}` (is {text!r:.60})")
    return text


class ResponseFormatConfig(ComponentConfig):
    """`prompt` is written on a line of its own behind the first question of a conversation, or behind `every` question."""

    prompt: Annotated[str, AfterValidator(_words)] = "Answer the question using a single word or phrase."
    questions: Literal["first", "every"] = "first"


class SampleConfig(ComponentConfig):
    """How many samples are kept: `count` of them (all, where there are fewer), or a `share`. Another `seed` draws others."""

    count: Count | None = None
    share: Annotated[float, Field(gt=0, lt=1)] | None = None
    seed: Seed = 0

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if (self.count is None) == (self.share is None):
            raise ValueError("give `count`, a number of samples, or `share`, a part of them such as 0.5: one of the two")
        return self


class SampleExchangesConfig(ComponentConfig):
    """Of a conversation with more than `count` questions, so many are kept. Another `seed` draws others."""

    count: Count
    seed: Seed = 0


class SplitConversationsConfig(ComponentConfig):
    """The most questions that a conversation then has; LLaVA-1.5 keeps below 10."""

    most: Count = 9


class ShortenTextConfig(ComponentConfig):
    """The most characters that a conversation without image then has; an English token is about 4 of them."""

    characters: Annotated[int, Field(ge=1)]


class RepeatConfig(ComponentConfig):
    """How often each sample is drawn in an epoch: 2.5 is twice, and once more for half of them. Another `seed` draws others."""

    times: Annotated[float, Field(ge=1, le=1000)]
    seed: Seed = 0
