"""From samples to a batch: rows padded to the longest, images padded to the most; nothing is cut, ever.

Used by training (with labels, padded on the right) and by evaluation (prompts alone, padded on the left).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vlmzoo.data.encode import IGNORE, Encoded, ImageToken, encode, encode_prompt, refuse_special_tokens
from vlmzoo_registry.errors import DataError
from vlmzoo_registry.tasks import IMAGE, Objective, Sample, Template
from vlmzoo_registry.vision import ImageTransform

Side = Literal["left", "right"]


def pad_rows(rows: Sequence[Tensor], value: float, *, side: Side) -> Tensor:
    """Rows of one dimension as one tensor [B, S], S the longest; filled with `value` on one side."""
    length = max(len(row) for row in rows)
    batch = rows[0].new_full((len(rows), length), value)
    for number, row in enumerate(rows):
        start = length - len(row) if side == "left" else 0
        batch[number, start : start + len(row)] = row
    return batch


def pad_images(
    images: Sequence[Sequence[Float[Tensor, "3 H W"]]],
) -> tuple[Float[Tensor, "B I 3 H W"] | None, Bool[Tensor, "B I"] | None]:
    """The pixels of each row's images, zeros where a row has fewer, and which are real; (None, None) without any image."""
    most = max(len(row) for row in images)
    if most == 0:
        return None, None
    height, width = next(image for row in images for image in row).shape[1:]
    pixels = torch.zeros(len(images), most, 3, height, width)
    mask = torch.zeros(len(images), most, dtype=torch.bool)
    for number, row in enumerate(images):
        for place, image in enumerate(row):
            pixels[number, place] = image
            mask[number, place] = True
    return pixels, mask


class Collator:
    """Turns samples into what a model's `forward` takes.

    `input_ids`, `attention_mask`: Int[B, S]; `labels`: Int[B, S], -100 where nothing is supervised, beside their own ids;
    `pixel_values`: Float[B, I, 3, H, W] with zeros where a row has fewer images; `image_mask`: Bool[B, I]; both only where a
    row has an image. `weights`: Float[B, S], only where a span has a weight other than 1.
    """

    def __init__(
        self,
        *,
        objective: Objective,
        template: Template,
        tokenizer: PreTrainedTokenizerBase,
        image_token: ImageToken,
        transform: ImageTransform,
        max_length: int,
    ) -> None:
        self.objective = objective
        self.template = template
        self.tokenizer = tokenizer
        self.image_token = image_token
        self.transform = transform
        self.max_length = max_length

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """A batch to train on. Raises `DataError` naming the row that cannot be used."""
        rows = [self.encode(sample) for sample in samples]
        batch = self._text([row.input_ids for row in rows], side="right")
        batch["labels"] = pad_rows([row.labels for row in rows], IGNORE, side="right")
        if any(row.weights is not None for row in rows):
            weights = [torch.ones(len(row.labels)) if row.weights is None else row.weights for row in rows]
            batch["weights"] = pad_rows(weights, 1.0, side="right")
        return batch | self._images(samples)

    def prompts(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """A batch to generate from: each sample up to the assistant's last turn, without labels."""
        rows = []
        for sample in samples:
            self._check(sample)
            turns = sample.turns[:-1] if sample.turns and sample.turns[-1].role == "assistant" else sample.turns
            try:
                rendered = self.template.render(turns, prompt=True)
            except DataError as error:
                raise DataError(f"{sample.source}: {error.message}", error.reasons) from error
            row = encode_prompt(rendered, self.tokenizer, self.image_token, source=sample.source)
            self._check_length(row, sample)
            rows.append(row)
        return self._text(rows, side="left") | self._images(samples)

    def encode(self, sample: Sample) -> Encoded:
        """The ids and labels of one sample. Raises `DataError` naming it where it cannot be used."""
        self._check(sample)
        rendered = self.objective.render(sample, self.template)
        row = encode(rendered, self.tokenizer, self.image_token, source=sample.source)
        self._check_length(row.input_ids, sample)
        return row

    def _check(self, sample: Sample) -> None:
        refuse_special_tokens(sample.turns, self.tokenizer, self.image_token, source=sample.source)
        markers = sum(turn.text.count(IMAGE) for turn in sample.turns)
        if markers != len(sample.images):
            raise DataError(
                f"{sample.source}: {len(sample.images)} images but {markers} `{IMAGE}` in its turns: "
                "make them equal, or drop the row"
            )

    def _check_length(self, row: Int[Tensor, " S"], sample: Sample) -> None:
        if len(row) > self.max_length:
            raise DataError(
                f"{sample.source}: {len(row)} tokens ({len(sample.images)} images of {self.image_token.slots} each included) "
                f"are more than `max_length` (={self.max_length}): raise it, or shorten or drop the row; nothing is ever cut"
            )

    def _text(self, rows: Sequence[Int[Tensor, " _"]], *, side: Side) -> dict[str, Tensor]:
        # What stands under a mask of 0 is never read; a tokenizer without a padding token needs none.
        padding = 0 if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id
        return {
            "input_ids": pad_rows(rows, padding, side=side),
            "attention_mask": pad_rows([torch.ones_like(row) for row in rows], 0, side=side),
        }

    def _images(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        pixels, mask = pad_images([[self.transform(load()) for load in sample.images] for sample in samples])
        return {} if pixels is None or mask is None else {"pixel_values": pixels, "image_mask": mask}
