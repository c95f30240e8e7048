"""New rows for the tokens that a zoo model adds, in the embedding and in the output layer alike."""

import torch
from transformers import PreTrainedModel

from vlmzoo_transformers.trace import on_meta


def resize_embeddings(model: PreTrainedModel, rows: int) -> None:
    """Add embedding rows, and head rows, as the mean of the old ones; a tied head stays tied, and nothing shrinks."""
    old = model.get_input_embeddings().weight.shape[0]
    if rows <= old:
        return
    # transformers draws the new rows at random by default; the mean is as good a start and the same at every build.
    with torch.random.fork_rng(devices=[]):
        model.resize_token_embeddings(rows, mean_resizing=False)
    if on_meta(model):
        return
    with torch.no_grad():
        for module in (model.get_input_embeddings(), model.get_output_embeddings()):
            known = module.weight[:old]
            module.weight[old:] = known.float().mean(dim=0).to(known.dtype)
