"""What a stage really learns from: real samples as tokens, with those that are supervised; no weights are needed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, groupby
from os import PathLike
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from vlmzoo.config import Recipe, StageConfig, load_recipe
from vlmzoo.data import ImageToken, SampleStream
from vlmzoo.data.encode import IGNORE
from vlmzoo.training.samples import make_collator, stage_samples
from vlmzoo.without_values import without_values
from vlmzoo_registry import Catalogue, ConfigError, DataError, TokenRow, did_you_mean

Kind = Literal["text", "control", "image"]


@dataclass(frozen=True)
class Piece:
    """Tokens of one kind in a row, as text; an image is one piece. `supervised` says whether they are learnt."""

    text: str
    kind: Kind
    supervised: bool
    tokens: int


@dataclass(frozen=True)
class LabelledRow:
    """One sample as the model is given it: how many tokens, how many of them supervised, how many images, piece by piece."""

    id: str
    source: str
    tokens: int
    supervised: int
    images: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Labels:
    """The first samples that a stage draws, as it learns from them. `samples` is how many it has in all."""

    stage: str
    objective: str
    template: str
    samples: int
    image_slots: int
    rows: tuple[LabelledRow, ...]

    @property
    def tokens(self) -> int:
        """The tokens of these rows."""
        return sum(row.tokens for row in self.rows)

    @property
    def supervised(self) -> int:
        """The supervised tokens of these rows."""
        return sum(row.supervised for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, with the sums."""
        return {**asdict(self), "tokens": self.tokens, "supervised": self.supervised}


def labels(
    recipe: Recipe | Mapping[str, Any] | str | PathLike[str],
    *,
    samples: int = 3,
    stage: str | None = None,
    overrides: Sequence[str] = (),
    catalogue: Catalogue | None = None,
) -> Labels:
    """The first `samples` that training draws in a stage (default: the first stage), as tokens with their labels.

    Parts are made without values, from what this machine knows of their architecture; the tokenizer is the real one.

    Raises `ConfigError` and `AssemblyError` where the recipe or its parts do not fit, `DataError` with every one of these rows
    that cannot be used.
    """
    plan = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides, catalogue)
    chosen = plan.stages[0] if stage is None else chosen_stage(plan, stage)
    collate = make_collator(without_values(plan.model), chosen)
    data = stage_samples(chosen, collate)
    stream = SampleStream(len(data), min(samples, len(data)), seed=plan.seed)
    rows, reasons = [], []
    for draw in chain.from_iterable(stream.next_batch()):
        sample = data[draw.index]
        try:
            encoded = collate.encode(sample)
        except DataError as error:
            reasons += [error.message, *error.reasons]
            continue
        learnt = int((encoded.labels != IGNORE).sum())
        runs = [
            run for image in sample.images for run in collate.images.slots(collate.images.arrangement(image, sample.source))
        ]
        pieces = _pieces(encoded, collate.tokenizer, collate.image_token, runs)
        rows.append(LabelledRow(sample.id, sample.source, len(encoded.labels), learnt, len(sample.images), pieces))
    if reasons:
        raise DataError(f"stage `{chosen.name}`: {min(samples, len(data)) - len(rows)} of these rows cannot be used:", reasons)
    return Labels(
        stage=chosen.name,
        objective=chosen.objective.component.full_name,
        template=(chosen.template or plan.model.template).component.full_name,
        samples=len(data),
        image_slots=collate.image_token.slots,
        rows=tuple(rows),
    )


def chosen_stage(plan: Recipe, name: str) -> StageConfig:
    """The stage of this name. Raises `ConfigError` where the recipe has none."""
    names = [stage.name for stage in plan.stages]
    if name not in names:
        raise ConfigError(f"the recipe has no stage `{name}` (its stages are {', '.join(names)}){did_you_mean(name, names)}")
    return plan.stages[names.index(name)]


def _pieces(
    encoded: TokenRow, tokenizer: PreTrainedTokenizerBase, image_token: ImageToken, runs: Sequence[int]
) -> tuple[Piece, ...]:
    """The tokens of a row, kind by kind; each of the runs of slots that stand for its images is one piece."""
    ids, learnt = encoded.input_ids.tolist(), (encoded.labels != IGNORE).tolist()
    control = {*tokenizer.all_special_ids, *(i for i, token in tokenizer.added_tokens_decoder.items() if token.special)}
    kinds: list[Kind] = ["image" if token == image_token.id else "control" if token in control else "text" for token in ids]
    pieces: list[Piece] = []
    shown = iter(runs)
    start = 0
    for (kind, supervised), group in groupby(zip(kinds, learnt, strict=True)):
        end = start + len(list(group))
        if kind == "image":
            while start < end:
                slots = next(shown)
                pieces.append(Piece(image_token.text, "image", False, slots))
                start += slots
        else:
            pieces.append(Piece(_text(ids, start, end, tokenizer), kind, supervised, end - start))
        start = end
    return tuple(pieces)


def _text(ids: list[int], start: int, end: int, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of some ids where they stand: decoders drop a space at the beginning of what they are given."""
    options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    before, through = (str(tokenizer.decode(ids[:border], **options)) for border in (start, end))
    return through.removeprefix(before) if through.startswith(before) else str(tokenizer.decode(ids[start:end], **options))
