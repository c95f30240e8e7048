"""A model that is asked about rows: what it says of each, and how likely it finds what is true; equal rows are asked once."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import fields

import torch
from torch import Tensor

from vlmzoo.data import Collator
from vlmzoo.data.encode import IGNORE
from vlmzoo.data.reader import ImageReader
from vlmzoo.feature_cache.content import LookedUp, content
from vlmzoo.feature_cache.in_memory import EncodingReader
from vlmzoo.model.vlm import VLM
from vlmzoo.say import say
from vlmzoo_registry import Sample
from vlmzoo_registry.token_row import TokenRow


class Asker:
    """Asks one model, and remembers: what is the same to the model is computed once, however many samples are it.

    Words and images decide that, by what they are: a question asked blind is often one that another sample asks seeing.
    """

    def __init__(self, model: VLM, collate: Collator, batch_size: int, max_new_tokens: int, likelihood: bool) -> None:
        self._model, self._batch_size, self._max_new_tokens = model, batch_size, max_new_tokens
        self._likelihood = likelihood
        images = collate.images
        self._collate = collate.reading(EncodingReader(model, images)) if isinstance(images, ImageReader) else collate
        self._said: dict[Hashable, str] = {}
        self._losses: dict[Hashable, tuple[float, int]] = {}

    def ask(
        self, rows: Sequence[Sample], progress: Callable[[int, int], None] | None
    ) -> list[tuple[str, tuple[float, int] | None]]:
        """What the model says of each row, and where that is measured the nats and the number of its supervised tokens."""
        encoded = [self._collate.encode(row) for row in rows]
        prompts: list[Hashable] = [(row.turns[:-1], self._seen(row)) for row in rows]
        # The turns are there for what reads an instruction, the tokens for an objective that changes them by the sample's id.
        wholes: list[Hashable] = [
            (row.turns, self._seen(row), _content_of(tokens)) for row, tokens in zip(rows, encoded, strict=True)
        ]
        keys, known = (wholes, self._losses) if self._likelihood else (prompts, self._said)
        unknown = {key: index for index, key in reversed(list(enumerate(keys))) if key not in known}
        order = sorted(unknown.values(), key=lambda index: (len(encoded[index].input_ids), index))
        training = self._model.training
        self._model.eval()
        try:
            for start in range(0, len(order), self._batch_size):
                chosen = order[start : start + self._batch_size]
                self._generate({prompts[index]: rows[index] for index in chosen if prompts[index] not in self._said})
                if self._likelihood:
                    self._measure({wholes[index]: rows[index] for index in chosen})
                if progress is not None:
                    progress(sum(key in known for key in keys), len(rows))
        finally:
            self._model.train(training)
        if progress is not None and not order:
            progress(len(rows), len(rows))
        return [(self._said[prompt], self._losses.get(whole)) for prompt, whole in zip(prompts, wholes, strict=True)]

    def _generate(self, rows: Mapping[Hashable, Sample]) -> None:
        if rows:
            batch = _on(self._model, self._collate.prompts(list(rows.values())))
            self._said.update(zip(rows, say(self._model, batch, self._max_new_tokens), strict=True))

    def _measure(self, rows: Mapping[Hashable, Sample]) -> None:
        batch = _on(self._model, self._collate(list(rows.values())))
        self._losses.update(zip(rows, answer_losses(self._model, batch), strict=True))

    def _seen(self, row: Sample) -> tuple[str, ...]:
        """The images of a row, each by what it is."""
        images = [self._collate.images.once(image) for image in row.images]
        return tuple(image.content if isinstance(image, LookedUp) else content(image) for image in images)


def _content_of(row: TokenRow) -> Hashable:
    """A row by its values."""
    values = [getattr(row, field.name) for field in fields(row)]
    return tuple(value.numpy().tobytes() if isinstance(value, Tensor) else value for value in values)


@torch.inference_mode()
def answer_losses(model: VLM, batch: dict[str, Tensor]) -> list[tuple[float, int]]:
    """For each row of a batch with labels: the sum of -log p of its supervised tokens, in nats, and their number.

    Logits exist from the first supervised position on, no earlier ones.
    """
    for name in ("weights", "sample_weights", "sentence_labels", "cut_rows"):
        batch.pop(name, None)
    shift = int("labels" in batch)  # the position before a label predicts it, a target is predicted in place
    labels = batch.pop("labels" if shift else "targets")
    length = labels.shape[1]
    first = int((labels != IGNORE).any(dim=0).nonzero()[0])
    targets = labels[:, first:]  # [B, K]
    kept = length - first + shift
    logits = model(**batch, logits_to_keep=kept).logits[:, : targets.shape[1]].float()  # [B, K, V]
    supervised = targets != IGNORE
    likely = logits.log_softmax(dim=-1).gather(2, targets.where(supervised, 0)[..., None]).squeeze(2)
    nats = -likely.double().where(supervised, 0.0).sum(dim=1)
    return list(zip(nats.tolist(), supervised.sum(dim=1).tolist(), strict=True))


def _on(model: VLM, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to(model.device) for name, tensor in batch.items()}
