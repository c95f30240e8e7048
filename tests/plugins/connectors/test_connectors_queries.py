"""Connectors whose learned queries gather what is in the image: against transformers' modules, and a second implementation."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn
from transformers import Blip2QFormerConfig, Idefics2Config, InstructBlipQFormerConfig
from transformers.models.blip_2.modeling_blip_2 import Blip2QFormerModel
from transformers.models.idefics2.modeling_idefics2 import Idefics2Connector
from transformers.models.instructblip.modeling_instructblip import InstructBlipQFormerModel

from vlmzoo_connectors.config import (
    CrossAttentionResamplerConfig,
    InstructedQFormerConfig,
    MlpConfig,
    PerceiverConfig,
    QFormerConfig,
)
from vlmzoo_connectors.cross_attention_resampler import CrossAttentionResampler
from vlmzoo_connectors.instructed_q_former import InstructedQFormer
from vlmzoo_connectors.mlp import mlp
from vlmzoo_connectors.perceiver import Perceiver
from vlmzoo_connectors.q_former import QFormer
from vlmzoo_connectors.sine_positions import resized, sine_positions
from vlmzoo_registry import AssemblyError, ConnectorContext, DataError, FeatureShape, VisionFeatures

LANGUAGE = 20


def context(width=12, grid=(4, 6), prefix=0, output=LANGUAGE, language=LANGUAGE) -> ConnectorContext:
    count = prefix + (grid[0] * grid[1] if grid else 7)
    return ConnectorContext(FeatureShape(width, count, grid, prefix), output, language, 2)


def features(where: ConnectorContext, dtype=torch.float32) -> VisionFeatures:
    tokens = torch.randn(2, where.input.count, where.input.width, generator=torch.Generator().manual_seed(0))
    return VisionFeatures(tokens.to(dtype), where.input.grid, where.input.prefix)


def randomised(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


def copy(ours: nn.Module, theirs: nn.Module) -> None:
    ours.load_state_dict(theirs.state_dict())


def assert_same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Equal to 1e-6 of the largest value: float32 sums in another order differ by that much."""
    assert (ours - theirs).abs().max() <= 1e-6 * theirs.abs().max()


# Perceiver


def test_gated_mlp_then_perceiver_is_idefics2s_connector_with_every_gradient():
    where = context(width=12, grid=(3, 4))
    config = Idefics2Config(
        vision_config={"hidden_size": 12},
        text_config={"model_type": "mistral", "hidden_size": LANGUAGE, "intermediate_size": 28, "hidden_act": "silu"},
        perceiver_config={
            "hidden_size": LANGUAGE, "resampler_n_latents": 5, "resampler_depth": 2, "resampler_n_heads": 4,
            "resampler_head_dim": 6, "num_key_value_heads": 2, "rms_norm_eps": 1e-6,
        },
    )  # fmt: skip
    theirs = randomised(Idefics2Connector(config)).double()
    first = mlp(MlpConfig(gated=True, hidden_width=28, activation="silu", bias=False), context(width=12, output=None)).double()
    options = PerceiverConfig(queries=5, depth=2, heads=4, key_value_heads=2, head_width=6)
    second = Perceiver(options, context(width=LANGUAGE)).double()
    pairs = {f"first.0.{name}.weight": f"modality_projection.{name}_proj.weight" for name in ("gate", "up", "down")}
    pairs |= {"second.latents": "perceiver_resampler.latents", "second.norm.weight": "perceiver_resampler.norm.weight"}
    for number in range(2):
        for mine, other in {
            "latent_norm": "input_latents_norm", "token_norm": "input_context_norm", "query": "self_attn.q_proj",
            "key": "self_attn.k_proj", "value": "self_attn.v_proj", "output": "self_attn.o_proj",
            "feedforward_norm": "post_attention_layernorm", "feedforward.gate": "mlp.gate_proj",
            "feedforward.up": "mlp.up_proj", "feedforward.down": "mlp.down_proj",
        }.items():  # fmt: skip
            pairs[f"second.layers.{number}.{mine}.weight"] = f"perceiver_resampler.layers.{number}.{other}.weight"
    ours, other = nn.ModuleDict({"first": first.module, "second": second}), dict(theirs.named_parameters())
    ours.load_state_dict({mine: other[name] for mine, name in pairs.items()})
    assert set(pairs.values()) == set(other)

    given = features(where, torch.float64)
    came = second(first(given))
    expected = theirs(given.tokens, torch.ones(given.tokens.shape[:2], dtype=torch.bool))
    # Its RMSNorm goes through float32 whatever comes in.
    torch.testing.assert_close(came.tokens, expected, rtol=1e-5, atol=1e-6)
    for tokens in (came.tokens, expected):
        tokens.square().mean().backward()
    mine = dict(ours.named_parameters())
    for name, theirs_name in pairs.items():
        gradient = other[theirs_name].grad
        assert (mine[name].grad - gradient).abs().max() <= 1e-5 * gradient.abs().max(), name


def test_perceiver_declares_what_comes_out_and_its_latents_start_apart():
    where = context(width=6, prefix=2, output=4)
    ours = Perceiver(PerceiverConfig(queries=3, depth=1, heads=2, key_value_heads=1, head_width=4), where)
    assert ours(features(where)).shape == ours.output_shape(where.input) == FeatureShape(4, 3, None)
    assert ours.latents.std(dim=0).min() > 0
    with pytest.raises(ValidationError, match=r"`heads` \(=8\) must be divisible by `key_value_heads` \(=3\)"):
        PerceiverConfig(heads=8, key_value_heads=3)


# Q-Former

LAYER = {
    "attention.query": "attention.attention.query", "attention.key": "attention.attention.key",
    "attention.value": "attention.attention.value", "attention.output": "attention.output.dense",
    "attention.norm": "attention.output.LayerNorm", "cross_attention.query": "crossattention.attention.query",
    "cross_attention.key": "crossattention.attention.key", "cross_attention.value": "crossattention.attention.value",
    "cross_attention.output": "crossattention.output.dense", "cross_attention.norm": "crossattention.output.LayerNorm",
    "feedforward.up": "intermediate_query.dense", "feedforward.down": "output_query.dense",
    "feedforward.norm": "output_query.LayerNorm",
}  # fmt: skip


def q_former_pair(where, depth=3, every=2):
    config = Blip2QFormerConfig(
        hidden_size=16, num_hidden_layers=depth, num_attention_heads=2, intermediate_size=24, encoder_hidden_size=12,
        cross_attention_frequency=every, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    theirs, projection = randomised(Blip2QFormerModel(config)), randomised(nn.Linear(16, LANGUAGE))
    ours = QFormer(
        QFormerConfig(queries=5, depth=depth, width=16, heads=2, feedforward_width=24, cross_attention_every=every), where
    )
    nn.init.normal_(ours.queries)
    state = {"queries": ours.queries.data}
    state |= {f"norm.{kind}": getattr(theirs.layernorm, kind) for kind in ("weight", "bias")}
    state |= {f"projection.{kind}": getattr(projection, kind) for kind in ("weight", "bias")}
    other, used = dict(theirs.encoder.layer.named_parameters()), set()
    for name in ours.state_dict():
        if name.startswith("layers."):
            _, number, part, kind = *name.split(".", 2)[:2], *name.split(".", 2)[2].rsplit(".", 1)
            used.add(f"{number}.{LAYER[part]}.{kind}")
            state[name] = other[f"{number}.{LAYER[part]}.{kind}"]
    assert used == set(other)  # cross-attention stands in the same layers, and nothing is left out
    ours.load_state_dict(state)
    return ours, theirs, projection


@pytest.mark.parametrize(("depth", "every"), [(3, 2), (2, 1), (4, 3)])
def test_q_former_is_blip2s(depth, every):
    where = context(prefix=1)
    ours, theirs, projection = q_former_pair(where, depth, every)
    given = features(where)
    queries = ours.queries.expand(2, -1, -1)
    expected = projection(theirs(query_embeds=queries, encoder_hidden_states=given.tokens)[0])
    assert_same(ours(given).tokens, expected)


def test_q_former_has_the_gradients_of_blip2s():
    where = context(prefix=1)
    ours, theirs, projection = (part.double() for part in q_former_pair(where))
    given = features(where, torch.float64)
    queries = ours.queries.detach().clone().requires_grad_()
    theirs_out = projection(theirs(query_embeds=queries.expand(2, -1, -1), encoder_hidden_states=given.tokens)[0])
    ours_out = ours(given).tokens
    torch.testing.assert_close(ours_out, theirs_out, rtol=1e-12, atol=1e-12)
    for tokens in (ours_out, theirs_out):
        tokens.square().mean().backward()
    torch.testing.assert_close(ours.queries.grad, queries.grad, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ours.norm.weight.grad, theirs.layernorm.weight.grad, rtol=1e-9, atol=1e-12)
    other = dict(theirs.encoder.layer.named_parameters())
    for name, parameter in ours.layers.named_parameters():
        number, rest = name.split(".", 1)
        part, kind = rest.rsplit(".", 1)
        torch.testing.assert_close(
            parameter.grad, other[f"{number}.{LAYER[part]}.{kind}"].grad, rtol=1e-8, atol=1e-12, msg=name
        )


def test_q_former_defaults_are_those_of_blip2():
    with torch.device("meta"):
        ours = QFormer(QFormerConfig(), context(width=1408, grid=(16, 16), prefix=1, output=2560, language=2560))
        theirs = Blip2QFormerModel(Blip2QFormerConfig())
    count = sum(parameter.numel() for parameter in theirs.parameters())
    added = 32 * 768 + 768 * 2560 + 2560
    assert sum(parameter.numel() for parameter in ours.parameters()) == count + added
    assert ours.token_count((16, 16), 257) == 32


def test_q_former_starts_as_bert_and_computes_in_its_own_precision():
    where = context(width=64)
    ours = QFormer(QFormerConfig(width=64, heads=2, feedforward_width=256, depth=2), where)
    for name, parameter in ours.named_parameters():
        if "norm" not in name:
            wanted = 0 if name.endswith("bias") else 0.02
            assert abs(parameter.std().item() - wanted) < 0.003, name
    given = features(where)
    exact = ours._gather(given.tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        # Only the last matrix, which is the language model's side of it, runs as the rest of the model does.
        assert not torch.equal(ours._gather(given.tokens), exact)
        assert torch.equal(ours(given).tokens, ours.projection(exact))
    with pytest.raises(ValidationError, match=r"`heads` \(=5\) must divide `width` \(=64\)"):
        QFormerConfig(width=64, heads=5)


# Q-Former that reads


def instructed_pair(where, depth=3):
    config = InstructBlipQFormerConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=depth, num_attention_heads=2, intermediate_size=24,
        encoder_hidden_size=12, max_position_embeddings=8, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    theirs, projection = randomised(InstructBlipQFormerModel(config)), randomised(nn.Linear(16, LANGUAGE))
    options = InstructedQFormerConfig(
        queries=5, depth=depth, width=16, heads=2, feedforward_width=24, vocabulary=30, positions=8
    )
    ours = InstructedQFormer(options, where)
    nn.init.normal_(ours.queries)
    state = {"queries": ours.queries.data}
    for mine, part in {
        "words": theirs.embeddings.word_embeddings, "positions": theirs.embeddings.position_embeddings,
        "norm": theirs.embeddings.layernorm, "projection": projection,
    }.items():  # fmt: skip
        state |= {f"{mine}.{kind}": tensor.data for kind, tensor in part.named_parameters()}
    layer = LAYER | {
        "text_feedforward.up": "intermediate.dense", "text_feedforward.down": "output.dense",
        "text_feedforward.norm": "output.LayerNorm",
    }  # fmt: skip
    other, used = dict(theirs.encoder.layer.named_parameters()), {}
    for name, _ in ours.layers.named_parameters():
        number, rest = name.split(".", 1)
        part, kind = rest.rsplit(".", 1)
        used[name] = f"{number}.{layer[part]}.{kind}"
        state[f"layers.{name}"] = other[used[name]]
    # What is left out is the feed-forward for words whose result nothing reads.
    last = f"{depth - 1}."
    assert {name.rsplit(".", 2)[0] for name in set(other) - set(used.values())} == {f"{last}intermediate", f"{last}output"}
    ours.load_state_dict(state)
    return ours.double(), theirs.double(), projection.double(), used


def run_instructblip(theirs, projection, queries, tokens, ids, mask):
    """As `InstructBlipModel.forward` has it: words after the queries, and only the queries come out."""
    expanded = queries.expand(len(tokens), -1, -1)
    came = theirs(
        input_ids=ids,
        attention_mask=torch.cat([torch.ones(expanded.shape[:2], dtype=torch.long), mask], dim=1),
        query_embeds=expanded,
        encoder_hidden_states=tokens,
        encoder_attention_mask=torch.ones(tokens.shape[:2], dtype=torch.long),
    )
    return projection(came[0][:, : queries.shape[0]])


def test_instructed_q_former_is_instructblips_with_every_gradient():
    where = context(prefix=1)
    ours, theirs, projection, used = instructed_pair(where)
    given = features(where, torch.float64)
    ids, mask = torch.randint(30, (2, 6)), torch.ones(2, 6, dtype=torch.long)
    mask[0, 4:] = 0
    queries = ours.queries.detach().clone().requires_grad_()
    expected = run_instructblip(theirs, projection, queries, given.tokens, ids, mask)
    came = ours(given, ids, mask)
    torch.testing.assert_close(came.tokens, expected, rtol=1e-10, atol=1e-10)
    assert came.shape == ours.output_shape(where.input) == FeatureShape(LANGUAGE, 5, None)

    for tokens in (came.tokens, expected):
        tokens.square().mean().backward()
    other, mine = dict(theirs.encoder.layer.named_parameters()), dict(ours.layers.named_parameters())
    for name, theirs_name in used.items():
        torch.testing.assert_close(mine[name].grad, other[theirs_name].grad, rtol=1e-8, atol=1e-12, msg=name)
    torch.testing.assert_close(ours.queries.grad, queries.grad, rtol=1e-8, atol=1e-12)
    for part, embedding in (("words", "word_embeddings"), ("positions", "position_embeddings")):
        gradient = getattr(theirs.embeddings, embedding).weight.grad
        torch.testing.assert_close(getattr(ours, part).weight.grad, gradient, rtol=1e-8, atol=1e-12)


def test_instructed_q_former_reads_words_in_order_and_no_padding():
    where = context()
    ours, *_ = instructed_pair(where)
    given = features(where, torch.float64)
    ids, mask = torch.tensor([[3, 4, 5]] * 2), torch.ones(2, 3, dtype=torch.long)
    came = ours(given, ids, mask).tokens
    for other in ([[3, 4, 6]] * 2, [[4, 3, 5]] * 2):
        assert not torch.allclose(ours(given, torch.tensor(other), mask).tokens, came, atol=1e-6)
    padded, wide = torch.tensor([[3, 4, 5, 9, 9]] * 2), torch.tensor([[1, 1, 1, 0, 0]] * 2)
    torch.testing.assert_close(ours(given, padded, wide).tokens, came, rtol=1e-12, atol=1e-12)
    nothing = torch.zeros(2, 0, dtype=torch.long)
    assert ours(given, nothing, nothing).tokens.shape == came.shape


def test_instructed_q_former_says_what_it_cannot_read():
    tiny = {"width": 16, "heads": 2, "feedforward_width": 8, "depth": 1}
    ours = InstructedQFormer(InstructedQFormerConfig(**tiny, vocabulary=300, positions=4), context())
    words = torch.ones(2, 5, dtype=torch.long)
    with pytest.raises(DataError, match=r"instruction of the batch has 5 tokens, and .* reads 4 \(`positions`\): shorten it"):
        ours(features(context()), words, words)
    assert len(ours.tokenizer) == 259
    few = InstructedQFormer(InstructedQFormerConfig(**tiny, vocabulary=30), context())
    with pytest.raises(AssemblyError, match=r"has 259 words, and `vocabulary` \(=30\) .* set `vocabulary: 259`"):
        len(few.tokenizer)


def test_instructed_q_former_defaults_are_those_of_instructblip():
    with torch.device("meta"):
        ours = InstructedQFormer(InstructedQFormerConfig(vocabulary=30522), context(width=1408, output=None, language=64))
        theirs = InstructBlipQFormerModel(InstructBlipQFormerConfig())
    count = sum(parameter.numel() for parameter in theirs.parameters())
    unread = 2 * 768 * 3072 + 3072 + 768 + 2 * 768  # the last feed-forward for words
    assert sum(parameter.numel() for parameter in ours.parameters()) == count - unread + 32 * 768 + 768 * 64 + 64


# Cross-attention resampler


def masked_autoencoder_positions(width: int, rows: int, columns: int) -> np.ndarray:
    """MAE's table, place by place from the formula: the column in the first half, the row in the second."""
    table = np.zeros((rows, columns, width))
    quarter = width // 4
    for row in range(rows):
        for column in range(columns):
            for half, position in enumerate((column, row)):
                for wave in range(quarter):
                    angle = position / 10000 ** (wave / quarter)
                    table[row, column, half * 2 * quarter + wave] = math.sin(angle)
                    table[row, column, half * 2 * quarter + quarter + wave] = math.cos(angle)
    return table


def bicubic(table: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Keys' cubic convolution (a = -0.75), half-pixel centres, edges repeated: what `align_corners=False` means."""

    def weight(distance: float) -> float:
        x = abs(distance)
        if x <= 1:
            return 1.25 * x**3 - 2.25 * x**2 + 1
        return -0.75 * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0

    def along(values: np.ndarray, size: int) -> np.ndarray:
        came = np.zeros((size, *values.shape[1:]))
        for place in range(size):
            centre = (place + 0.5) * values.shape[0] / size - 0.5
            for tap in range(math.floor(centre) - 1, math.floor(centre) + 3):
                came[place] += weight(centre - tap) * values[min(max(tap, 0), values.shape[0] - 1)]
        return came

    return along(along(table, rows).swapaxes(0, 1), columns).swapaxes(0, 1)


def test_sine_positions_are_those_of_the_formula_and_their_resizing_too():
    like = torch.zeros(1, dtype=torch.float64)
    table = masked_autoencoder_positions(24, 3, 5)
    assert np.abs(sine_positions(3, 5, 24, like).numpy() - table.reshape(15, 24)).max() < 1e-12
    square = masked_autoencoder_positions(8, 4, 4)
    came = resized(sine_positions(4, 4, 8, like), (4, 4), (6, 9)).numpy()
    assert np.abs(came - bicubic(square, 6, 9).reshape(54, 8)).max() < 1e-12
    assert sine_positions(2, 2, 8, torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.float32


@pytest.mark.parametrize("grid", [(3, 3), (4, 6), (2, 2)])
def test_cross_attention_resampler_is_what_the_formula_says(grid):
    where = context(width=12, grid=grid)
    ours = randomised(CrossAttentionResampler(CrossAttentionResamplerConfig(grid=3, head_width=5), where)).double()
    given = features(where, torch.float64)
    # The reference: torch's own attention with Qwen-VL's arrangement of norms and positions around it.
    attention = nn.MultiheadAttention(LANGUAGE, 4, batch_first=True).double()
    attention.in_proj_weight.data = torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]).data
    attention.in_proj_bias.data = torch.cat([ours.query.bias, ours.key.bias, ours.value.bias]).data
    copy(attention.out_proj, ours.output)
    table = masked_autoencoder_positions(LANGUAGE, 3, 3)
    places = torch.from_numpy(table.reshape(9, LANGUAGE))
    token_places = places if grid == (3, 3) else torch.from_numpy(bicubic(table, *grid).reshape(-1, LANGUAGE))
    tokens = ours.token_norm(given.tokens @ ours.token_projection.weight.T)
    queries = (ours.query_norm(ours.queries) + places).expand(2, -1, -1)
    attended, _ = attention(queries, tokens + token_places, tokens)
    expected = ours.norm(attended) @ ours.projection.weight.T
    torch.testing.assert_close(ours(given).tokens, expected, rtol=1e-10, atol=1e-10)
    assert ours(given).shape == ours.output_shape(where.input) == FeatureShape(LANGUAGE, 9, None)


def test_values_carry_no_positions_and_equal_widths_need_no_matrix():
    where = context(width=LANGUAGE)
    ours = CrossAttentionResampler(CrossAttentionResamplerConfig(grid=2, head_width=5), where)
    assert isinstance(ours.token_projection, nn.Identity)
    same = VisionFeatures(torch.ones(1, 24, LANGUAGE), (4, 6))
    came = ours(same).tokens
    assert (came - came[:, :1]).abs().max() < 1e-6  # every query finds the same values, wherever it looks


def test_cross_attention_resampler_says_every_misfit_at_once():
    options = CrossAttentionResamplerConfig(grid=2, head_width=8)
    with pytest.raises(AssemblyError) as caught:
        CrossAttentionResampler(options, context(prefix=1))
    text = str(caught.value)
    assert "`connectors/cross-attention-resampler` does not fit to 25 tokens of width 12 (grid 4x6, prefix 1)" in text
    assert "it takes 0 prefix tokens and 1 come in" in text
    assert "`head_width` (=8) and 4 must divide the width that comes out (=20)" in text
    with pytest.raises(AssemblyError, match="its keys carry their places, and these tokens have no grid"):
        CrossAttentionResampler(CrossAttentionResamplerConfig(grid=2, head_width=5), context(grid=None))
    built = CrossAttentionResampler(CrossAttentionResamplerConfig(grid=2, head_width=5), context())
    with pytest.raises(AssemblyError, match=r"cannot take these tokens.*\n.*it takes 0 prefix tokens and 2 come in"):
        built.token_count((4, 6), 26)
