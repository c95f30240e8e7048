"""A prefix that sees itself in both directions, against transformers' PaliGemma with the same weights."""

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, DynamicCache, PaliGemmaConfig, PaliGemmaForConditionalGeneration

from vlmzoo_registry import ConfigError
from vlmzoo_transformers.causal_lm import TransformersCausalLM
from vlmzoo_transformers.config import CausalLMConfig

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 300,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
VISION = {
    "model_type": "siglip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
WINDOWED = TEXT | {"sliding_window": 4}
# Up to transformers 5.22 the class leaves Gemma 2's soft cap of the logits out.
CAPPED = "softcapping" in inspect.getsource(PaliGemmaForConditionalGeneration.forward)
FAMILIES = {
    "gemma": TEXT,
    "gemma2": WINDOWED,
    "gemma3_text": WINDOWED | {"layer_types": ["sliding_attention"] * 2 + ["full_attention"]},
}


def pair(family: str, attention: str) -> tuple[TransformersCausalLM, Any]:
    """The same weights in both."""
    config = PaliGemmaConfig(
        text_config=AutoConfig.for_model(family, **FAMILIES[family]).to_dict(),
        vision_config=VISION,
        projection_dim=32,
        image_token_index=299,
        pad_token_id=0,
        attn_implementation=attention,
    )
    reference = PaliGemmaForConditionalGeneration(config).eval()
    fields = reference.config.text_config.to_diff_dict() | {"model_type": family}
    ours = TransformersCausalLM(CausalLMConfig(config=fields, attention=attention, prefix="required"))
    ours.model.model.load_state_dict(reference.model.language_model.state_dict())
    ours.model.lm_head.weight.data.copy_(reference.lm_head.weight.data)
    return ours, reference


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Ids, attention mask and prefix of three rows: whole, padded on the left, padded on the right."""
    ids = torch.randint(3, 290, (3, 11))
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    mask[2, -2:] = 0
    prefix = torch.arange(11) < torch.tensor([[7], [8], [5]])
    return ids, mask, prefix & mask.bool()


@pytest.mark.parametrize(
    ("family", "attention"),
    [("gemma", "sdpa"), ("gemma", "eager"), ("gemma2", "eager"), ("gemma3_text", "sdpa"), ("gemma3_text", "eager")],
)
def test_a_prefix_is_that_of_paligemma(family: str, attention: str) -> None:
    ours, reference = pair(family, attention)
    ids, mask, prefix = batch()
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    with torch.no_grad():
        expected = reference(
            input_ids=ids, attention_mask=mask, token_type_ids=(~prefix).long(), position_ids=positions + 1
        ).logits
        hidden = ours.decode(ours.embedding(ids), attention_mask=mask, position_ids=positions + 1, prefix_mask=prefix)
        found = ours.head(hidden)
    if family == "gemma2" and not CAPPED:
        expected = torch.tanh(expected / 30.0) * 30.0
    assert torch.equal(found[mask.bool()], expected[mask.bool()])
    assert ours.prefix == "required"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prefix_is_read_once_and_continued_from_the_cache(family: str) -> None:
    ours, _ = pair(family, "eager")
    ids, mask, prefix = batch()
    ids, mask, prefix = ids[:2], mask[:2], prefix[:2]  # generation pads on the left
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    with torch.no_grad():
        whole = ours.decode(ours.embedding(ids), attention_mask=mask, position_ids=positions, prefix_mask=prefix)
        cache = DynamicCache(config=ours.text_config)
        pieces = []
        for begin, end in ((0, 8), (8, 9), (9, 10), (10, 11)):
            pieces.append(
                ours.decode(
                    ours.embedding(ids[:, begin:end]),
                    attention_mask=mask[:, :end],
                    position_ids=positions[:, begin:end],
                    cache=cache,
                    prefix_mask=prefix[:, begin:end] if begin == 0 else None,
                )
            )
    assert (torch.cat(pieces, dim=1) - whole)[mask.bool()].abs().max() <= 1e-5 * whole.abs().max()


@pytest.mark.parametrize("family", ["gemma2", "llama"])
def test_the_prefix_and_nothing_else_sees_what_comes_after(family: str) -> None:
    config = FAMILIES.get(family, TEXT)
    ours = TransformersCausalLM(CausalLMConfig(config={"model_type": family, **config}, prefix="optional"))
    ids = torch.randint(3, 290, (1, 11))
    prefix = torch.arange(11)[None] < 7
    with torch.no_grad():
        first = ours.decode(ours.embedding(ids), prefix_mask=prefix)
        for place in range(11):
            other = ids.clone()
            other[0, place] = (ids[0, place] + 1) % 290
            moved = (ours.decode(ours.embedding(other), prefix_mask=prefix) != first).any(dim=2)[0]
            assert moved[: 7 if place < 7 else place].all().item() is (place < 7)
            assert moved[:place].any().item() is (0 < place < 7)


def test_a_family_that_cannot_is_refused_when_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    bloom = {"model_type": "bloom", "hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 300}
    assert TransformersCausalLM(CausalLMConfig(config=bloom)).prefix == "none"
    with pytest.raises(ConfigError, match="`prefix`: `bloom` "):
        TransformersCausalLM(CausalLMConfig(config=bloom, prefix="optional"))
    monkeypatch.setattr(TransformersCausalLM, "_masks", lambda *arguments: None)
    with pytest.raises(ConfigError, match="`prefix`: `llama` stays causal under a mask that opens a prefix"):
        TransformersCausalLM(CausalLMConfig(config={"model_type": "llama", **TEXT}, prefix="optional"))
