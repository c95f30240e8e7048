"""Cross-attention in eight language families, none of which the code knows by name."""

import re
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from vlmzoo.assemble import assemble, finish
from vlmzoo.config import load_model
from vlmzoo.model.cross_attention import CrossAttentionVLM
from vlmzoo.model.vision_cache import VisionCacheLayer
from vlmzoo_registry import DataError
from vlmzoo_registry.compat.transformers import cache_in, enable_checkpointing

IMAGE = 290
GROUPED = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
}
PLAIN = {key: value for key, value in GROUPED.items() if key != "num_key_value_heads"}
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": GROUPED | IDS,
    "qwen3": GROUPED | IDS | {"head_dim": 8},
    "gemma2": GROUPED | IDS | {"head_dim": 8},
    "phi3": GROUPED | IDS,
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "vocab_size": 300} | IDS,
    "opt": {
        "hidden_size": 32,
        "ffn_dim": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "vocab_size": 300,
        "word_embed_proj_dim": 32,
    }
    | IDS,
    "mistral": GROUPED | IDS,
    "gpt_neox": PLAIN | IDS,
}
PLACES = ["before", "after"]


def model(family: str, place: str = "before", gates: float = 0.7, **options: Any) -> CrossAttentionVLM:
    """A tiny random model of this family with blocks at two of its three layers."""
    torch.manual_seed(0)
    config = load_model(
        {
            "architecture": "cross_attention",
            "vision": {"name": "toy/vision"},
            "connector": [
                {"name": "connectors/resampler", "queries": 4, "depth": 1, "heads": 2, "head_width": 8},
                {
                    "name": "connectors/cross-attention",
                    "layers": [0, 2],
                    "place": place,
                    "heads": 2,
                    "head_width": 8,
                    **options,
                },
            ],
            "language": {"name": "transformers/causal-lm", "config": {"model_type": family, **FAMILIES[family]}},
            "template": "plain",
        }
    )
    vlm = finish(config, assemble(config), IMAGE)
    assert isinstance(vlm, CrossAttentionVLM)
    with torch.no_grad():
        for parameter in vlm.parameters():
            # Random models are near zero everywhere; larger weights make an error visible.
            if parameter.ndim > 1:
                parameter.mul_(3)
        for gate in vlm.layers.gates:
            gate.fill_(gates)
    vlm.generation_config.pad_token_id = 0
    vlm.generation_config.eos_token_id = None
    vlm.generation_config.suppress_tokens = [IMAGE]
    return vlm


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Three rows: an image first, two images, an image late."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 280, (3, 12), generator=generator)
    ids[0, 0] = ids[1, 2] = ids[1, 6] = ids[2, 5] = IMAGE
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(3, 2, 3, 32, 32, generator=generator),
        "image_mask": torch.tensor([[True, False], [True, True], [True, False]]),
    }


def row(batch: dict[str, torch.Tensor], index: int) -> dict[str, torch.Tensor]:
    """One row of a batch alone."""
    return {name: tensor[index : index + 1] for name, tensor in batch.items()}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("family", FAMILIES)
def test_gates_at_zero_give_the_text_only_logits_bit_for_bit(family: str, place: str, batch: dict[str, torch.Tensor]) -> None:
    vlm = model(family, place, gates=0.0)
    with torch.no_grad():
        with_images = vlm(**batch).logits
        alone = vlm.language.model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
        ).logits
    assert torch.equal(with_images, alone)


@pytest.mark.parametrize("family", FAMILIES)
def test_open_gates_use_the_image_and_never_before_it(family: str, batch: dict[str, torch.Tensor]) -> None:
    vlm = model(family)
    with torch.no_grad():
        one = vlm(**batch).logits
        other = vlm(**{**batch, "pixel_values": batch["pixel_values"] + 1}).logits
    change = (one - other).abs().amax(dim=-1)
    assert change[0].min() > 0 and change[1, 2:].min() > 0 and change[2, 5:].min() > 0
    assert change[1, :2].max() == 0 and change[2, :5].max() == 0


@pytest.mark.parametrize("attend", ["last", "all"])
def test_a_row_sees_its_last_image_or_all_before(attend: str, batch: dict[str, torch.Tensor]) -> None:
    vlm = model("llama", attend=attend)
    changed = batch["pixel_values"].clone()
    changed[1, 0] += 1
    with torch.no_grad():
        change = (vlm(**batch).logits - vlm(**{**batch, "pixel_values": changed}).logits).abs().amax(dim=-1)
    assert change[[0, 2]].max() == 0
    assert change[1, :2].max() == 0
    assert change[1, 2:6].min() > 0
    # What came in through the first image stays in the text's own memory; a position after the second that looks at the
    # first again differs from one that does not by more than that.
    hidden_only = model("llama", attend="last", place="after")
    sight = [
        m.look(m.remember(m.encode_images(batch["pixel_values"], batch["image_mask"])), batch["input_ids"] == IMAGE)
        for m in (vlm, hidden_only)
    ]
    first_image = sight[0].visible[1, 6:, :4]
    assert first_image.all() if attend == "all" else not first_image.any()


@pytest.mark.parametrize("family", FAMILIES)
def test_cache_is_as_no_cache(family: str, batch: dict[str, torch.Tensor]) -> None:
    vlm = model(family)
    with torch.inference_mode():
        cached = vlm.generate(**batch, max_new_tokens=6, do_sample=False)
        plain = vlm.generate(**batch, max_new_tokens=6, do_sample=False, use_cache=False)
        cut = {name: tensor[:, :9] if name in ("input_ids", "attention_mask") else tensor for name, tensor in batch.items()}
        first = vlm(**cut, use_cache=True)
        rest = vlm(
            input_ids=batch["input_ids"][:, 9:], attention_mask=batch["attention_mask"], past_key_values=cache_in(first)
        ).logits
        whole = vlm(**batch).logits
    assert torch.equal(cached, plain)
    assert (rest - whole[:, 9:]).abs().max() <= 1e-5 * whole.abs().max()


@pytest.mark.parametrize("family", FAMILIES)
def test_left_padding_is_as_right_padding(family: str, batch: dict[str, torch.Tensor]) -> None:
    vlm = model(family)
    padded = {}
    for side, pad in (("left", (5, 0)), ("right", (0, 5))):
        padded[side] = {
            **batch,
            "input_ids": torch.nn.functional.pad(batch["input_ids"], pad),
            "attention_mask": torch.nn.functional.pad(batch["attention_mask"], pad),
        }
    with torch.no_grad():
        whole = vlm(**batch).logits
        left = vlm(**padded["left"]).logits[:, 5:]
        right = vlm(**padded["right"]).logits[:, :-5]
    scale = whole.abs().max()
    assert (left - whole).abs().max() <= 1e-5 * scale
    assert (right - whole).abs().max() <= 1e-5 * scale


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_generates_as_its_rows_one_by_one(family: str, batch: dict[str, torch.Tensor]) -> None:
    vlm = model(family)
    lengths = (12, 8, 6)
    ids, mask = torch.zeros_like(batch["input_ids"]), torch.zeros_like(batch["input_ids"])
    for index, length in enumerate(lengths):
        ids[index, 12 - length :] = batch["input_ids"][index, :length]
        mask[index, 12 - length :] = 1
    with torch.inference_mode():
        together = vlm.generate(**{**batch, "input_ids": ids, "attention_mask": mask}, max_new_tokens=6, do_sample=False)
        for index, length in enumerate(lengths):
            alone = row(batch, index)
            alone["input_ids"], alone["attention_mask"] = alone["input_ids"][:, :length], alone["attention_mask"][:, :length]
            assert torch.equal(vlm.generate(**alone, max_new_tokens=6, do_sample=False)[0, length:], together[index, 12:])


@pytest.mark.parametrize("family", FAMILIES)
def test_beams_are_as_expanded_rows(family: str, batch: dict[str, torch.Tensor]) -> None:
    """With beams, every hypothesis must have its own row's images: scores equal those of the sequence run as a row."""
    vlm = model(family)
    beams = 3
    with torch.inference_mode():
        out = vlm.generate(
            **batch,
            max_new_tokens=5,
            do_sample=False,
            num_beams=beams,
            num_return_sequences=beams,
            length_penalty=0.0,
            return_dict_in_generate=True,
            output_scores=True,
        )
        expanded = {name: tensor.repeat_interleave(beams, dim=0) for name, tensor in batch.items()}
        expanded["input_ids"] = out.sequences
        expanded["attention_mask"] = torch.ones_like(out.sequences)
        logits = vlm(**expanded).logits[:, 11:-1].float()
    chosen = logits.log_softmax(dim=-1).gather(2, out.sequences[:, 12:, None]).sum(dim=(1, 2))
    assert torch.allclose(chosen, out.sequences_scores, rtol=1e-4, atol=1e-4)


def test_vision_runs_once_per_generation_and_follows_the_batch(batch: dict[str, torch.Tensor]) -> None:
    vlm = model("llama")
    calls: list[int] = []
    vlm.vision.register_forward_hook(lambda module, args, output: calls.append(len(args[0])))
    made: list[int] = []
    for block in vlm.layers.blocks:
        original = block.keys_values
        block.keys_values = lambda tokens, original=original: (made.append(1), original(tokens))[1]
    with torch.inference_mode():
        vlm.generate(**batch, max_new_tokens=6, do_sample=False)
    assert calls == [4]
    assert len(made) == len(vlm.layers.blocks)

    with torch.inference_mode():
        cache = cache_in(vlm(**batch, use_cache=True))
        kept = [layer.keys.clone() for layer in cache.layers if isinstance(layer, VisionCacheLayer)]
        cache.reorder_cache(torch.tensor([2, 0, 1]))
        moved = [layer.keys for layer in cache.layers if isinstance(layer, VisionCacheLayer)]
        assert all(torch.equal(new, old[[2, 0, 1]]) for new, old in zip(moved, kept, strict=True))
        cache.batch_repeat_interleave(2)
        cache.batch_select_indices(torch.tensor([0, 2, 4]))
        again = [layer.keys for layer in cache.layers if isinstance(layer, VisionCacheLayer)]
        assert all(torch.equal(new, old) for new, old in zip(again, moved, strict=True))
        cache.crop(-3)
        assert cache.get_seq_length() == 9
        assert all(
            torch.equal(layer.keys, old)
            for layer, old in zip((x for x in cache.layers if isinstance(x, VisionCacheLayer)), again, strict=True)
        )


def test_a_stale_image_in_the_cache_is_caught(batch: dict[str, torch.Tensor]) -> None:
    """Planted: beams that lose their rows' images. The test above must see it."""
    reorder = VisionCacheLayer.batch_select_indices
    VisionCacheLayer.batch_select_indices = lambda self, indices: reorder(self, indices.flip(0))
    try:
        with pytest.raises(AssertionError):
            test_beams_are_as_expanded_rows("llama", batch)
    finally:
        VisionCacheLayer.batch_select_indices = reorder


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointed_layers_give_the_same_gradients(family: str, batch: dict[str, torch.Tensor]) -> None:
    """Layers are recomputed after the forward has ended; they must see the images they saw the first time."""
    labels = batch["input_ids"].masked_fill(batch["input_ids"] == IMAGE, -100)
    gradients = []
    for checkpointing in (False, True):
        vlm = model(family)
        vlm.requires_grad_(True)
        vlm.train()
        for module in vlm.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if checkpointing:
            enable_checkpointing(vlm)
        first = vlm(**batch, labels=labels).loss
        second = vlm(**{**batch, "pixel_values": batch["pixel_values"] + 1}, labels=labels).loss
        (first + 2 * second).backward()  # two forwards before one backward: each must find its own images
        gradients.append({name: p.grad for name, p in vlm.named_parameters()})
    for name, expected in gradients[0].items():
        got = gradients[1][name]
        if expected is None:
            assert got is None
        else:
            assert torch.allclose(got, expected, rtol=1e-4, atol=1e-6), name
    assert any("connector.1.blocks" in name and g.abs().max() > 0 for name, g in gradients[1].items() if g is not None)


def test_the_language_models_own_names_stay(batch: dict[str, torch.Tensor]) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    vlm = model("llama")
    alone = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **FAMILIES["llama"]))
    assert set(vlm.language.model.state_dict()) == set(alone.state_dict())
    blocks = {id(parameter) for parameter in vlm.layers.parameters()}
    names = [name for name, parameter in vlm.named_parameters(remove_duplicate=False) if id(parameter) in blocks]
    assert len(names) == len(blocks)
    assert all(name.startswith("connector.1.blocks.") for name in names)


def test_a_deep_copy_is_a_model_of_its_own(batch: dict[str, torch.Tensor]) -> None:
    from copy import deepcopy

    vlm = model("llama")
    copy = deepcopy(vlm)
    with torch.no_grad():
        before = vlm(**batch).logits
        assert torch.equal(copy(**batch).logits, before)
        for gate in copy.layers.gates:
            gate.zero_()
        assert torch.equal(vlm(**batch).logits, before)
        assert not torch.equal(copy(**batch).logits, before)


def test_new_images_do_not_silently_replace_those_in_the_cache(batch: dict[str, torch.Tensor]) -> None:
    vlm = model("llama")
    with torch.inference_mode():
        cache = cache_in(vlm(**batch, use_cache=True))
        with pytest.raises(DataError, match=r"images came with a cache that holds 2 images per row already: pass the whole"):
            vlm(input_ids=batch["input_ids"], pixel_values=batch["pixel_values"], past_key_values=cache)


CHECKPOINTING = [name for name in dir(PreTrainedModel) if re.fullmatch("(gradient|activation)_checkpointing_enable", name)]
"""Every name under which this version of transformers turns activation checkpointing on."""


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", CHECKPOINTING)
def test_reentrant_checkpointing_is_refused_by_every_name(name: str) -> None:
    vlm = model("llama")
    with pytest.raises(ValueError, match="`use_reentrant=True` would recompute a decoder layer without the images"):
        getattr(vlm, name)({"use_reentrant": True})
    getattr(vlm, name)()
    checkpointed = [module for module in vlm.modules() if getattr(module, "gradient_checkpointing", False)]
    assert checkpointed
    for module in checkpointed:
        assert module._gradient_checkpointing_func.keywords["use_reentrant"] is False
        assert "context_fn" in module._gradient_checkpointing_func.keywords
