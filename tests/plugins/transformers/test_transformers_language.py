"""`transformers/causal-lm` against transformers itself, over families that no code here names."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from vlmzoo_registry import AssemblyError, ConfigError, PluginError
from vlmzoo_registry.byte_tokenizer import BYTE_TOKENS, byte_tokenizer
from vlmzoo_transformers.causal_lm import TransformersCausalLM
from vlmzoo_transformers.config import CausalLMConfig
from vlmzoo_transformers.logit_head import LogitTransform, find_head
from vlmzoo_transformers.trace import find_backbone, find_layers, probe, record_calls, run_backbone

IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "vocab_size": 300}
PLAIN = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4} | IDS
GROUPED = PLAIN | {"num_key_value_heads": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": GROUPED,
    "qwen3": GROUPED | {"head_dim": 8},
    "qwen3_moe": GROUPED | {"head_dim": 8, "num_experts": 9, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "gemma2": GROUPED | {"head_dim": 8},
    "phi3": GROUPED,
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4} | IDS,
    "opt": PLAIN | {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "mistral": GROUPED,
    "gpt_neox": PLAIN,
    "bloom": {"hidden_size": 32, "n_layer": 3, "n_head": 4} | IDS,
    "granite": GROUPED | {"embedding_multiplier": 12.0, "logits_scaling": 8.0},
    "cohere": GROUPED | {"logit_scale": 0.25},
    "bert": PLAIN | {"is_decoder": True},  # a layer of its own before the output layer
    "roberta": PLAIN | {"is_decoder": True},  # and positions that begin behind the padding's row
    "electra": PLAIN | {"is_decoder": True, "embedding_size": 32},  # two modules, one after the other
    "minicpm3": PLAIN
    | {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
    | {"num_key_value_heads": 4},  # hidden states are divided before they enter the output layer
}
HEADS: dict[str, tuple[tuple[str, ...], float]] = {
    "opt": (("lm_head",), 1.0),
    "bert": (("cls",), 1.0),
    "roberta": (("lm_head",), 1.0),
    "electra": (("generator_predictions", "generator_lm_head"), 1.0),
    "minicpm3": (("lm_head",), 256 / 32),
}
TRANSFORMS = {
    "gemma2": LogitTransform(cap=30.0),
    "granite": LogitTransform(scale=0.125),
    "cohere": LogitTransform(scale=0.25),
}


def config(family: str, **options: Any) -> CausalLMConfig:
    """A tiny random model of a family."""
    return CausalLMConfig(config={"model_type": family, **FAMILIES[family]}, **options)


@pytest.fixture
def ids() -> torch.Tensor:
    """Two rows."""
    return torch.randint(3, 290, (2, 9), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_decode_and_head_are_the_models_own_forward(family: str, ids: torch.Tensor) -> None:
    torch.manual_seed(0)
    language = TransformersCausalLM(config(family))
    mask = torch.ones_like(ids)
    positions = torch.arange(9)[None].expand(2, -1)
    with torch.no_grad():
        for parameter in language.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)  # logits large enough that a soft cap bends them
        expected = language.model(input_ids=ids, attention_mask=mask).logits
        hidden = language.decode(language.embedding(ids), attention_mask=mask, position_ids=positions)
        logits = language.head(hidden)
    assert torch.equal(logits, expected)
    assert language._head.transform == TRANSFORMS.get(family, LogitTransform())
    assert len(language.decoder_layers) == 3
    assert hidden.shape[-1] == language.width == 32


@pytest.mark.parametrize("family", FAMILIES)
def test_a_plan_finds_the_same_without_values(family: str) -> None:
    with torch.device("meta"):
        planned = TransformersCausalLM(config(family))
    built = TransformersCausalLM(config(family))
    assert len(planned.decoder_layers) == len(built.decoder_layers)
    assert {n: p.shape for n, p in planned.named_parameters()} == {n: p.shape for n, p in built.named_parameters()}


@pytest.mark.parametrize("family", FAMILIES)
def test_where_a_family_cannot_run_without_values_the_plan_goes_by_the_config(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with grouped experts under torch 2.11; planted here by a trace that always fails."""

    def refused(*_: Any) -> Any:
        raise RuntimeError("no kernel for meta tensors")

    built = len(TransformersCausalLM(config(family)).decoder_layers)
    with torch.device("meta"):
        planned = TransformersCausalLM(config(family))
    monkeypatch.setattr("vlmzoo_transformers.causal_lm.record_calls", refused)
    assert len(planned.decoder_layers) == built
    with pytest.raises(RuntimeError, match="no kernel"):
        _ = TransformersCausalLM(config(family)).decoder_layers


@pytest.mark.parametrize("family", FAMILIES)
def test_resolved_rebuilds_the_same_model(family: str, ids: torch.Tensor) -> None:
    first = TransformersCausalLM(config(family))
    second = TransformersCausalLM(TransformersCausalLM.resolve(config(family)))
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        a, b = (m.head(m.decode(m.embedding(ids))) for m in (first, second))
    assert torch.equal(a, b)


def test_a_pretrained_folder_is_loaded_with_its_tokenizer(tmp_path: Path, ids: torch.Tensor) -> None:
    reference = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **GROUPED)).eval()
    reference.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    language = TransformersCausalLM(CausalLMConfig(model=str(tmp_path)))
    with torch.no_grad():
        assert torch.equal(language.head(language.decode(language.embedding(ids))), reference(input_ids=ids).logits)
    assert language.tokenizer("héllo")["input_ids"] == byte_tokenizer()("héllo")["input_ids"]
    resolved = TransformersCausalLM.resolve(CausalLMConfig(model=str(tmp_path)))
    assert resolved.model is None
    assert resolved.config is not None and resolved.config["model_type"] == "llama"


def test_unknown_architectures_say_what_to_do() -> None:
    with pytest.raises(
        ConfigError, match=r"no transformers config was found on this machine\. Give a folder that holds `config\.json`"
    ):
        TransformersCausalLM.resolve(CausalLMConfig(model="nobody/nothing"))
    with pytest.raises(ConfigError, match="`config` is not an architecture of transformers"):
        TransformersCausalLM(CausalLMConfig(config={"model_type": "lama"}))
    with pytest.raises(ConfigError, match="transformers builds no causal language model of `clip_vision_model`"):
        TransformersCausalLM(CausalLMConfig(config={"model_type": "clip_vision_model"}))
    with pytest.raises(ConfigError, match=rf"`vocab_size` \(=100\) must be at least {BYTE_TOKENS}"):
        _ = TransformersCausalLM(CausalLMConfig(config={"model_type": "llama", **GROUPED, "vocab_size": 100})).tokenizer


@pytest.mark.parametrize(("tied", "dtype"), [(True, "float32"), (False, "float32"), (True, "bfloat16")])
def test_resize_keeps_old_rows_and_the_tie_and_starts_new_ones_at_the_mean(tied: bool, dtype: str) -> None:
    language = TransformersCausalLM(
        CausalLMConfig(config={"model_type": "llama", **GROUPED, "tie_word_embeddings": tied}, dtype=dtype)
    )
    old = language.embedding.weight.detach().clone()
    state = torch.get_rng_state()
    language.resize(303)
    assert torch.equal(torch.get_rng_state(), state)
    new = language.embedding.weight
    assert torch.equal(new[:300], old)
    assert torch.allclose(new[300:].float(), old.float().mean(dim=0).expand(3, -1), atol=1e-4)
    assert (language.model.get_output_embeddings().weight is new) is tied
    language.resize(200)
    assert language.embedding.weight.shape[0] == 303


def head_of(model: Any) -> Any:
    """The way from the backbone's hidden states to the logits."""
    hidden, _ = run_backbone(model, find_backbone(model))
    return find_head(model, find_backbone(model), hidden, lambda: model(inputs_embeds=probe(model), use_cache=False).logits)


def test_a_logit_function_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: logits that are squared after the output layer."""
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **GROUPED)).eval()
    forward = model.forward

    def squared(**arguments: Any) -> Any:
        output = forward(**arguments)
        output.logits = output.logits**2
        return output

    monkeypatch.setattr(model, "forward", squared)
    with pytest.raises(PluginError, match="by a function that is neither a scale nor a soft cap"):
        head_of(model)


def test_a_scale_before_a_soft_cap_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **GROUPED)).eval()
    forward = model.forward

    def bent(**arguments: Any) -> Any:
        output = forward(**arguments)
        output.logits = 20 * torch.tanh(0.5 * output.logits / 20)
        return output

    monkeypatch.setattr(model, "forward", bent)
    found = head_of(model).transform
    assert found.cap == pytest.approx(20)
    assert found.scale == pytest.approx(0.5, rel=1e-5)


def test_what_enters_the_output_layer_by_another_way_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: hidden states that are squared on their way."""
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **GROUPED)).eval()
    hidden, _ = run_backbone(model, model.model)
    model.lm_head.register_forward_pre_hook(lambda module, args: (args[0] ** 2,))
    with pytest.raises(
        PluginError, match="`llama`: its output layer `lm_head` does not get the backbone's `last_hidden_state`"
    ):
        find_head(model, model.model, hidden, lambda: model(inputs_embeds=probe(model)).logits)


@pytest.mark.parametrize("family", HEADS)
def test_what_stands_before_the_output_layer_belongs_to_the_head(family: str) -> None:
    found = TransformersCausalLM(config(family))._head
    assert found.modules == HEADS[family][0]
    assert found.entry == pytest.approx(HEADS[family][1], rel=1e-5)


def test_positions_are_counted_as_the_family_counts_them(ids: torch.Tensor) -> None:
    """RoBERTa's table begins behind the padding's row; zoo positions begin at 0, also behind a cache."""
    language = TransformersCausalLM(config("roberta"))
    assert language._first_position == 1
    assert TransformersCausalLM(config("gpt2"))._first_position == 0
    with torch.no_grad():
        for parameter in language.parameters():
            parameter.mul_(4)
        expected = language.reference_logits(ids)
        given = language.head(language.decode(language.embedding(ids), position_ids=torch.arange(9).expand(2, -1)))
        cache = DynamicCache(config=language.text_config)
        pieces = [language.head(language.decode(language.embedding(piece), cache=cache)) for piece in ids.split(5, dim=1)]
    assert torch.equal(given, expected)
    assert (torch.cat(pieces, dim=1) - expected).abs().max() <= 1e-5 * expected.abs().max()


class Shared(nn.Module):
    """One layer called twice (as ALBERT does), beside a longer list of experts."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 8)])
        self.experts = nn.ModuleList([nn.Linear(8, 8) for _ in range(5)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layers[0](self.layers[0](x))
        for index in (2, 0, 1, 3, 4):
            x = self.experts[index](x)
        return x


def test_lists_that_are_no_layers_are_not_taken_for_layers() -> None:
    model = Shared()
    calls = record_calls(model, lambda: model(torch.zeros(1, 3, 8)))
    assert find_layers(model, calls, 8) is None


def test_a_model_without_a_list_of_layers_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    language = TransformersCausalLM(config("llama"))
    monkeypatch.setattr("vlmzoo_transformers.causal_lm.find_layers", lambda *_: None)
    with pytest.raises(AssemblyError, match="`llama`: no single list of layers that one forward calls once each"):
        _ = language.decoder_layers
