"""Models that read their prompt in both directions: what is its prefix, in training and in every step of generation."""

import pytest
import torch
from small_models import picture, section, shake

import vlmzoo
from vlmzoo.model.vlm import VLM
from vlmzoo_registry import DataError

GEMMA = {
    "model_type": "gemma",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "vocab_size": 320,
    "max_position_embeddings": 128,
}
T5 = {
    "model_type": "t5",
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "vocab_size": 320,
    "decoder_start_token_id": 0,
}
LANGUAGES = {
    "PaliGemma's": {"name": "transformers/causal-lm", "config": GEMMA, "prefix": "required"},
    "T5's": {"name": "transformers/seq2seq-lm", "config": T5},
}


@pytest.fixture(scope="module", params=LANGUAGES)
def model(request: pytest.FixtureRequest) -> VLM:
    torch.manual_seed(0)
    return shake(vlmzoo.build(section(language=LANGUAGES[request.param])))


def prompts(model: VLM) -> dict[str, torch.Tensor]:
    return model.processor(text=["what is it?", "how many are there?"], images=[[picture(1)], [picture(2)]])


def test_steps_with_a_cache_are_steps_without(model: VLM) -> None:
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    cached = model.generate(**prompts(model), **options)
    assert torch.equal(cached, model.generate(**prompts(model), **options, use_cache=False))
    expanded = {key: tensor.repeat_interleave(3, dim=0) for key, tensor in prompts(model).items()}
    beams = model.generate(**prompts(model), **options, num_beams=3)
    assert torch.equal(beams, model.generate(**expanded, **options, num_beams=3)[::3])


def test_generation_says_what_training_has_learnt_to_say(model: VLM) -> None:
    """The logits behind a prompt and the beginning of an answer: those of a training row, and those of the next step."""
    batch = prompts(model)
    ids = model.generate(**batch, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    start = batch["input_ids"].shape[1]
    labels = ids.clone()
    labels[:, :start] = -100
    mask = torch.cat([batch["attention_mask"], torch.ones_like(ids[:, start:])], dim=1)
    images = {key: batch[key] for key in ("pixel_values", "image_mask")}
    trained = model(input_ids=ids, attention_mask=mask, labels=labels, logits_to_keep=0, **images).logits
    forbidden = torch.tensor(model.generation_config.suppress_tokens)
    trained[..., forbidden] = -torch.inf
    eos = model.generation_config.eos_token_id
    trained[..., eos if isinstance(eos, list) else [eos]] = -torch.inf  # `min_new_tokens` forbids the end
    assert torch.equal(trained[:, start - 1 : -1].argmax(dim=-1), ids[:, start:])


def test_a_row_has_one_answer(model: VLM) -> None:
    batch = prompts(model)
    labels = torch.full_like(batch["input_ids"], -100)
    labels[0, [-1, -3]] = 5
    with pytest.raises(DataError, match="so a row has one answer"):
        model(**batch, labels=labels)


def test_a_causal_model_takes_no_prefix() -> None:
    causal = vlmzoo.build(section())
    batch = causal.processor(text="a", images=picture(0))
    with pytest.raises(DataError, match="`ToyLanguage` is causal throughout: leave it out"):
        causal(**batch, prefix_mask=batch["attention_mask"].bool())
