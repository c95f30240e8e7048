"""How a language model treats embeddings: what a connector has to know to put out tokens of the size of text.

Gemma multiplies the rows of its table by sqrt(d) before image tokens are placed beside them, Granite multiplies whatever
stands in the sequence by 12, BLOOM normalises it.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vlmzoo_registry.errors import AssemblyError
from vlmzoo_registry.language import LanguageModel


@dataclass(frozen=True)
class EmbeddingScales:
    """What is between the rows of the embedding table, the vectors in the sequence, and the first decoder layer.

    `text` is the factor from a row of the table to the vector that an image token stands beside; None where the vector is no
    multiple of the row (it is normalised). `internal` is the factor from such a vector to what enters the first decoder layer,
    positions aside; None where that is no multiple of it (a norm or a projection comes first), so that the size of an inserted
    vector says little.
    """

    text: float | None
    internal: float | None


@torch.no_grad()
def measure_embedding_scales(language: LanguageModel) -> EmbeddingScales:
    """Run `language` on random vectors and look at what enters its first decoder layer.

    Raises `AssemblyError` where the model names no decoder layers, or where its embedding holds no table.
    """
    table = next((parameter for parameter in language.embedding.parameters() if parameter.ndim == 2), None)
    ids = torch.arange(3, 7)
    if table is None or table.shape[1] != language.width:
        raise AssemblyError(
            "`embedding` holds no table of vectors as wide as the hidden states, of which it could be a multiple"
        )
    rows = table[ids.to(table.device)]
    text = _factor(language.embedding(ids[None].to(table.device))[0].float(), rows.float())
    vectors = torch.randn(1, 4, language.width, generator=torch.Generator().manual_seed(0)).to(table)
    # Positions are added to both, and are gone from the difference.
    once, twice = (_enters_first_layer(language, factor * vectors) for factor in (1, 2))
    return EmbeddingScales(text, _factor((twice - once).float(), vectors.float()))


def _enters_first_layer(language: LanguageModel, embeddings: Float[Tensor, "B S d"]) -> Tensor:
    entered: list[Tensor] = []

    def record(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        entered.append(args[0] if args else kwargs["hidden_states"])

    handle = language.decoder_layers[0].register_forward_pre_hook(record, with_kwargs=True)
    try:
        language.decode(embeddings)
    finally:
        handle.remove()
    return entered[0]


def _factor(found: Tensor, of: Tensor) -> float | None:
    """The number by which `of` was multiplied; None where it was not."""
    if found.shape != of.shape:
        return None
    factor = float((found * of).sum() / (of * of).sum())
    return factor if torch.allclose(found, factor * of, rtol=1e-3, atol=1e-3 * float(found.abs().max())) else None
