"""The cache goes by transformers' name for it, which is another one from 5.24 on; `forward` knows both."""

from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from small_models import CROSS, LLAMA, MLP, causal_lm, picture, section
from transformers import DynamicCache

import vlmzoo
from vlmzoo.model.vlm import VLM
from vlmzoo_registry import DataError
from vlmzoo_registry.compat.transformers import CACHE_KEYWORD, cache_in

SECTIONS = {
    "unified": section(language=causal_lm(LLAMA)),
    "cross_attention": section(architecture="cross_attention", connector=[*MLP, *CROSS], language=causal_lm(LLAMA)),
}


@pytest.fixture(params=SECTIONS)
def model(request: pytest.FixtureRequest) -> VLM:
    return vlmzoo.build(SECTIONS[request.param])


def batch(model: VLM) -> dict[str, Any]:
    return dict(model.processor(text=["what is it?"], images=[[picture(0)]]))


def test_the_name_is_that_of_the_installed_version() -> None:
    """A second source for what compat reads off generation's signature: the release that renamed it."""
    assert ("cache" if Version(transformers.__version__) >= Version("5.24") else "past_key_values") == CACHE_KEYWORD


@pytest.mark.parametrize("name", ["past_key_values", "cache"])
def test_either_name_is_read_and_written_to(name: str, model: VLM) -> None:
    inputs, cache = batch(model), DynamicCache(config=model.config.get_text_config())
    with torch.no_grad():
        out = model(**inputs, **{name: cache})
        assert cache_in(out) is cache
        assert cache.get_seq_length() == inputs["input_ids"].shape[1]
        following = out.logits[:, -1:].argmax(-1)
        longer = torch.cat([inputs["input_ids"], following], dim=1)
        whole = model(**{**inputs, "input_ids": longer, "attention_mask": torch.ones_like(longer)}).logits[:, -1]
        pieces = model(input_ids=following, attention_mask=torch.ones_like(longer), **{name: cache}).logits[:, -1]
    assert torch.allclose(pieces, whole, atol=1e-5)


def test_both_names_at_once_are_refused(model: VLM) -> None:
    cache = DynamicCache()
    with pytest.raises(DataError, match="`past_key_values` and `cache` were given: pass one of them"):
        model(**batch(model), past_key_values=cache, cache=cache)


def test_generation_goes_on_from_its_cache(model: VLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """An output under another name would give generation no cache: every step would read the whole text again."""
    read: list[int] = []
    decode = type(model.language).decode

    def counted(self: Any, embeddings: torch.Tensor, **options: Any) -> torch.Tensor:
        read.append(embeddings.shape[1])
        return decode(self, embeddings, **options)

    monkeypatch.setattr(type(model.language), "decode", counted)
    inputs = batch(model)
    ids = model.generate(**inputs, max_new_tokens=4, do_sample=False, eos_token_id=None)
    assert read == [inputs["input_ids"].shape[1], 1, 1, 1]
    assert ids.shape[1] == inputs["input_ids"].shape[1] + 4
