"""`vlmzoo.remix`: what stays keeps its weights, what is new starts anew, and a published model goes on with others."""

from pathlib import Path

import pytest
import torch
from exchange_models import LLAMA, TEXT, llava, llava_processor, picture, zoo
from torch import Tensor, nn

import vlmzoo
from vlmzoo.model.tensors import own_tensors
from vlmzoo.model.vlm import VLM
from vlmzoo_registry import AssemblyError, ConfigError

RESAMPLER = [
    {"name": "connectors/resampler", "queries": 3, "depth": 1, "heads": 2, "head_width": 8},
    {"name": "connectors/linear"},
]
GPT2 = {
    "name": "transformers/causal-lm",
    "config": {
        "model_type": "gpt2",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "n_embd": 40,
        "n_layer": 2,
        "n_head": 4,
        "vocab_size": 300,
    },
}
VICUNA = {"name": "vicuna_v1", "system": None}


def same(one: nn.Module, other: nn.Module) -> bool:
    """Whether two parts have the same tensors, none of them shared."""
    left, right = own_tensors(one), own_tensors(other)
    shared = {tensor.data_ptr() for tensor in left.values()} & {tensor.data_ptr() for tensor in right.values()}
    return not shared and left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def batch(model: VLM) -> dict[str, Tensor]:
    return model.processor(text=["<image>what?", "<image>who is it?"], images=[[picture()], [picture()]])


def step(model: VLM) -> float:
    """One step on the words of a batch; returns the loss before it."""
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    inputs = batch(model.train())
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == model.config.image_token_id, -100)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = model(**inputs, labels=labels.masked_fill(inputs["attention_mask"] == 0, -100)).loss
    loss.backward()
    optimizer.step()
    model.eval()
    return loss.item()


def test_a_published_model_is_taken_apart_swapped_trained_and_given_back_where_that_is_possible(tmp_path: Path) -> None:
    """Issue 4, "Done when" 3."""
    taken = vlmzoo.from_transformers(llava(), llava_processor(), template=VICUNA)

    other_connector = vlmzoo.remix(taken, connector=RESAMPLER)
    assert same(other_connector.vision, taken.vision) and same(other_connector.language, taken.language)
    before = {name: tensor.clone() for name, tensor in other_connector.named_parameters()}
    first = step(other_connector)
    assert step(other_connector) < first
    after = dict(other_connector.named_parameters())
    moved = {name.partition(".")[0] for name in after if not torch.equal(after[name], before[name])}
    assert moved == {"vision", "connector", "language"}
    with pytest.raises(AssemblyError) as refused:
        vlmzoo.to_transformers(other_connector)
    assert (
        "Llava: `connector` is `connectors/resampler` + `connectors/linear`, and Llava has `connectors/mlp`"
        in refused.value.reasons
    )

    both = vlmzoo.remix(other_connector, language=GPT2)
    assert same(both.vision, other_connector.vision)
    assert type(both.language.model).__name__ == "GPT2LMHeadModel"
    first = step(both)
    assert step(both) < first
    both.save_pretrained(tmp_path / "both")
    again = vlmzoo.load(tmp_path / "both")
    with torch.inference_mode():
        assert torch.equal(again(**batch(again)).logits, both(**batch(both)).logits)
    with pytest.raises(AssemblyError):
        vlmzoo.to_transformers(both)

    qwen = {"name": "transformers/causal-lm", "config": {"model_type": "qwen2", **TEXT, "hidden_size": 64}}
    exportable = vlmzoo.remix(taken, language=qwen)
    step(exportable)
    exported = vlmzoo.to_transformers(exportable)
    assert type(exported.model).__name__ == "LlavaForConditionalGeneration"
    assert exported.model.config.text_config.model_type == "qwen2"
    assert exported.difference <= 1e-5


def test_a_connector_stays_where_its_neighbours_do() -> None:
    model = zoo("Llava")
    spoken = vlmzoo.remix(model, template="plain")
    assert all(same(spoken.parts[part], model.parts[part]) for part in model.parts)
    assert type(spoken.processor.template).__name__ == "PlainTemplate"


def test_a_connector_between_other_neighbours_starts_anew() -> None:
    model = zoo("Llava")
    language = {"name": "transformers/causal-lm", "config": {**LLAMA, "num_hidden_layers": 1}}
    mixed = vlmzoo.remix(model, language=language)
    assert same(mixed.vision, model.vision)
    assert own_tensors(mixed.connector).keys() == own_tensors(model.connector).keys()
    assert not same(mixed.connector, model.connector)


def test_a_new_encoder_keeps_language_tokenizer_and_ids() -> None:
    model = zoo("Llava")
    mixed = vlmzoo.remix(model, vision={"name": "toy/vision"})
    assert same(mixed.language, model.language)
    assert mixed.config.image_token_id == model.config.image_token_id
    assert mixed.processor.tokenizer.get_vocab() == model.processor.tokenizer.get_vocab()
    assert mixed.generation_config.to_dict() == model.generation_config.to_dict()
    assert mixed.processor.tokenizer is not model.processor.tokenizer


def test_a_layout_that_writes_tokens_gives_them_rows_behind_the_old_ones() -> None:
    model = zoo("Llava")
    rows = model.get_input_embeddings().weight
    mixed = vlmzoo.remix(model, layout={"name": "layouts/dynamic-tiles", "max_tiles": 4})
    grown = mixed.get_input_embeddings().weight
    assert len(grown) == len(rows) + 2
    assert torch.equal(grown[: len(rows)], rows)
    assert model.processor.tokenizer.convert_tokens_to_ids("<img>") is None
    step(mixed)


def test_a_part_that_can_be_left_out_is_taken_out_with_none() -> None:
    mixed = vlmzoo.remix(zoo("LlavaNext"), layout=None)
    assert "layout" not in mixed.config.model
    assert vlmzoo.to_transformers(mixed).difference == 0.0


def test_without_a_processor_ids_and_pixels_are_enough() -> None:
    mixed = vlmzoo.remix(vlmzoo.from_transformers(llava()), connector=RESAMPLER)
    assert mixed.processor is None
    ids = torch.full((1, 5), 7)
    ids[0, 1:4] = mixed.config.image_token_id
    assert mixed(input_ids=ids, pixel_values=torch.rand(1, 1, 3, 32, 32)).logits.shape == (1, 5, 260)


def test_nothing_to_change_is_an_error() -> None:
    with pytest.raises(ConfigError, match="name at least one part to change"):
        vlmzoo.remix(zoo("Llava"))


def test_a_key_that_no_model_has_is_an_error() -> None:
    with pytest.raises(ConfigError, match="connectors"):
        vlmzoo.remix(zoo("Llava"), connectors=RESAMPLER)
