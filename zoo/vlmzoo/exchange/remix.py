"""`vlmzoo.remix`: a model with other parts in some places, beside those that stay as they were trained."""

from copy import deepcopy
from typing import Any

from vlmzoo.assemble import Parts, assemble, build, finish, make_processor
from vlmzoo.config import ModelConfig, load_model
from vlmzoo.exchange.names import fill
from vlmzoo.exits import refuses_exit
from vlmzoo.image_token import find_image_token
from vlmzoo.model.tensors import own_tensors
from vlmzoo.model.vlm import VLM
from vlmzoo_registry import AssemblyError, Catalogue, ConfigError

_MADE_BY = {"vision": ("vision", "merge"), "language": ("language",)}
"""The keys of a `model:` section that decide what a part is. The connector depends on all but the template."""


@refuses_exit
def remix(model: VLM, *, catalogue: Catalogue | None = None, **changes: Any) -> VLM:
    """A new model with the parts that are named here, and the others of `model` with copies of their weights.

        vlmzoo.remix(model, connector=[{"name": "connectors/resampler", "queries": 64}, {"name": "connectors/linear"}])

    Args:
        model: what it starts from; it stays as it is.
        catalogue: where the parts are found; default: all that is installed.
        changes: keys of a `model:` section (`vision`, `connector`, `language`, `layout`, `template`, `architecture`) with what
            stands there now; None takes one out that can be left out.

    A connector was trained between its neighbours: where one of these changes, it starts anew as its options say. With another
    language model comes its own tokenizer.

    Raises `ConfigError` and `AssemblyError` as `vlmzoo.build` does, `AssemblyError` where a part has adapters.
    """
    if not changes:
        raise ConfigError("name at least one part to change: `vlmzoo.remix(model, connector=...)`")
    if model.adapters:
        parts = ", ".join(f"`{part}`" for part in model.adapters)
        raise AssemblyError(f"{parts}: adapters are part of what was trained, and no config describes them: merge them first")
    section = {**model.config.model, **changes}
    config = load_model({key: value for key, value in section.items() if value is not None}, catalogue=catalogue)
    kept = [part for part, keys in _MADE_BY.items() if not changes.keys() & set(keys)]
    if changes.keys() <= {"template"}:
        kept.append("connector")
    vlm = _with_same_language(model, config) if "language" in kept else build(config)
    for part in kept:
        if part != "language":
            fill(own_tensors(vlm.parts[part]), own_tensors(model.parts[part]), str, what=f"the part `{part}`, kept")
    return vlm


def _with_same_language(model: VLM, config: ModelConfig) -> VLM:
    """The model of this config, with the language model, the tokenizer and the image token of an earlier one."""
    parts = assemble(config)
    embedding: Any = model.get_input_embeddings()
    parts.language.resize(embedding.weight.shape[0])
    fill(own_tensors(parts.language), own_tensors(model.language), str, what="the part `language`, kept")
    if model.processor is None:
        return _finished(model, config, parts)
    tokenizer = deepcopy(model.processor.tokenizer)
    find_image_token(tokenizer, parts.layout.control_tokens)  # a layout that is new may write tokens of its own
    parts.language.resize(len(tokenizer))
    vlm = _finished(model, config, parts)
    vlm.processor = make_processor(vlm, config, tokenizer, model.processor.image_token.text)
    return vlm


def _finished(model: VLM, config: ModelConfig, parts: Parts) -> VLM:
    vlm = finish(config, parts, model.config.image_token_id)
    vlm.generation_config = deepcopy(model.generation_config)
    return vlm
