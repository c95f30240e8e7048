"""Whether one text follows another, said from the first token of a row: BERT's pooler and classifier."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoModelForNextSentencePrediction, PreTrainedConfig

from vlmzoo_registry import ConfigError


class SentenceHead(nn.Module):
    """A linear layer with tanh, then one to two logits: 0, the second text follows the first, 1, it does not."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pooler = nn.Linear(width, width)
        self.classifier = nn.Linear(width, 2)
        for layer in (self.pooler, self.classifier):
            nn.init.normal_(layer.weight, std=0.02)  # as BERT
            nn.init.zeros_(layer.bias)

    def forward(self, hidden: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows 2"]:
        """Logits of the hidden states of first tokens."""
        return self.classifier(self.pooler(hidden).tanh())


def load_sentence_head(head: SentenceHead, source: str, described: PreTrainedConfig) -> None:
    """Fill it from a pretrained model. Raises `ConfigError` where that was published without one."""
    advice = f"`sentence_head`: {source!r} ({described.model_type}) has no weights for it: write `sentence_head: false`"
    try:
        published, info = AutoModelForNextSentencePrediction.from_pretrained(source, output_loading_info=True)
    except ValueError as error:
        raise ConfigError(advice) from error
    tensors = published.state_dict()
    with torch.no_grad():
        for parameter, end in (
            (head.pooler.weight, "pooler.dense.weight"),
            (head.pooler.bias, "pooler.dense.bias"),
            (head.classifier.weight, "seq_relationship.weight"),
            (head.classifier.bias, "seq_relationship.bias"),
        ):
            found = [name for name in tensors if name.endswith(end) and name not in info["missing_keys"]]
            if len(found) != 1:
                raise ConfigError(advice)
            parameter.copy_(tensors[found[0]])
