"""Rows that stand one after the other in one sequence are what they are alone: logits, loss, every gradient.

In float64, so that what is told apart is a rule, not a rounding; what transformers computes in float32 anyway (the softmax of
`eager`, norms) leaves 1e-7.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from small_models import CROSS, GPT2, LLAMA, MLP, causal_lm, picture, section, shake
from torch import Tensor

import vlmzoo
from vlmzoo.config import load_choice
from vlmzoo.data import Collator
from vlmzoo.model.rows import check_rows
from vlmzoo.model.vlm import VLM
from vlmzoo_registry import DataError, Objective, Sample, Template, Turn
from vlmzoo_registry.compat.transformers import enable_checkpointing

GEMMA = {
    "model_type": "gemma3_text",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "vocab_size": 320,
    "sliding_window": 5,
    "layer_types": ["sliding_attention", "full_attention"],
}
LAST = [*MLP, {"name": "connectors/cross-attention", "every": 1, "heads": 2, "head_width": 8, "attend": "last"}]
TILES = {"name": "layouts/dynamic-tiles", "max_tiles": 4}
LANGUAGES = {
    "llama": causal_lm(LLAMA),
    "llama, eager": causal_lm(LLAMA, attention="eager"),
    "gpt2": causal_lm(GPT2 | {"n_positions": 256}),
    "mistral with a window": causal_lm(LLAMA | {"model_type": "mistral", "sliding_window": 5}),
    "gemma3 with layers of two kinds": causal_lm(GEMMA),
    "gemma2 with a soft cap": causal_lm(GEMMA | {"model_type": "gemma2"}),
    "experts": causal_lm(LLAMA | {"model_type": "mixtral", "num_local_experts": 3}),
}
MODELS = {
    **{f"unified {name}": section(language=language) for name, language in LANGUAGES.items()},
    "unified in tiles": section(language=causal_lm(LLAMA)) | {"layout": TILES},
    "cross-attention": section("cross_attention", language=causal_lm(LLAMA)),
    "cross-attention gpt2": section("cross_attention", language=causal_lm(GPT2 | {"n_positions": 256}), connector=CROSS),
    "hybrid": section("hybrid", connector=[*MLP, *CROSS], language=causal_lm(LLAMA)) | {"layout": TILES},
}
FLOAT32 = {"mixtral", "gemma2"}
"""There are no experts in float64, and the softmax of `eager` makes infinity of its mask."""

IMAGES = (2, 0, 1, 1, 3)
"""How many images each row has. The last token of one with images stands before the first of another."""


def made(config: dict[str, Any]) -> VLM:
    torch.manual_seed(0)
    model = shake(vlmzoo.build(config))
    return model if config["language"]["config"]["model_type"] in FLOAT32 else model.double()


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> VLM:
    return made(MODELS[request.param])


def sample(number: int, images: int, *, seed: int = 0) -> Sample:
    opened = tuple(partial(picture, 10 * number + place + 100 * seed, side=30 + 9 * place) for place in range(images))
    turns = (Turn("user", "<image>" * images + "what" * (number + 1)), Turn("assistant", "a cat" + "s" * (9 * seed + number)))
    return Sample(
        str(number),
        (*turns, Turn("user", "and?"), Turn("assistant", f"{number}" + "no!" * 5 * seed)),
        opened,
        f"rows.jsonl:{number}",
    )


def samples() -> list[Sample]:
    return [sample(number, images) for number, images in enumerate(IMAGES)]


def collator(model: VLM, *, flatten: bool, objective: str = "instruct", **options: Any) -> Collator:
    tokenizer = model.processor.tokenizer
    return Collator(
        objective=load_choice("objective", {"name": objective, **options}).make(Objective).bind(tokenizer),
        template=load_choice("template", {"name": "vicuna_v1", "system": None}).make(Template).bind(tokenizer),
        tokenizer=tokenizer,
        image_token=model.processor.image_token,
        images=model.processor.images,
        max_length=500,
        flatten=flatten,
    )


def typed(batch: dict[str, Tensor], model: VLM) -> dict[str, Tensor]:
    return {name: tensor.to(model.dtype) if tensor.is_floating_point() else tensor for name, tensor in batch.items()}


def read(model: VLM, rows: Sequence[Sample], *, flatten: bool, **options: Any) -> dict[str, Tensor]:
    return typed(collator(model, flatten=flatten, **options)(rows), model)


def gradients(model: VLM, batches: Sequence[dict[str, Tensor]]) -> tuple[float, dict[str, Tensor]]:
    """The loss over all batches and its gradients, as one global batch has them."""
    named = dict(model.named_parameters())
    count = sum(int((batch.get("labels", batch.get("targets")) != -100).sum()) for batch in batches)
    model.zero_grad()
    total = 0.0
    for batch in batches:
        weights = batch.pop("weights", None)
        loss = model(**batch, loss_weights=weights, num_items_in_batch=count).loss
        loss.backward()
        total += loss.item()
    return total, {name: p.grad.clone() for name, p in named.items() if p.grad is not None}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert (tensor - other[name]).abs().max() <= 1e-5 * tensor.abs().max() + 1e-9, name


def close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-5, atol=1e-6)


def rows_of(model: VLM, flat: dict[str, Tensor]) -> tuple[Tensor, ...]:
    given = {name: tensor for name, tensor in flat.items() if name not in ("labels", "targets", "weights")}
    return model(**given).logits.split(flat["row_lengths"].tolist(), dim=1)


@torch.no_grad()
def test_the_logits_of_a_row_are_those_it_has_alone(model: VLM) -> None:
    rows = samples()
    for row, seen in zip(rows, rows_of(model, read(model, rows, flatten=True)), strict=True):
        alone = read(model, [row], flatten=False)
        alone.pop("labels")
        assert close(seen, model(**alone).logits)


def test_loss_and_gradients_are_those_of_the_rows_alone_and_of_the_padded_batch(model: VLM) -> None:
    model.requires_grad_(True)
    rows = samples()
    flat = gradients(model, [read(model, rows, flatten=True)])
    for other in ([read(model, [row], flatten=False) for row in rows], [read(model, rows, flatten=False)]):
        loss, grads = gradients(model, other)
        assert flat[0] == pytest.approx(loss, rel=1e-6)
        same(flat[1], grads)
    halves = [read(model, part, flatten=True) for part in (rows[:2], rows[2:])]
    loss, grads = gradients(model, halves)
    assert flat[0] == pytest.approx(loss, rel=1e-6)
    same(flat[1], grads)


def keeps_rows_apart(run: Callable[[list[Sample]], Sequence[Tensor]]) -> None:
    """Other words and other pictures of the same number in every row but one leave this one as it was."""
    rows = samples()
    before = run(rows)
    for kept in range(len(rows)):
        changed = [
            row if at == kept else sample(at, images, seed=1) for at, (row, images) in enumerate(zip(rows, IMAGES, strict=True))
        ]
        after = run(changed)
        assert close(after[kept], before[kept])
        assert all(one.shape != other.shape for at, (one, other) in enumerate(zip(before, after, strict=True)) if at != kept)


@torch.no_grad()
def test_q16_packing_no_leak(model: VLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(rows: list[Sample]) -> Sequence[Tensor]:
        return rows_of(model, read(model, rows, flatten=True))

    def one_long_row(rows: list[Sample]) -> Sequence[Tensor]:
        """What packing without isolation does."""
        flat = read(model, rows, flatten=True)
        lengths = flat["row_lengths"].tolist()
        plain = model.language.decode

        def mixed(embeddings: Tensor, *, row_lengths: Tensor, position_ids: Tensor, **options: Any) -> Tensor:
            return plain(embeddings, position_ids=torch.arange(position_ids.shape[1])[None].clamp(max=99), **options)

        with monkeypatch.context() as patch:
            patch.setattr(model.language, "decode", mixed)
            return model(**{k: v for k, v in flat.items() if k != "labels"}).logits.split(lengths, dim=1)

    keeps_rows_apart(run)
    with pytest.raises(AssertionError):
        keeps_rows_apart(one_long_row)


def test_labels_at_borders_are_no_target_of_the_row_before() -> None:
    model = made(MODELS["unified llama"])
    flat = read(model, samples(), flatten=True)
    starts = flat["row_lengths"].cumsum(0)[:-1]
    assert (flat["labels"][0, starts] == -100).all()
    by_hand = flat | {"labels": flat["labels"].index_fill(1, starts, 7)}
    assert torch.equal(model(**by_hand).loss, model(**flat).loss)
    shifted_over = by_hand | {"row_lengths": flat["row_lengths"].sum()[None]}
    shifted_over = {name: tensor for name, tensor in shifted_over.items() if name not in ("pixel_values", "image_mask")}
    shifted_over["input_ids"] = shifted_over["input_ids"].masked_fill(
        shifted_over["input_ids"] == model.config.image_token_id, 5
    )
    assert not torch.equal(model(**shifted_over).nll, model(**shifted_over | {"labels": flat["labels"]}).nll)  # it would count


@pytest.mark.parametrize("masked_rows", ["zero", "feedforward", "hf_mllama"])
def test_a_row_without_an_image_is_the_same_alone_padded_and_among_others(masked_rows: str) -> None:
    """Also where the blocks go on through their feed-forward at positions that see nothing."""
    blocks = [{**CROSS[0], "masked_rows": masked_rows}]
    model = made(section("cross_attention", language=causal_lm(LLAMA), connector=blocks))
    rows = samples()
    for row, seen in zip(rows, rows_of(model, read(model, rows, flatten=True)), strict=True):
        alone = read(model, [row], flatten=False)
        alone.pop("labels")
        assert close(seen, model(**alone).logits)
    if masked_rows == "hf_mllama":
        return  # where nothing is seen, it attends to all image tokens alike, padding included, as the published class does
    padded = read(model, rows, flatten=False)
    lengths = padded["attention_mask"].sum(dim=1).tolist()
    padded.pop("labels")
    logits = model(**padded).logits
    for number, seen in enumerate(rows_of(model, read(model, rows, flatten=True))):
        assert close(seen, logits[number : number + 1, : lengths[number]])


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["unified llama", "unified llama, eager", "cross-attention"])
def test_recomputed_layers_see_the_same_rows(name: str, checkpointing: bool) -> None:
    model = made(MODELS[name])
    model.requires_grad_(True)
    expected = gradients(model, [read(model, samples(), flatten=True)])
    model.train()
    if checkpointing:
        enable_checkpointing(model)
    found = gradients(model, [read(model, samples(), flatten=True)])
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    same(found[1], expected[1])


PREFIXED = section(language=causal_lm(GEMMA, prefix="optional"))
SPANS = section(language=causal_lm(LLAMA, prefix="optional", span_positions=40))


REQUIRED = section(language=causal_lm(GEMMA, prefix="required"))


@pytest.mark.parametrize(
    ("config", "objective"),
    [(PREFIXED, "prefix_lm"), (REQUIRED, "prefix_lm"), (REQUIRED, "instruct"), (SPANS, "blank_infilling")],
)
def test_prefixes_and_spans_of_each_row(config: dict[str, Any], objective: str) -> None:
    model = made(config)
    model.requires_grad_(True)
    images = (0, 0, 0) if objective == "blank_infilling" else (1, 0, 2)
    rows = []
    for number, count in enumerate(images):
        turns = (Turn("user", "<image>" * count + "what is it" + "?" * number), Turn("assistant", "it may well be a cat"))
        opened = tuple(partial(picture, 10 * number + place) for place in range(count))
        rows.append(Sample(str(number), turns, opened, f"rows.jsonl:{number}"))
    flat = gradients(model, [read(model, rows, flatten=True, objective=objective)])
    alone = gradients(model, [read(model, [row], flatten=False, objective=objective) for row in rows])
    assert flat[0] == pytest.approx(alone[0], rel=1e-6)
    same(flat[1], alone[1])


def test_a_generation_after_training_is_what_it_was_before() -> None:
    """The attention that understands rows is the model's own wherever there are none."""
    for name in ("unified llama", "unified llama, eager", "unified gemma2 with a soft cap"):
        model = made(MODELS[name])
        batch = typed(model.processor(text=["a red cat", "what"], images=[[picture(1)], [picture(2)]]), model)
        before = model(**batch).logits, model.generate(**batch, max_new_tokens=5, do_sample=False)
        model(**read(model, samples(), flatten=True))
        assert torch.equal(model(**batch).logits.nan_to_num(), before[0].nan_to_num())  # padding may be anything
        assert torch.equal(model.generate(**batch, max_new_tokens=5, do_sample=False), before[1])


def test_lengths_that_do_not_fit_are_refused_with_every_reason() -> None:
    model = made(MODELS["unified llama"])
    flat = read(model, samples(), flatten=True)
    total = int(flat["row_lengths"].sum())
    with pytest.raises(DataError, match="without padding") as error:
        model(**flat | {"attention_mask": torch.ones_like(flat["input_ids"])}, use_cache=True)
    assert list(error.value.reasons) == ["`attention_mask`: leave it out", "`use_cache`: leave it out"]
    short = total - int(flat["row_lengths"][-1])
    with pytest.raises(DataError, match="without padding") as error:
        check_rows(flat["row_lengths"][:-1], flat["input_ids"], 5, {"attention_mask": 1, "past_key_values": None})
    assert list(error.value.reasons) == [
        "`attention_mask`: leave it out",
        f"`input_ids` (1, {total}): must be one row of the {short} tokens that its 4 rows have, each one or more",
        "images: there are 5 rows of them, and 4 rows of text",
    ]
    other = read(model, [sample(number, 2) for number in range(5)], flatten=True)
    with pytest.raises(DataError, match="image slots and images do not match") as error:
        model(**flat | {name: other[name] for name in ("pixel_values", "image_mask")})
    assert [reason.split(":")[0] for reason in error.value.reasons] == ["row 1", "row 2", "row 3", "row 4"]


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "bloom", "hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 300},
        {
            "model_type": "lfm2",
            **{k: v for k, v in LLAMA.items() if k != "model_type"},
            "layer_types": ["conv", "full_attention"],
        },
        {"model_type": "xlstm", **{k: v for k, v in LLAMA.items() if k != "model_type"}},
        {
            "model_type": "gpt_neo",
            **{"hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global"], 2]], "vocab_size": 300},
        },
    ],
    ids=lambda config: config["model_type"],
)
def test_a_family_that_would_mix_rows_does_not_say_that_it_reads_them(config: dict[str, Any]) -> None:
    model = made(section(language=causal_lm(config)))
    assert "row_lengths" not in model.language.reads
    # In 16 bits what leaks may be as small as what is rounded.
    assert "row_lengths" not in vlmzoo.build(section(language=causal_lm(config, dtype="bfloat16"))).language.reads
    with pytest.raises(DataError, match="`row_lengths` was given, but `TransformersCausalLM` does not read it"):
        model(**read(model, samples(), flatten=True))


def test_a_trial_that_runs_out_of_memory_does_not_decide_that_rows_are_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*inputs: Tensor, **options: Any) -> Tensor:
        raise torch.OutOfMemoryError("out of memory")

    language = made(MODELS["unified llama"]).language
    monkeypatch.setattr(language, "decode", exhausted)
    with pytest.raises(torch.OutOfMemoryError):
        _ = language.reads
