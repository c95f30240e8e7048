"""What a stage really learns from: real samples as tokens, with those that are supervised; no weights are needed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from os import PathLike
from typing import Any, Literal, get_args

from transformers import PreTrainedTokenizerBase

from vlmzoo.config import Recipe, StageConfig, load_recipe
from vlmzoo.data import Collator, ImageReader, Permutation
from vlmzoo.data.encode import IGNORE
from vlmzoo.label_pictures import what_the_model_sees
from vlmzoo.model.vlm import VLM
from vlmzoo.roles import Role, roles_of_tokens
from vlmzoo.training.samples import make_collator, stage_samples
from vlmzoo.without_values import without_values
from vlmzoo_registry import Catalogue, ConfigError, DataError, Sample, TokenRow, did_you_mean

Kind = Literal["text", "control", "image"]


@dataclass(frozen=True)
class Piece:
    """Tokens of one kind in a row, as text; `supervised` says whether they are learnt, `weight` how much they count then.

    A run of slots of an image is one piece, and `image` the place of the image in its row. `said` is what is learnt where that
    is not what stands there: the words behind a mask token. `role` is who says it, None where tokens stand in another order
    than in the text (blank infilling).
    """

    text: str
    kind: Kind
    supervised: bool
    tokens: int
    role: Role | None = None
    said: str | None = None
    weight: float = 1.0
    image: int | None = None


@dataclass(frozen=True)
class RoleCount:
    """How many tokens are one's who speaks, and how many of these are supervised; None where that is not known."""

    role: Role
    tokens: int
    supervised: int | None


@dataclass(frozen=True)
class LabelledRow:
    """One sample as the model is given it: how many tokens, how many of them supervised, how many images, piece by piece.

    `roles` count the tokens of its text, before an objective hides or moves some. `weight` is how much its loss counts, `cut`
    whether text was cut off because the row was too long.
    `pictures` are what the model sees of each image, view by view, as data URIs; empty unless they were asked for.
    """

    id: str
    source: str
    tokens: int
    supervised: int
    images: int
    pieces: tuple[Piece, ...]
    roles: tuple[RoleCount, ...] = ()
    weight: float = 1.0
    cut: bool = False
    pictures: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Labels:
    """The first samples of a stage in the random order of its first epoch, before batching sorts or packs them.

    `samples` is how many it has in all.
    """

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

    @property
    def roles(self) -> tuple[RoleCount, ...]:
        """The sums of the rows' roles."""
        return _summed([count for row in self.rows for count in row.roles])

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, with the sums and without the pictures."""
        made = asdict(self)
        for row in made["rows"]:
            del row["pictures"]
        roles = [asdict(count) for count in self.roles]
        return {**made, "tokens": self.tokens, "supervised": self.supervised, "roles": roles}


def labels(
    recipe: Recipe | Mapping[str, Any] | str | PathLike[str],
    *,
    samples: int = 3,
    stage: str | None = None,
    overrides: Sequence[str] = (),
    catalogue: Catalogue | None = None,
) -> Labels:
    """The first `samples` of a stage (default: the first stage), as tokens with their labels.

    They stand in the random order of the first epoch: that of training, where its batching neither sorts nor packs.
    Parts are made without values, from what this machine knows of their architecture; the tokenizer is the real one.

    Raises `ConfigError` and `AssemblyError` where the recipe or its parts do not fit, `DataError` with every one of these rows
    that cannot be used.
    """
    plan = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides, catalogue)
    (found,) = labels_of_stages(plan, samples=samples, stage=plan.stages[0].name if stage is None else stage)
    return found


def labels_of_stages(
    recipe: Recipe | Mapping[str, Any] | str | PathLike[str],
    *,
    samples: int = 3,
    stage: str | None = None,
    overrides: Sequence[str] = (),
    catalogue: Catalogue | None = None,
    pictures: bool = False,
) -> tuple[Labels, ...]:
    """As `labels`, of every stage, or of one; `pictures`: with what the model sees of each image, which opens them.

    Raises `DataError` with the rows of all stages that cannot be used.
    """
    plan = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides, catalogue)
    stages = plan.stages if stage is None else (chosen_stage(plan, stage),)
    model = without_values(plan.model)
    found, errors = [], []
    for each in stages:
        try:
            found.append(_labels(plan, each, model, samples, pictures=pictures))
        except DataError as error:
            errors.append(error)
    if len(errors) > 1:
        reasons = [text for error in errors for text in (error.message, *error.reasons)]
        raise DataError(f"{len(errors)} of {len(stages)} stages have rows that cannot be used:", reasons)
    if errors:
        raise errors[0]
    return tuple(found)


def chosen_stage(plan: Recipe, name: str) -> StageConfig:
    """The stage of this name. Raises `ConfigError` where the recipe has none."""
    names = [stage.name for stage in plan.stages]
    if name not in names:
        raise ConfigError(f"the recipe has no stage `{name}` (its stages are {', '.join(names)}){did_you_mean(name, names)}")
    return plan.stages[names.index(name)]


def _labels(plan: Recipe, stage: StageConfig, model: VLM, samples: int, *, pictures: bool) -> Labels:
    """The first samples of one stage."""
    collate = make_collator(model, stage, seed=plan.seed)
    data = stage_samples(stage, collate)
    rows, reasons = [], []
    for index in Permutation(len(data), seed=plan.seed).indexes(epoch=0)[:samples]:
        try:
            rows.append(_row(data[index], collate, model.processor.images if pictures else None))
        except DataError as error:
            reasons += [error.message, *error.reasons]
    if reasons:
        raise DataError(f"stage `{stage.name}`: {min(samples, len(data)) - len(rows)} of these rows cannot be used:", reasons)
    return Labels(
        stage=stage.name,
        objective=stage.objective.component.full_name,
        template=(stage.template or plan.model.template).component.full_name,
        samples=len(data),
        image_slots=collate.image_token.slots,
        rows=tuple(rows),
    )


def _row(sample: Sample, collate: Collator, pictures: ImageReader | None) -> LabelledRow:
    """A sample as it is learnt; `pictures`: what reads its images, where they are to be shown."""
    if pictures is not None:  # else no more than the size of an image is asked for, for which it need not be opened
        sample = replace(sample, images=tuple(pictures.once(image) for image in sample.images))
    fitted = collate.fit(sample)
    arrangements = [collate.images.arrangement(image, sample.source) for image in sample.images]
    roles = roles_of_tokens(
        collate.objective.render(fitted.sample, collate.template),
        fitted.sample.turns,
        collate.template,
        collate.tokenizer,
        collate.image_token,
        source=sample.source,
        images=[collate.images.text(arrangement) for arrangement in arrangements],
    )
    learnt = (fitted.row.labels != IGNORE).tolist()
    # What an objective moves has other positions than those of its order; what is cut off at the end has none.
    moved = fitted.row.position_ids is not None or len(learnt) > len(roles)
    runs = [(n, slots) for n, arrangement in enumerate(arrangements) for slots in collate.images.slots(arrangement)]
    return LabelledRow(
        id=sample.id,
        source=sample.source,
        tokens=len(learnt),
        supervised=sum(learnt),
        images=len(sample.images),
        pieces=_pieces(fitted.row, None if moved else roles, collate, runs),
        roles=_counted(roles, None if moved else learnt),
        weight=sample.weight,
        cut=fitted.cut,
        pictures=()
        if pictures is None
        else tuple(what_the_model_sees(image, pictures, sample.source) for image in sample.images),
    )


def _counted(roles: Sequence[Role], learnt: Sequence[bool] | None) -> tuple[RoleCount, ...]:
    """How many tokens are whose, and how many of them are learnt; those behind the end of `learnt` were cut off."""
    tokens = Counter(roles if learnt is None else roles[: len(learnt)])
    said = None if learnt is None else Counter(role for role, yes in zip(roles, learnt, strict=False) if yes)
    return tuple(RoleCount(role, tokens[role], None if said is None else said[role]) for role in get_args(Role) if tokens[role])


def _summed(counts: Sequence[RoleCount]) -> tuple[RoleCount, ...]:
    sums = []
    for role in get_args(Role):
        mine = [count for count in counts if count.role == role]
        if not mine:
            continue
        known = [count.supervised for count in mine if count.supervised is not None]
        sums.append(RoleCount(role, sum(count.tokens for count in mine), sum(known) if len(known) == len(mine) else None))
    return tuple(sums)


@dataclass(frozen=True)
class _Look:
    """What the tokens of one piece have in common; `span` counts the spans that are filled in."""

    kind: Kind
    supervised: bool
    other: bool
    role: Role | None
    weight: float
    span: int


def _looks(encoded: TokenRow, roles: Sequence[Role] | None, collate: Collator) -> list[_Look]:
    """Each token of a row as a piece of its own would be."""
    control = {*collate.tokenizer.all_special_ids}
    control |= {number for number, token in collate.tokenizer.added_tokens_decoder.items() if token.special}
    filled = encoded.span_positions is not None
    weights = [1.0] * len(encoded.labels) if encoded.weights is None else encoded.weights.tolist()
    inside = [0] * len(encoded.labels) if encoded.span_positions is None else encoded.span_positions.tolist()
    looks, span = [], 0
    for place, (token, label) in enumerate(zip(encoded.input_ids.tolist(), encoded.labels.tolist(), strict=True)):
        span += inside[place] == 1
        learnt = label != IGNORE
        other = learnt and (filled or label != token)
        kind: Kind = "image" if token == collate.image_token.id else "control" if token in control and not other else "text"
        role = None if roles is None else roles[place]
        looks.append(_Look(kind, learnt, other, role, weights[place] if learnt else 1.0, span))
    return looks


def _pieces(
    encoded: TokenRow, roles: Sequence[Role] | None, collate: Collator, runs: Sequence[tuple[int, int]]
) -> tuple[Piece, ...]:
    """The tokens of a row, kind by kind; each of the runs of slots that stand for its images (image, slots) is one piece."""
    ids, labels = encoded.input_ids.tolist(), encoded.labels.tolist()
    pieces: list[Piece] = []
    shown = iter(runs)
    start = 0
    for look, group in groupby(_looks(encoded, roles, collate)):
        end = start + len(list(group))
        if look.kind == "image":
            while start < end:
                image, slots = next(shown)
                pieces.append(Piece(collate.image_token.text, "image", False, slots, look.role, image=image))
                start += slots
        else:
            text = _text(ids, start, end, collate.tokenizer)
            said = _text([*ids[:start], *labels[start:end]], start, end, collate.tokenizer) if look.other else None
            pieces.append(Piece(text, look.kind, look.supervised, end - start, look.role, said, look.weight))
        start = end
    return tuple(pieces)


def _text(ids: list[int], start: int, end: int, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of some ids where they stand: decoders drop a space at the beginning of what they are given."""
    options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    before, through = (str(tokenizer.decode(ids[:border], **options)) for border in (start, end))
    return through.removeprefix(before) if through.startswith(before) else str(tokenizer.decode(ids[start:end], **options))
