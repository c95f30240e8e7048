"""The text side of a model without a weight: the same rows as the built model's, and the same refusals."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import LLAMA, picture, section

import vlmzoo
from vlmzoo.config import load_model
from vlmzoo.model.vlm import PARTS
from vlmzoo.without_values import without_values
from vlmzoo_registry import AssemblyError


@pytest.mark.parametrize("architecture", ["unified", "cross_attention"])
def test_the_processor_is_that_of_the_built_model(architecture: str) -> None:
    config: dict[str, Any] = section(architecture=architecture)
    described, built = without_values(load_model(config)), vlmzoo.build(config)
    assert all(parameter.is_meta for part in PARTS for parameter in described.parts[part].parameters())
    assert described.processor.image_token == built.processor.image_token
    rows = [model.processor(text=["<image> and more", "words"], images=[[picture(3)], []]) for model in (described, built)]
    assert rows[0].keys() == rows[1].keys() >= {"input_ids", "pixel_values"}
    for name, tensor in rows[1].items():
        assert torch.equal(rows[0][name], tensor), name


def test_a_tokenizer_that_is_not_here_is_refused_by_its_part(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    bare = AutoConfig.for_model(**LLAMA)
    AutoModelForCausalLM.from_config(bare).save_pretrained(tmp_path)
    config = load_model(section(language={"name": "transformers/causal-lm", "model": str(tmp_path)}))
    said = r"^`language` \(transformers/causal-lm\): its tokenizer cannot be read: \S"
    for make in (without_values, vlmzoo.build):
        with pytest.raises(AssemblyError, match=said) as refused:
            make(config)
        assert "\n" not in str(refused.value)
