"""From samples to a batch: rows padded to the longest, images padded to the most; what is too long is refused or cut by rule.

Used by training (with labels, padded on the right) and by evaluation (prompts alone, padded on the left).
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vlmzoo.data.encode import Encoded, ImageToken, encode, encode_prompt, encode_with_least, refuse_special_tokens
from vlmzoo.data.instruction import Instructions
from vlmzoo.data.padding import pad_rows
from vlmzoo.data.randomness import keyed_generator
from vlmzoo.data.reader import SampleImages
from vlmzoo.data.row_batch import prefix_length, rows_batch
from vlmzoo.data.truncation import Fitted, LengthRule, TooLongError, cut_to
from vlmzoo_registry.errors import DataError, PluginError
from vlmzoo_registry.layout import ImageText
from vlmzoo_registry.tasks import IMAGE, Objective, Sample, Template
from vlmzoo_registry.token_row import TokenRow


class Collator:
    """Turns samples into what a model's `forward` takes.

    `input_ids`, `attention_mask`: Int[B, S]; `labels`: Int[B, S], -100 where nothing is supervised, beside their own ids;
    `pixel_values`: Float[B, V, 3, H, W] with zeros where a row has fewer views (or in their place `vision_features`:
    Float[B, V, N, D], where `images` reads these); `image_mask`: Bool[B, V]; both only where a row has an image.
    `image_layout`: Int[B, I, 4], only where images are cut by their size. `instruction_ids`, `instruction_mask`: Int[B, Q],
    only for a connector that reads them (`instructions` makes them). `weights`: Float[B, S], only where a span has a
    weight other than 1; `sample_weights`: Float[B], only where a sample has. `cut_rows`: Bool[B], only where a row was cut.

    With `flatten` the rows to learn from stand one after the other without padding: what is [B, S] above is [1, S], and
    `row_lengths`: Int[B] takes the place of `attention_mask`. What is learnt is the same, for a language model that reads it.

    `max_length` is what the language model has positions for, and no prompt may be longer; `length` is the rule of rows to
    learn from, which by default are refused above it.

    Some objectives give `targets` instead of `labels`, which each position itself predicts, and `prefix_mask`, `position_ids`,
    `segment_ids`, `span_positions`, `sentence_labels`; what they draw at random is keyed by `key` (the run's seed, the stage),
    the sample's epoch and its id.
    """

    def __init__(
        self,
        *,
        objective: Objective,
        template: Template,
        tokenizer: PreTrainedTokenizerBase,
        image_token: ImageToken,
        images: SampleImages,
        max_length: int,
        length: LengthRule | None = None,
        instructions: Instructions | None = None,
        key: tuple[int | str, ...] = (0,),
        flatten: bool = False,
    ) -> None:
        self.objective = objective
        self.template = template
        self.tokenizer = tokenizer
        self.image_token = image_token
        self.images = images
        self.max_length = max_length
        self.length = length
        self.instructions = instructions
        self.key = key
        self.flatten = flatten

    def reading(self, images: SampleImages) -> "Collator":
        """The same collator, whose images are read by `images`."""
        other = copy(self)
        other.images = images
        return other

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """A batch to train on. Raises `DataError` naming the row that cannot be used."""
        samples = [self._opened(sample) for sample in samples]
        fitted = [self.fit(sample) for sample in samples]
        samples = [each.sample for each in fitted]
        batch = rows_batch([each.row for each in fitted], self.objective, filler=self._filler, flatten=self.flatten)
        if any(each.cut for each in fitted):
            batch["cut_rows"] = torch.tensor([each.cut for each in fitted])
        if any(sample.weight != 1 for sample in samples):
            batch["sample_weights"] = torch.tensor([sample.weight for sample in samples])
        return batch | self._images(samples) | self._instructions(samples)

    def prompts(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """A batch to generate from: each sample up to the assistant's last turn, without labels."""
        samples = [self._opened(sample) for sample in samples]
        rows = []
        for sample in samples:
            self._check(sample)
            turns = sample.turns[:-1] if sample.turns and sample.turns[-1].role == "assistant" else sample.turns
            try:
                rendered = self.template.render(turns, prompt=True)
            except DataError as error:
                raise DataError(f"{sample.source}: {error.message}", error.reasons) from error
            shown = self._shown(sample)
            row = encode_prompt(rendered, self.tokenizer, self.image_token, source=sample.source, images=shown)
            if len(row) > self.max_length:
                raise DataError(
                    f"{self._too_long(row, sample, self.max_length)}: shorten it, or take a language model with more "
                    "positions; a prompt is never cut"
                )
            rows.append(row)
        text = {
            "input_ids": pad_rows(rows, self._filler, side="left"),
            "attention_mask": pad_rows([torch.ones_like(row) for row in rows], 0, side="left"),
        }
        return text | self._images(samples) | self._instructions(samples)

    def encode(self, sample: Sample) -> TokenRow:
        """The tokens of one sample as it is learnt in its epoch. Raises `DataError` naming it where it cannot be used."""
        return self.fit(sample).row

    def fit(self, sample: Sample) -> Fitted:
        """What is learnt of one sample in its epoch: all of it, or what is left where the rule of length cuts it.

        Raises `DataError` naming it where it cannot be used, `TooLongError` where that is for its length.
        """
        self._check(sample)
        shown = self._shown(sample)
        rule = LengthRule(self.max_length) if self.length is None else self.length
        fitted = Fitted(sample, self._encoded(sample, shown), cut=False)
        whole = row = self._corrupted(fitted)
        while len(row.input_ids) > rule.most:
            over = len(row.input_ids) - rule.most  # the objective may have made the row longer than the text is
            cut = cut_to(len(fitted.row.input_ids) - over, sample, partial(self._to_be_cut, shown=shown)) if rule.cuts else None
            if cut is None:
                what = (
                    ", and its images, what stands before an answer and the beginning of one are never cut: raise it, or drop "
                    "the row"
                    if rule.cuts
                    else ": raise it, or shorten or drop the row, or let `too_long: cut` cut its text"
                )
                raise TooLongError(f"{self._too_long(whole.input_ids, sample, rule.most)}{what}")
            fitted = cut
            row = self._corrupted(fitted)
        return replace(fitted, row=row)

    def _encoded(self, sample: Sample, shown: Sequence[ImageText]) -> TokenRow:
        """The tokens of a sample before the objective changes them."""
        rendered = self.objective.render(sample, self.template)
        return encode(rendered, self.tokenizer, self.image_token, source=sample.source, images=shown)

    def _to_be_cut(self, sample: Sample, shown: Sequence[ImageText]) -> Encoded:
        """The same with how much must stay: the beginning of an answer also where an objective learns from the whole text."""
        rendered = self.objective.render(sample, self.template)
        spoken = self.template.render(sample.turns, prompt=False)
        answers = spoken.spans if spoken.text == rendered.text else rendered.spans
        return encode_with_least(
            rendered, self.tokenizer, self.image_token, source=sample.source, images=shown, answers=answers
        )

    def _corrupted(self, fitted: Fitted) -> TokenRow:
        """The row as the objective changes it. Raises `DataError` naming the sample where it cannot."""
        sample = fitted.sample
        row = replace(fitted.row, sentence_label=sample.label)
        try:
            row = self.objective.corrupt(row, keyed_generator(*self.key, sample.epoch, sample.id, "corrupt"))
            before, after = len(fitted.row.input_ids), len(row.input_ids)
            if self.objective.keeps_length and after != before:
                raise PluginError(
                    f"{sample.source}: the objective made {after} tokens of {before}, and says of itself that it keeps lengths "
                    "(`keeps_length`), by which batches are filled: let it say False"
                )
            if self.objective.attention != "causal":
                prefix_length(row, self.objective)
        except DataError as error:
            raise DataError(f"{sample.source}: {error.message}", error.reasons) from error
        return row

    def _check(self, sample: Sample) -> None:
        refuse_special_tokens(sample.turns, self.tokenizer, self.image_token, source=sample.source)
        markers = sum(turn.text.count(IMAGE) for turn in sample.turns)
        if markers != len(sample.images):
            raise DataError(
                f"{sample.source}: {len(sample.images)} images but {markers} `{IMAGE}` in its turns: "
                "make them equal, or drop the row"
            )
        if self.instructions is not None:
            self.instructions.ids(sample.turns, sample.source)  # refuses one that is too long

    def _shown(self, sample: Sample) -> list[ImageText]:
        """What stands for each image of a sample in the text."""
        return [self.images.text(self.images.arrangement(image, sample.source)) for image in sample.images]

    def _too_long(self, row: Int[Tensor, " S"], sample: Sample, most: int) -> str:
        slots = [sum(self.images.slots(self.images.arrangement(image, sample.source))) for image in sample.images]
        alike = len(slots) > 1 and len(set(slots)) == 1
        each = f"{slots[0]} each" if alike else ", ".join(map(str, slots))
        included = f" ({len(slots)} image{'' if len(slots) == 1 else 's'} of {each} included)" if slots else ""
        return f"{sample.source}: {len(row)} tokens{included} are more than `max_length` (={most})"

    @property
    def _filler(self) -> int:
        """What stands under a mask of 0, and is never read; a tokenizer without a padding token needs none."""
        return 0 if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id

    def _opened(self, sample: Sample) -> Sample:
        """The same sample, each of whose images is opened at most once."""
        return replace(sample, images=tuple(self.images.once(image) for image in sample.images))

    def _images(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        return self.images.read([sample.images for sample in samples], [sample.source for sample in samples])

    def _instructions(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        if self.instructions is None:
            return {}
        return self.instructions.batch([sample.turns for sample in samples], [sample.source for sample in samples])
