"""`vlmzoo.from_transformers`: a published Hugging Face model as a zoo model, made of zoo parts with the same weights."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from transformers import PreTrainedModel, ProcessorMixin

from vlmzoo.assemble import assemble, finish, make_processor
from vlmzoo.config import load_model
from vlmzoo.exchange.classes import exchange_of
from vlmzoo.exchange.names import fill
from vlmzoo.exchange.question import same_question
from vlmzoo.exchange.trial import difference, trial_batch
from vlmzoo.exits import refuses_exit
from vlmzoo.model.tensors import own_tensors
from vlmzoo.model.vlm import VLM
from vlmzoo_registry import Catalogue, ConfigError

_PIXELS = 0.05
"""How far pixels may be apart: two grey levels, as the libraries that scale images round differently."""

_TYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


@refuses_exit
def from_transformers(
    model: PreTrainedModel,
    processor: ProcessorMixin | None = None,
    *,
    template: str | dict[str, Any] = "plain",
    overrides: Sequence[str] = (),
    catalogue: Catalogue | None = None,
) -> VLM:
    """Take a published model apart into zoo parts: an encoder, connectors and a language model with its weights.

    Nothing of the given model is kept or changed. What comes is a model like any other: it trains, is saved, and its parts can
    be exchanged (`vlmzoo.remix`). Before it is given back, both are run on the same input and must give the same logits. Its
    encoder and connectors are in float32, whatever the given model is in; the language model has the type it had.

    Args:
        model: of one of the classes in `vlmzoo.exchange.classes`.
        processor: its processor. Without one `model.processor` is None: the model takes ids and pixels, but no text and no
            image, and it cannot be saved, as a checkpoint holds its tokenizer.
        template: the style of conversation, as in a recipe. Published chat templates are not read: they are programs.
        overrides: changes of the zoo's config, such as `vision.image_size=448` or `connector.1.masked_rows=zero`. What the
            model computes is then another thing, and is not compared.
        catalogue: where the parts are found; default: all that is installed.

    Raises `ConfigError` for another class; `AssemblyError` with every reason why the zoo has no such parts, where logits
    differ, and where the processors make other inputs of the same image and text; `CheckpointError` with every tensor that has
    no place.
    """
    exchange = exchange_of(model)
    section = exchange.section(model.config)
    layout = exchange.layout(model.config)
    if layout is not None:
        section.setdefault("layout", layout)
    for part, options in {} if processor is None else exchange.preparation(processor).items():
        section[part] |= options
    embedding: Any = model.get_input_embeddings()
    dtype = embedding.weight.dtype
    if dtype not in _TYPES:
        raise ConfigError(f"the language model is kept in {dtype}, which no part has: convert it (`model.float()`)")
    # The encoder and the connectors stay in float32, which holds 16-bit weights exactly, and in which new parts start.
    section["language"]["dtype"] = _TYPES[dtype]
    config = load_model({**section, "template": template}, overrides, catalogue)
    vlm = finish(config, assemble(config), model.config.image_token_id)
    names = exchange.names(model.config)
    fill(own_tensors(vlm), own_tensors(model), names.to_zoo, what=f"{exchange.published.__name__} into zoo parts")
    vlm.generation_config = deepcopy(model.generation_config)
    if processor is not None:
        tokenizer: Any = processor.tokenizer
        vlm.processor = make_processor(vlm, config, tokenizer, tokenizer.convert_ids_to_tokens(model.config.image_token_id))
        if not overrides:
            same_question(exchange, processor, vlm, model.config, pixels=_PIXELS)
    if not overrides:
        was_training = model.training
        model.eval()
        difference(exchange, model, vlm, trial_batch(vlm, words_first=exchange.reads_words_first)).check(
            exchange.published.__name__
        )
        model.train(was_training)
    return vlm
