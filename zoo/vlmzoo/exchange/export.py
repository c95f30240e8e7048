"""`vlmzoo.to_transformers`: a zoo model as the published class that can express it, proved on the same input."""

import os
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, ProcessorMixin

from vlmzoo.durable import replaced_folder
from vlmzoo.exchange.classes import EXCHANGES
from vlmzoo.exchange.exchange import Exchange
from vlmzoo.exchange.names import fill
from vlmzoo.exchange.question import question_difference, same_question
from vlmzoo.exchange.sections import component_differences, option_differences, spelt_out
from vlmzoo.exchange.trial import difference, trial_batch
from vlmzoo.exits import refuses_exit
from vlmzoo.model.tensors import own_tensors
from vlmzoo.model.vlm import VLM
from vlmzoo_registry import AssemblyError, CheckpointError
from vlmzoo_registry.compat.transformers import from_config

_PIXELS = 1e-5
"""How far the pixels of the two processors may be apart: they are made by the same library."""


@dataclass(frozen=True)
class Exported:
    """A published model and its processor; `difference` is how far their logits are from those of the zoo model.

    `processor` is None where the zoo model has none.
    """

    model: PreTrainedModel
    processor: ProcessorMixin | None
    difference: float

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write a folder that plain transformers loads; all of it, or nothing.

        Raises `CheckpointError` where there is something at `folder` already.
        """
        target = Path(folder).resolve()
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise CheckpointError(f"`{target}` is not empty: choose another folder, or remove it first")
        target.parent.mkdir(parents=True, exist_ok=True)
        with replaced_folder(target) as staging:
            self.model.save_pretrained(staging)
            if self.processor is not None:
                self.processor.save_pretrained(staging)


@refuses_exit
def to_transformers(model: VLM) -> Exported:
    """Give a zoo model as the most native class of transformers that can express it, with the same weights.

    Everything the class computes is compared with what the zoo model is made of, option by option; then both are run, on ids
    and pixels and on an image and a text through both processors, and must give the same logits. The class has one type for
    all its weights, that of the language model.

    Raises `AssemblyError` with every reason, for every class, why none can express the model, and where logits or the inputs
    that the processors make differ.
    """
    reasons = [f"`{part}` has adapters: merge them first" for part in model.adapters]
    if reasons:
        raise AssemblyError("the model cannot be given to transformers as it is", reasons)
    for exchange in EXCHANGES:
        found = misfits(exchange, model)
        if not found:
            return _exported(exchange, model)
        reasons += [f"{exchange.name}: {reason}" for reason in found]
    raise AssemblyError("no class of transformers that the zoo knows can express this model", reasons)


def misfits(exchange: Exchange, model: VLM) -> list[str]:
    """Every reason why the class cannot express the model; the options are looked at once the components fit."""
    own = spelt_out(model.config.model)
    reasons = component_differences(own, exchange.pattern, exchange.name)
    if reasons:
        return reasons
    try:
        config = exchange.config(model)
        published = spelt_out(exchange.section(config))
    except AssemblyError as error:
        return list(error.reasons or (error.message,))
    # The embedding has grown since the section was written: by the image token, and by what else the tokenizer has.
    if "vocab_size" in own["language"]["config"]:
        own["language"]["config"]["vocab_size"] = model.language.text_config.vocab_size
    return option_differences(own, published, exchange.name)


def _exported(exchange: Exchange, model: VLM) -> Exported:
    config = exchange.config(model)
    weights = model.get_input_embeddings().weight
    published: Any = from_config(exchange.published, config, dtype=weights.dtype).to(weights.device).eval()
    names = exchange.names(config)
    fill(own_tensors(published), own_tensors(model), names.to_published, what=f"zoo parts into {exchange.published.__name__}")
    published.generation_config = deepcopy(model.generation_config)
    was_training = model.training
    model.eval()
    found = difference(exchange, published, model, trial_batch(model, words_first=exchange.reads_words_first))
    found.check(exchange.name)
    processor = None
    if model.processor is not None:
        processor = exchange.processor(model, config, deepcopy(model.processor.tokenizer))
        own, theirs = same_question(exchange, processor, model, config, pixels=_PIXELS)
        found = max(found, question_difference(published, model, own, theirs), key=lambda one: one.largest)
        found.check(exchange.name)
    model.train(was_training)
    return Exported(published, processor, found.largest)
