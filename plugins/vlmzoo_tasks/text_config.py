"""The options of what learns from plain text: objectives that hide some of it, and datasets that read it."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from vlmzoo_registry.config import ComponentConfig

Share = Annotated[float, Field(gt=0, lt=1)]


class MaskedConfig(ComponentConfig):
    """`share` of the tokens are to be said again; with `next_sentence` also whether one text follows another."""

    share: Share = 0.15
    next_sentence: bool = False


class BlankInfillingConfig(ComponentConfig):
    """`share` of the tokens are taken out, in spans of `mean_length` tokens in the mean of a Poisson distribution."""

    share: Share = 0.15
    mean_length: Annotated[float, Field(gt=0, le=100)] = 3.0


class ParagraphsConfig(ComponentConfig):
    """`path`: a text file, also `.gz`; what stands between empty lines is one sample."""

    path: Path


class SentencePairsConfig(ComponentConfig):
    """`path`: a text file, also `.gz`, of one sentence per line, with an empty line between documents.

    Of the pairs about `random` have a second sentence that does not follow the first.
    """

    path: Path
    random: Share = 0.5
