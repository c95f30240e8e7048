"""How a tiny language model is made and fed: random ids through its own embedding, decoder and head."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from vlmzoo_registry.config import ComponentConfig
from vlmzoo_registry.errors import AssemblyError
from vlmzoo_registry.language import LanguageModel
from vlmzoo_registry.testing.harness import PassingHarness
from vlmzoo_registry.testing.tiny import make

TEXT = 9

PREFIX = 3
"""How much of a text a model reads as its prefix, where it needs one."""


class LanguageHarness(PassingHarness[LanguageModel]):
    """Language models."""

    def make(self, config: ComponentConfig) -> LanguageModel:
        """Call the factory."""
        return make(self.component, LanguageModel, config)  # type: ignore[type-abstract]

    def declared(self, part: LanguageModel) -> dict[str, object]:
        """Width, depth and tokenizer."""
        return {
            "width": part.width,
            "text_config.num_hidden_layers": part.text_config.num_hidden_layers,
            "text_config.vocab_size": part.text_config.vocab_size,
            "len(tokenizer)": len(part.tokenizer),
            "len(decoder_layers)": depth_of(part),
        }

    def ids(self, part: LanguageModel, rows: int, length: int = TEXT) -> Tensor:
        """Random ids of ordinary tokens, [B, S]."""
        special = set(part.tokenizer.all_special_ids)
        ordinary = [token for token in range(min(len(part.tokenizer), rows_of_head(part))) if token not in special]
        return torch.tensor(ordinary)[torch.randint(len(ordinary), (rows, length))]

    def inputs(self, part: LanguageModel, rows: int) -> tuple[Tensor, ...]:
        """Ids [B, S]."""
        return (self.ids(part, rows),)

    def outputs(self, part: LanguageModel, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Logits [B, S, V]; beside them [B, 2], where the model has a sentence head."""
        hidden = self.read(part, inputs[0])
        return (part.head(hidden), *((part.sentence_head(hidden[:, 0]),) if "sentence_labels" in part.reads else ()))

    def logits(self, part: LanguageModel, ids: Tensor) -> Tensor:
        """The logits of ids as the zoo computes them, [B, S, V]."""
        return self.continued(part, ids)

    def continued(
        self,
        part: LanguageModel,
        ids: Tensor,
        *,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """The same with padding or a cache."""
        logits: Tensor = part.head(self.read(part, ids, mask=mask, positions=positions, cache=cache))
        return logits

    def read(
        self,
        part: LanguageModel,
        ids: Tensor,
        *,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Hidden states [B, S, d]; a model that needs a prefix reads the first tokens of a text as such."""
        embeddings = part.embedding(ids)
        options: dict[str, Any] = {"attention_mask": mask, "position_ids": positions, "cache": cache}
        if cache is None or cache.get_seq_length() == 0:
            options |= prefix_of(part, torch.ones_like(ids) if mask is None else mask)
        return part.decode(embeddings, **options)

    def through(self, part: LanguageModel) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
        """The embeddings."""
        embeddings = part.embedding(self.ids(part, 2)).detach().requires_grad_()
        mask = torch.ones(embeddings.shape[:2], dtype=torch.long)
        return {"embeddings": embeddings}, (part.head(part.decode(embeddings, **prefix_of(part, mask))),)

    def wrong_calls(self, part: LanguageModel) -> dict[str, Callable[[], object]]:
        """Embeddings that are too wide, and embeddings without a batch."""
        width = part.width
        return {
            f"embeddings of width {width + 1} instead of {width}": lambda: part.decode(torch.zeros(2, TEXT, width + 1)),
            f"embeddings of rank 2 ({TEXT}, {width})": lambda: part.decode(torch.zeros(TEXT, width)),
        }


def prefix_of(part: LanguageModel, mask: Tensor) -> dict[str, Any]:
    """What `decode` is told besides: the first `PREFIX` tokens of each text, where the model needs a prefix."""
    if part.prefix != "required":
        return {}
    return {"prefix_mask": (mask.cumsum(dim=1) <= PREFIX) & mask.bool()}


def rows_of_head(part: LanguageModel) -> int:
    """V: how many logits the head gives."""
    ids = torch.zeros(1, 1, dtype=torch.long)
    count: int = part.head(part.decode(part.embedding(ids), **prefix_of(part, torch.ones_like(ids)))).shape[2]
    return count


def depth_of(part: LanguageModel) -> int | None:
    """How many decoder layers can be found; None where the model has no such list."""
    try:
        return len(part.decoder_layers)
    except AssemblyError:
        return None
