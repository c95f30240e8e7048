"""`vlmzoo.from_transformers`: what it takes over, what it refuses, and in which words."""

from pathlib import Path

import pytest
import torch
from exchange_models import TEXT, TOWER, llava, llava_processor, picture, shaken
from tokenizers.processors import TemplateProcessing
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MllamaConfig,
    MllamaForConditionalGeneration,
    MllamaProcessor,
    SiglipVisionConfig,
)
from transformers.models.mllama.configuration_mllama import MllamaTextConfig, MllamaVisionConfig
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

import vlmzoo
from vlmzoo.exchange.llava import LlavaExchange
from vlmzoo.exchange.names import Names
from vlmzoo_registry import AssemblyError, CheckpointError, ConfigError
from vlmzoo_registry.byte_tokenizer import BYTE_TOKENS, byte_tokenizer


def test_the_parts_are_those_of_the_zoo_and_nothing_is_shared() -> None:
    published = llava()
    model = vlmzoo.from_transformers(published)
    assert [type(part).__name__ for part in (model.vision, model.connector[0], model.language)] == [
        "TransformersVisionEncoder",
        "PerToken",
        "TransformersCausalLM",
    ]
    with torch.no_grad():
        model.connector[0].module[0].weight.zero_()
    assert published.model.multi_modal_projector.linear_1.weight.any()
    assert model.config.image_token_id == published.config.image_token_id
    assert model.processor is None


def test_with_its_processor_an_image_and_a_text_give_the_logits_of_both(tmp_path: Path) -> None:
    published, processor = llava(), llava_processor()
    model = vlmzoo.from_transformers(published, processor, template={"name": "vicuna_v1", "system": None})
    image = picture()
    theirs = processor(text=["USER: <image>what? ASSISTANT:"], images=[image], return_tensors="pt")
    own = model.processor(text="<image>what?", images=image)
    assert torch.equal(own["input_ids"], theirs["input_ids"])
    with torch.inference_mode():
        assert torch.equal(model(**own).logits, published(**theirs).logits)
    model.save_pretrained(tmp_path / "checkpoint")
    again = vlmzoo.load(tmp_path / "checkpoint")
    with torch.inference_mode():
        assert torch.equal(again(**again.processor(text="<image>what?", images=image)).logits, model(**own).logits)


def test_llama_vision_comes_with_its_processor_and_goes_back() -> None:
    """Its tokenizer begins every text; its processor wants that written out."""
    tokenizer = byte_tokenizer(["<|image|>"])
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", 1)]
    )
    clip = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
    processor = MllamaProcessor(
        image_processor=MllamaImageProcessorPil(size={"height": 32, "width": 32}, max_image_tiles=4, **clip),
        tokenizer=tokenizer,
    )
    tower = {
        **{key: value for key, value in TOWER.items() if key != "num_attention_heads"},
        "attention_heads": 4,
        "num_global_layers": 1,
        "intermediate_layers_indices": [0],
        "vision_output_dim": 64,
    }
    text = {**TEXT, "vocab_size": BYTE_TOKENS, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
    config = MllamaConfig(
        vision_config=MllamaVisionConfig(**tower),
        text_config=MllamaTextConfig(**{**text, "num_hidden_layers": 3}, cross_attention_layers=[1]),
        image_token_index=BYTE_TOKENS,
    )
    model = vlmzoo.from_transformers(
        shaken(MllamaForConditionalGeneration(config)), processor, template={"name": "vicuna_v1", "system": None}
    )
    assert model.config.model["layout"] == {"name": "layouts/canvas", "max_tiles": 4}
    exported = vlmzoo.to_transformers(model)
    assert type(exported.processor).__name__ == "MllamaProcessor"
    assert exported.difference == 0.0


def test_training_goes_on_where_it_was() -> None:
    published = llava().train()
    vlmzoo.from_transformers(published)
    assert published.training


def test_16_bit_stays_16_bit_in_the_language_model() -> None:
    model = vlmzoo.from_transformers(llava(torch.bfloat16))
    assert {parameter.dtype for parameter in model.language.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in model.vision.parameters()} == {torch.float32}


def test_overrides_change_what_is_computed() -> None:
    model = vlmzoo.from_transformers(llava(), overrides=["vision.layers=[-3]"])
    assert model.config.model["vision"]["layers"] == [-3]


def test_a_class_that_is_not_known_is_refused_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"`LlamaForCausalLM` is none of the classes .*: LlavaForConditionalGeneration, "):
        vlmzoo.from_transformers(LlamaForCausalLM(LlamaConfig(**TEXT)))


def test_a_model_without_a_processor_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no processor, and a checkpoint holds its tokenizer"):
        vlmzoo.from_transformers(llava()).save_pretrained(tmp_path / "checkpoint")


def test_a_patch_is_never_taken_for_a_class_token() -> None:
    config = LlavaConfig(vision_config=SiglipVisionConfig(**TOWER), text_config=LlamaConfig(**TEXT))
    with pytest.raises(AssemblyError, match="cuts 1 token, and `siglip_vision_model` has 0 before its patches"):
        vlmzoo.from_transformers(LlavaForConditionalGeneration(config))


def test_the_embedding_is_no_layer() -> None:
    with pytest.raises(AssemblyError, match=r"names \[0\]: that is not the output of one of the tower's 3 blocks"):
        vlmzoo.from_transformers(llava(vision_feature_layer=0))


def test_an_activation_that_no_connector_has_is_refused() -> None:
    with pytest.raises(AssemblyError, match=r"`projector_hidden_act` \(=quick_gelu\) is none of those"):
        vlmzoo.from_transformers(llava(projector_hidden_act="quick_gelu"))


def test_a_processor_that_does_more_is_refused_with_every_step() -> None:
    processor = llava_processor(do_normalize=False, rescale_factor=1 / 127, size={"shortest_edge": 40})
    with pytest.raises(AssemblyError) as error:
        vlmzoo.from_transformers(llava(), processor)
    assert len(error.value.reasons) == 3
    assert error.value.reasons[0] == "`do_normalize: false`, and an encoder's transform always does that"


def test_a_processor_that_counts_otherwise_is_refused() -> None:
    processor = llava_processor()
    processor.num_additional_image_tokens = 0
    with pytest.raises(AssemblyError) as error:
        vlmzoo.from_transformers(llava(), processor)
    assert error.value.message == "the processor of Llava and that of the zoo model make other inputs"
    assert error.value.reasons[1].startswith("`input_ids`: [1, ")


def test_weights_in_the_wrong_places_are_seen_by_the_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    names = LlavaExchange.names

    def crossed(self: LlavaExchange, config: LlavaConfig) -> Names:
        first, second = "model.language_model.layers.0", "model.language_model.layers.1"
        here = "language.model.model.layers"
        return Names((*names(self, config).pairs, (first, f"{here}.1"), (second, f"{here}.0")))

    monkeypatch.setattr(LlavaExchange, "names", crossed)
    with pytest.raises(AssemblyError, match="with the same weights LlavaForConditionalGeneration and the zoo model give other"):
        vlmzoo.from_transformers(llava())
