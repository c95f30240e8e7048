"""Gated cross-attention against transformers' Mllama and IDEFICS layers, and against loops written from the formula."""

import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from transformers import IdeficsConfig
from transformers.models.idefics.modeling_idefics import IdeficsGatedCrossAttentionLayer
from transformers.models.mllama.configuration_mllama import MllamaTextConfig
from transformers.models.mllama.modeling_mllama import MllamaCrossAttentionDecoderLayer, _prepare_cross_attention_mask

from vlmzoo_connectors.config import CrossAttentionConfig
from vlmzoo_connectors.cross_attention import CrossAttention
from vlmzoo_registry import AssemblyError, ConnectorContext, FeatureShape, LayersConnector

WIDTH, TOKEN_WIDTH, TEXT, TOKENS = 24, 10, 5, 6


def connector(depth=4, width=WIDTH, token_width=TOKEN_WIDTH, **options) -> CrossAttention:
    options = {"every": 1, "heads": 4, "head_width": 6, **options}
    return CrossAttention(
        CrossAttentionConfig(**options), ConnectorContext(FeatureShape(token_width, 9, None), None, width, depth)
    )


def inputs(dtype=torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states, image tokens, and a mask whose first row in each sample sees nothing, the second only some."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, TEXT, WIDTH, generator=generator).to(dtype)
    tokens = torch.randn(2, TOKENS, TOKEN_WIDTH, generator=generator).to(dtype)
    visible = torch.ones(2, TEXT, TOKENS, dtype=torch.bool)
    visible[:, 0] = False
    visible[:, 1, :2] = False
    return hidden, tokens, visible


def opened(built: CrossAttention) -> CrossAttention:
    """The same with every tensor at random, gates included."""
    for parameter in built.parameters():
        nn.init.normal_(parameter, std=0.5)
    return built


def run(block, hidden, tokens, visible):
    return block(hidden, *block.keys_values(tokens), visible)


def assert_same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Equal to 1e-6 of the largest value: float32 sums in another order differ by that much."""
    assert (ours - theirs).abs().max() <= 1e-6 * theirs.abs().max()


# Parity


def mllama_pair(masked_rows):
    config = MllamaTextConfig(
        hidden_size=WIDTH, num_attention_heads=4, num_key_value_heads=2, intermediate_size=40, num_hidden_layers=1,
        cross_attention_layers=[0], rms_norm_eps=1e-5, pad_token_id=0,
    )  # fmt: skip
    config._attn_implementation = "sdpa"
    theirs = MllamaCrossAttentionDecoderLayer(config, layer_idx=0)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.5)
    ours = connector(
        token_width=WIDTH, form="llama", key_value_heads=2, feedforward_width=40, head_width=None, masked_rows=masked_rows
    ).blocks[0]
    names = {
        "attention_norm.weight": "input_layernorm.weight",
        "query.weight": "cross_attn.q_proj.weight",
        "key.weight": "cross_attn.k_proj.weight",
        "value.weight": "cross_attn.v_proj.weight",
        "output.weight": "cross_attn.o_proj.weight",
        "query_norm.weight": "cross_attn.q_norm.weight",
        "key_norm.weight": "cross_attn.k_norm.weight",
        "attention_gate": "cross_attn_attn_gate",
        "feedforward_norm.weight": "post_attention_layernorm.weight",
        "gate.weight": "mlp.gate_proj.weight",
        "up.weight": "mlp.up_proj.weight",
        "down.weight": "mlp.down_proj.weight",
        "feedforward_gate": "cross_attn_mlp_gate",
    }
    state = theirs.state_dict()
    assert set(names.values()) == set(state)
    ours.load_state_dict({mine: state[other] for mine, other in names.items()})
    return ours, theirs


def run_mllama(theirs, hidden, tokens, visible):
    mask, rows = _prepare_cross_attention_mask(visible[:, :, None, :].float(), 1, torch.float32)
    return theirs(
        hidden,
        cross_attention_states=tokens,
        cross_attention_mask=mask,
        attention_mask=None,
        full_text_row_masked_out_mask=rows,
    )


@pytest.mark.parametrize("masked_rows", ["zero", "hf_mllama"])
def test_llama_block_is_mllamas_where_every_row_sees_something(masked_rows):
    ours, theirs = mllama_pair(masked_rows)
    hidden, _, visible = inputs()
    tokens = torch.randn(2, TOKENS, WIDTH)
    visible[:, 0, 3] = True
    assert_same(run(ours, hidden, tokens, visible), run_mllama(theirs, hidden, tokens, visible))


def test_llama_block_leaks_exactly_as_mllama_does_when_asked_to():
    ours, theirs = mllama_pair("hf_mllama")
    hidden, _, visible = inputs()
    tokens = torch.randn(2, TOKENS, WIDTH)
    expected = run_mllama(theirs, hidden, tokens, visible)
    assert_same(run(ours, hidden, tokens, visible), expected)
    assert (expected[:, 0] - hidden[:, 0]).abs().max() > 1e-2  # the leak is there to be reproduced
    sealed, _ = mllama_pair("zero")
    sealed.load_state_dict(ours.state_dict())
    came = run(sealed, hidden, tokens, visible)
    assert torch.equal(came[:, 0], hidden[:, 0])
    assert_same(came[:, 1:], expected[:, 1:])


@pytest.mark.parametrize(("query_key_norm", "gate"), [(True, "scalar"), (False, "vector")])
def test_llama_block_is_that_of_idefics(query_key_norm, gate):
    config = IdeficsConfig(
        hidden_size=WIDTH, num_attention_heads=4, intermediate_size=40, hidden_act="silu", rms_norm_eps=1e-6,
        qk_layer_norms=query_key_norm, vision_config={"embed_dim": TOKEN_WIDTH},
        alpha_type="float" if gate == "scalar" else "vector",
    )  # fmt: skip
    config._attn_implementation = "sdpa"
    theirs = IdeficsGatedCrossAttentionLayer(config, layer_idx=0)
    names = {
        "attention_norm.weight": "input_layernorm.weight",
        "query.weight": "cross_attn.q_proj.weight",
        "key.weight": "cross_attn.k_proj.weight",
        "value.weight": "cross_attn.v_proj.weight",
        "output.weight": "cross_attn.o_proj.weight",
        "attention_gate": "alpha_cross_attn",
        "feedforward_norm.weight": "post_attention_layernorm.weight",
        "gate.weight": "mlp.gate_proj.weight",
        "up.weight": "mlp.up_proj.weight",
        "down.weight": "mlp.down_proj.weight",
        "feedforward_gate": "alpha_dense",
    }
    if query_key_norm:
        names |= {"query_norm.weight": "cross_attn.q_layer_norm.weight", "key_norm.weight": "cross_attn.k_layer_norm.weight"}
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.5)
    state = theirs.state_dict()
    assert set(names.values()) == set(state)
    ours = connector(
        form="llama", query_key_norm=query_key_norm, feedforward_width=40, norm_epsilon=1e-6, gate=gate,
        masked_rows="feedforward",
    ).blocks[0]  # fmt: skip
    flat = {
        mine: state[other].flatten() if "gate" in mine and "." not in mine else state[other] for mine, other in names.items()
    }
    ours.load_state_dict(flat)

    hidden, tokens, visible = inputs()
    sees = visible.any(dim=2)
    # It masks with a large number, so that a row that sees nothing attends to everything and is then closed by its gate.
    mask = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)[:, None]
    expected = theirs(hidden, image_hidden_states=tokens, image_attention_mask=mask, cross_attention_gate=sees.float())
    came = run(ours, hidden, tokens, visible)
    assert_same(came, expected)
    assert not torch.equal(came[:, 0], hidden[:, 0])  # the feed-forward runs where nothing is seen ...
    assert torch.equal(came[:, 0], run(ours, hidden, tokens + 1, visible)[:, 0])  # ... and what is in the image does not leak


@pytest.mark.parametrize("gate", ["scalar", "vector"])
@pytest.mark.parametrize("masked_rows", ["zero", "feedforward"])
def test_flamingo_block_is_what_the_formula_says(masked_rows, gate):
    block = opened(connector(feedforward_multiplier=2, masked_rows=masked_rows, gate=gate)).double().blocks[0]
    assert block.attention_gate.shape == block.feedforward_gate.shape == (1 if gate == "scalar" else WIDTH,)
    hidden, tokens, visible = inputs(torch.float64)
    expected = slow_flamingo(block, hidden, tokens, visible)
    torch.testing.assert_close(run(block, hidden, tokens, visible), expected, rtol=1e-10, atol=1e-10)


def slow_norm(x, norm):
    centred = x - x.mean()
    return centred / torch.sqrt((centred**2).mean() + norm.eps) * norm.weight + norm.bias


def slow_flamingo(block, hidden, tokens, visible):
    came = hidden.clone()
    norm, first, _, second = block.feedforward
    for sample in range(hidden.shape[0]):
        for position in range(hidden.shape[1]):
            seen = [token for token, sees in zip(tokens[sample], visible[sample, position], strict=True) if sees]
            if not seen and block.masked_rows == "zero":
                continue
            heads = []
            for head in range(block.heads if seen else 0):
                rows = slice(6 * head, 6 * head + 6)
                query = block.query.weight[rows] @ slow_norm(hidden[sample, position], block.norm)
                scores = torch.stack([query @ (block.key.weight[rows] @ token) / math.sqrt(6) for token in seen])
                shares = torch.exp(scores) / torch.exp(scores).sum()
                heads.append(sum(share * (block.value.weight[rows] @ token) for share, token in zip(shares, seen, strict=True)))
            x = hidden[sample, position]
            if seen:
                x = x + torch.tanh(block.attention_gate) * (block.output.weight @ torch.cat(heads))
            inner = first.weight @ slow_norm(x, norm)
            inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
            came[sample, position] = x + torch.tanh(block.feedforward_gate) * (second.weight @ inner)
    return came


# Rows that see nothing, gates, gradients


@pytest.mark.parametrize("form", ["flamingo", "llama"])
def test_rows_that_see_nothing_come_back_bit_for_bit_and_the_gradient_stays_finite(form):
    built = opened(connector(form=form))
    hidden, tokens, visible = inputs()
    hidden.requires_grad_()
    tokens.requires_grad_()
    came = run(built.blocks[0], hidden, tokens, visible)
    assert torch.equal(came[:, 0], hidden[:, 0])
    assert not torch.equal(came[:, 1], hidden[:, 1])
    came.square().sum().backward()
    for tensor in (hidden, tokens, *built.blocks[0].parameters()):
        assert tensor.grad.isfinite().all()
        assert tensor.grad.abs().sum() > 0
    torch.testing.assert_close(hidden.grad[:, 0], 2 * hidden[:, 0].detach(), rtol=0, atol=0)

    tokens.grad = None
    run(built.blocks[0], hidden, tokens, visible)[:, 0].sum().backward()
    assert torch.equal(tokens.grad, torch.zeros_like(tokens))  # nothing flows from such a row into the image


@pytest.mark.parametrize("form", ["flamingo", "llama"])
def test_a_batch_that_sees_nothing_at_all(form):
    block = opened(connector(form=form)).blocks[0]
    hidden, tokens, visible = inputs()
    for count in (TOKENS, 0):
        came = run(block, hidden, tokens[:, :count], torch.zeros_like(visible[:, :, :count]))
        assert torch.equal(came, hidden)
        came.sum().backward()
        assert all(parameter.grad.isfinite().all() for parameter in block.parameters())


@pytest.mark.parametrize("form", ["flamingo", "llama"])
@pytest.mark.parametrize("masked_rows", ["zero", "feedforward", "hf_mllama"])
def test_gates_start_shut_and_are_named(form, masked_rows):
    built = connector(form=form, masked_rows=masked_rows)
    hidden, tokens, visible = inputs()
    for block in built.blocks:
        assert torch.equal(run(block, hidden, tokens, visible), hidden)
    named = {id(gate) for gate in built.gates}
    assert {name.split(".")[2] for name, tensor in built.named_parameters() if id(tensor) in named} == {
        "attention_gate",
        "feedforward_gate",
    }
    assert len(named) == len(built.gates) == 2 * len(built.blocks)

    run(built.blocks[0], hidden, tokens, visible).square().sum().backward()
    for name, tensor in built.blocks[0].named_parameters():
        assert bool(tensor.grad.abs().sum() > 0) == (id(tensor) in named), name


@pytest.mark.parametrize("form", ["flamingo", "llama"])
def test_hidden_tokens_change_nothing(form):
    block = opened(connector(form=form)).blocks[0]
    hidden, tokens, visible = inputs()
    other = tokens.clone()
    other[:, :2] += 1.0
    first, second = run(block, hidden, tokens, visible), run(block, hidden, other, visible)
    assert torch.equal(first[:, :2], second[:, :2])
    assert not torch.equal(first[:, 2:], second[:, 2:])


@pytest.mark.parametrize("form", ["flamingo", "llama"])
def test_builds_on_meta_with_the_same_tensors(form):
    with torch.device("meta"):
        described = connector(form=form)
    shapes = [{name: t.shape for name, t in each.state_dict().items()} for each in (described, connector(form=form))]
    assert shapes[0] == shapes[1]


# Placement


@pytest.mark.parametrize(
    ("options", "placement"),
    [
        ({"every": 1}, (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)),
        ({"every": 4}, (0, 4, 8)),
        ({"every": 4, "place": "after"}, (3, 7)),
        ({"every": 10, "place": "after"}, (9,)),
        ({"every": 30}, (0,)),
        ({"every": None, "layers": (3, 8)}, (3, 8)),
    ],
)
def test_placement(options, placement):
    built = connector(depth=10, attend="all", masked_rows="hf_mllama", **options)
    assert isinstance(built, LayersConnector)
    assert built.placement == placement
    assert len(built.blocks) == len(placement)
    assert (built.place, built.attend, built.masked_rows) == (options.get("place", "before"), "all", "hf_mllama")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": None, "layers": (3, 10, 12)}, r"`layers` names \[10, 12\], and the decoder has 10 layers: the last is 9"),
        ({"every": 11, "place": "after"}, r"`every` \(=11\) with `place: after` puts no block into a decoder of 10 layers"),
        (
            {"form": "llama", "heads": 5, "head_width": None},
            r"`heads` \(=5\) must divide the language width \(=24\) unless `head_width` is given",
        ),
        ({"depth": 0}, r"decoder layers, and the language model names none: `language_depth` \(=0\), `language_width` \(=24\)"),
    ],
)
def test_misfits_name_both_numbers(options, message):
    with pytest.raises(AssemblyError, match=message):
        connector(**{"depth": 10, **options})


def test_all_misfits_are_said_at_once():
    with pytest.raises(AssemblyError) as caught:
        connector(depth=2, every=None, layers=(2,), form="llama", heads=5, head_width=None)
    assert len(caught.value.reasons) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": None}, "exactly one of `every` and `layers` says where the blocks go; neither is given"),
        ({"every": 2, "layers": [1]}, r"both are given \(every=2, layers=\(1,\)\)"),
        ({"layers": [3, 1]}, r"`layers` \(=\[3, 1\]\) must name at least one layer, ascending, each once"),
        ({"layers": [1, 1]}, "each once"),
        ({"layers": []}, "at least one layer"),
        ({"layers": [-1]}, "greater than or equal to 0"),
        (
            {"every": 1, "key_value_heads": 2},
            r"`key_value_heads` \(=2\) is read with `form: llama` only, not with `form: flamingo`",
        ),
        ({"every": 1, "query_key_norm": True}, r"`query_key_norm` \(=True\) is read with `form: llama` only"),
        (
            {"every": 1, "form": "llama", "heads": 8, "key_value_heads": 3},
            r"`heads` \(=8\) must be divisible by `key_value_heads` \(=3\)",
        ),
        ({"every": 1, "feedforward_multiplier": 2, "feedforward_width": 8}, "say the same thing; give one"),
        ({"evry": 1}, "Extra inputs are not permitted"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        CrossAttentionConfig(**options)


def test_every_fourth_layer_unless_said_otherwise():
    assert (CrossAttentionConfig().every, CrossAttentionConfig().layers) == (4, None)
    assert CrossAttentionConfig(layers=(1,)).every is None


def test_options_survive_a_round_trip():
    for options in ({"every": 1}, {"layers": (1, 3), "form": "llama", "key_value_heads": 2, "query_key_norm": False}):
        config = CrossAttentionConfig(**options)
        assert CrossAttentionConfig(**config.model_dump(mode="json")) == config
