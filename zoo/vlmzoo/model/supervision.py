"""What a forward is told of its loss, and the loss itself: every objective is one masked negative log-likelihood."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlmzoo.loss import LossOutput, masked_nll
from vlmzoo_registry import DataError, LanguageModel


@dataclass(frozen=True)
class Supervision:
    """The arguments of `VLM.forward` that say what is learnt; see there."""

    labels: Int[Tensor, "B S"] | None = None
    targets: Int[Tensor, "B S"] | None = None
    sentence_labels: Int[Tensor, " B"] | None = None
    loss_weights: Float[Tensor, "B S"] | None = None
    num_items_in_batch: int | float | Tensor | None = None
    num_sentences_in_batch: int | float | Tensor | None = None
    label_smoothing: float = 0.0
    z_loss: float = 0.0

    def loss(
        self, hidden: Float[Tensor, "B S d"], attention_mask: Int[Tensor, "B T"] | None, language: LanguageModel
    ) -> LossOutput | None:
        """The loss of the tokens, plus that of the sentence head where the batch labels its rows; None without supervision.

        Raises `DataError` for labels beside targets, and for sentence labels without tokens to learn.
        """
        if self.labels is not None and self.targets is not None:
            raise DataError("`labels` (said by the position before) and `targets` (said in place) came together: give one")
        supervised = self.labels if self.targets is None else self.targets
        if supervised is None:
            if self.sentence_labels is not None:
                raise DataError("`sentence_labels` came without `labels` or `targets`: give the tokens to learn too")
            return None
        loss = masked_nll(
            hidden,
            language.head,
            supervised,
            weights=self.loss_weights,
            normalizer=self.num_items_in_batch,
            shift=self.targets is None,
            label_smoothing=self.label_smoothing,
            z_loss=self.z_loss,
        )
        if self.sentence_labels is None:
            return loss
        rows = torch.arange(len(hidden), device=hidden.device)
        first = torch.zeros_like(rows) if attention_mask is None else attention_mask.long().argmax(dim=1)  # [B]
        sentence = masked_nll(
            hidden[rows, first][:, None],  # [B, 1, d]
            language.sentence_head,
            self.sentence_labels[:, None],
            normalizer=self.num_sentences_in_batch,
            shift=False,
        )
        return replace(loss, loss=loss.loss + sentence.loss)
