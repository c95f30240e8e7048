"""The toy parts keep the contracts that they exist to illustrate."""

import math
import subprocess
import sys

import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch import nn
from transformers import DynamicCache

from vlmzoo_registry import ConnectorContext, DataError, FeatureShape, LanguageModel, NoOptions, VisionEncoder
from vlmzoo_toy.config import ToyLanguageConfig, ToyVisionConfig
from vlmzoo_toy.connector import ToyConnector
from vlmzoo_toy.language import ToyLanguage, rotate
from vlmzoo_toy.plugin import vlmzoo_components
from vlmzoo_toy.vision import ToyVision

LANGUAGES = [ToyLanguageConfig(), ToyLanguageConfig(learned_positions=32, depth=3)]


def test_descriptions_and_options_are_read_without_torch():
    code = (
        "import sys, vlmzoo_toy.config; from vlmzoo_toy.plugin import vlmzoo_components; assert len(vlmzoo_components()) == 3; "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert [spec.name for spec in vlmzoo_components()] == ["vision", "connector", "language"]


# Vision


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, FeatureShape(24, 16, (4, 4))),
        ({"class_token": True}, FeatureShape(24, 16, (4, 4))),
        ({"class_token": True, "prefix": "keep"}, FeatureShape(24, 17, (4, 4), 1)),
        ({"layers": [-2, -1], "final_norm": False, "image_size": 24}, FeatureShape(48, 9, (3, 3))),
    ],
)
def test_vision_declares_what_comes_out(options, shape):
    encoder = ToyVision(ToyVisionConfig(**options))
    assert isinstance(encoder, VisionEncoder)
    pixels = torch.stack([encoder.transform(Image.new("RGB", (50, 40), color)) for color in ("red", "blue")])
    came = encoder(pixels)
    assert came.shape == encoder.output_shape == shape
    came.tokens.square().sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_vision_layers_norm_and_prefix_are_what_they_say():
    full = ToyVision(ToyVisionConfig(class_token=True, prefix="keep", layers=[0, 1, 2], depth=3, final_norm=False))
    pixels = torch.randn(2, 3, 32, 32)
    first, second, third = full(pixels).tokens.split(24, dim=2)

    def tapped(**options):
        encoder = ToyVision(ToyVisionConfig(class_token=True, depth=3, **options))
        missing, _ = encoder.load_state_dict(full.state_dict(), strict=False)
        assert all(name.startswith("norm.") for name in missing)
        return encoder, encoder(pixels).tokens

    encoder, tokens = tapped(layers=[-2], final_norm=False, prefix="drop")
    assert torch.equal(tokens, second[:, 1:])
    assert len(encoder.blocks) == 2  # the block past the last tapped layer is not built
    assert torch.equal(tapped(layers=[-1], final_norm=True, prefix="keep")[1], nn.LayerNorm(24)(third))
    assert torch.equal(tapped(layers=[2, 0], final_norm=False)[1], torch.cat([third, first], dim=2)[:, 1:])


def test_vision_grid_is_row_major():
    encoder = ToyVision(ToyVisionConfig(depth=1, final_norm=False))
    for parameter in encoder.parameters():
        nn.init.zeros_(parameter)
    nn.init.ones_(encoder.patches.weight)
    pixels = torch.zeros(1, 3, 32, 32)
    pixels[:, :, 8:16, 24:32] = 1.0  # row 1, column 3
    assert encoder(pixels).tokens[0, :, 0].nonzero().tolist() == [[1 * 4 + 3]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 5}, r"`patch` \(=5\) must divide `image_size` \(=32\)"),
        ({"heads": 5}, r"`heads` \(=5\) must divide `width` \(=24\)"),
        ({"layers": [2]}, r"`layers` names 2, and `depth` \(=2\) allows -2 to 1"),
        ({"layers": []}, "at least 1 item"),
    ],
)
def test_vision_options_that_do_not_fit(options, message):
    with pytest.raises(ValidationError, match=message):
        ToyVisionConfig(**options)


# Connector


def test_connector_projects_and_keeps_places():
    shape = FeatureShape(24, 17, (4, 4), 1)
    connector = ToyConnector(NoOptions(), ConnectorContext(shape, None, 32, 2))
    given = ToyVision(ToyVisionConfig(class_token=True, prefix="keep"))(torch.randn(1, 3, 32, 32))
    assert connector(given).shape == connector.output_shape(shape) == FeatureShape(32, 17, (4, 4), 1)


# Language


@pytest.fixture(params=LANGUAGES, ids=["rotary", "learned"])
def language(request):
    torch.manual_seed(0)
    return ToyLanguage(request.param).eval()


def embed(language: ToyLanguage, *texts: str) -> torch.Tensor:
    return language.embedding(torch.tensor([language.tokenizer(text)["input_ids"] for text in texts]))


def test_language_is_causal(language):
    assert isinstance(language, LanguageModel)
    first, second = language.decode(embed(language, "abcdef", "abcxef"))
    assert torch.equal(first[:3], second[:3])
    assert (first[3:] - second[3:]).abs().amax(dim=1).min() > 1e-4


def test_language_reads_the_whole_past(language):
    first, second = language.decode(embed(language, "abcdef", "xbcdef"))
    assert (first - second).abs().amax(dim=1).min() > 1e-6


def test_positions_matter(language):
    same = language.decode(embed(language, "abab"))[0]
    assert (same[0] - same[2]).abs().max() > 1e-4
    shifted = language.decode(embed(language, "abab"), position_ids=torch.tensor([[0, 3, 5, 9]]))[0]
    assert (same - shifted).abs().max() > 1e-4


def test_cache_equals_no_cache(language):
    embeddings, cache, steps = embed(language, "some text", "same size"), DynamicCache(), []
    for start, end in ((0, 4), (4, 5), (5, 9)):
        steps.append(language.decode(embeddings[:, start:end], cache=cache))
    torch.testing.assert_close(torch.cat(steps, dim=1), language.decode(embeddings), rtol=1e-6, atol=1e-6)
    assert cache.get_seq_length() == 9


def test_padding_on_either_side_changes_nothing(language):
    alone = language.decode(embed(language, "text"))
    for side, kept in (("left", slice(3, None)), ("right", slice(None, 4))):
        language.tokenizer.padding_side = side
        batch = language.tokenizer(["text", "longer!"], padding=True, return_tensors="pt")
        hidden = language.decode(language.embedding(batch["input_ids"]), attention_mask=batch["attention_mask"])
        torch.testing.assert_close(hidden[:1, kept], alone, rtol=1e-6, atol=1e-6)
        assert hidden.isfinite().all()
        hidden.sum().backward()
        assert all(parameter.grad.isfinite().all() for parameter in language.parameters())


def test_padding_with_cache(language):
    language.tokenizer.padding_side = "left"
    batch = language.tokenizer(["text", "longer!"], padding=True, return_tensors="pt")
    embeddings, mask, cache = language.embedding(batch["input_ids"]), batch["attention_mask"], DynamicCache()
    language.decode(embeddings[:, :5], attention_mask=mask[:, :5], cache=cache)
    last = language.decode(embeddings[:, 5:], attention_mask=mask, cache=cache)
    torch.testing.assert_close(last[:1], language.decode(embed(language, "text"))[:, 2:], rtol=1e-6, atol=1e-6)


def test_rotation_is_a_rotation_by_position():
    vectors, positions = torch.randn(1, 1, 2, 4, dtype=torch.float64), torch.tensor([[0, 3]])
    came = rotate(vectors, positions)
    torch.testing.assert_close(came[0, 0, 0], vectors[0, 0, 0])
    for pair, speed in ((0, 1.0), (1, 0.01)):
        turned = complex(*vectors[0, 0, 1, [pair, pair + 2]]) * complex(math.cos(3 * speed), math.sin(3 * speed))
        torch.testing.assert_close(came[0, 0, 1, [pair, pair + 2]].tolist(), [turned.real, turned.imag], rtol=1e-6, atol=1e-6)


def test_tokenizer_gives_offsets_and_a_round_trip(language):
    text = "Größe <eos> 9 €"
    encoded = language.tokenizer(text, return_offsets_mapping=True)
    assert language.tokenizer.decode(encoded["input_ids"]) == text
    assert [text[start:end] for start, end in encoded["offset_mapping"]][:7] == ["G", "r", "ö", "ö", "ß", "ß", "e"]
    assert len({language.tokenizer.pad_token_id, language.tokenizer.bos_token_id, language.tokenizer.eos_token_id}) == 3


def test_text_config_has_what_generation_reads(language):
    config = language.text_config
    assert (config.num_hidden_layers, config.hidden_size) == (len(language.decoder_layers), language.width)
    assert config.vocab_size == language.embedding.num_embeddings == len(language.tokenizer)
    assert config.eos_token_id == language.tokenizer.convert_tokens_to_ids("<eos>")
    assert DynamicCache(config=config).get_seq_length() == 0


def test_resize_keeps_rows_and_tie(language):
    before, hidden = language.embedding.weight.detach().clone(), torch.randn(2, language.width)
    logits = language.head(hidden)
    language.resize(262)
    assert torch.equal(language.embedding.weight[:259], before)
    assert language.head.weight is language.embedding.weight
    torch.testing.assert_close(language.head(hidden)[:, :259], logits, rtol=1e-6, atol=1e-6)
    assert language.text_config.vocab_size == 262
    assert language.embedding(torch.tensor([261])).abs().sum() > 0
    language.resize(100)
    assert language.embedding.weight.shape == (262, language.width)


def test_every_parameter_gets_a_gradient(language):
    language.head(language.decode(embed(language, "abc"))).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in language.parameters())


@pytest.mark.parametrize(
    ("build", "config"),
    [(ToyLanguage, LANGUAGES[0]), (ToyLanguage, LANGUAGES[1]), (ToyVision, ToyVisionConfig(class_token=True))],
)
def test_builds_and_runs_on_meta(build, config):
    assert build.resolve(config) == config
    with torch.device("meta"):
        described = build(config)
        if isinstance(described, ToyLanguage):
            described.resize(260)
            assert described.decode(torch.zeros(1, 4, described.width)).device.type == "meta"
            assert described.head.weight is described.embedding.weight
        else:
            assert described(torch.zeros(1, 3, 32, 32)).shape == described.output_shape
    assert all(tensor.is_meta for tensor in described.state_dict().values())


def test_a_text_that_is_too_long_says_both_numbers():
    language = ToyLanguage(LANGUAGES[1])
    with pytest.raises(DataError, match=r"the text has 33 tokens, and `learned_positions` \(=32\) allows no more"):
        language.decode(torch.zeros(1, 33, language.width))


def test_a_mask_that_misses_the_cache_says_the_numbers(language):
    cache = DynamicCache()
    language.decode(embed(language, "abc"), cache=cache)
    with pytest.raises(ValueError, match="`attention_mask` covers 2 tokens; cache and text have 3 \\+ 2"):
        language.decode(embed(language, "de"), attention_mask=torch.ones(1, 2, dtype=torch.long), cache=cache)


def test_language_options_that_do_not_fit():
    with pytest.raises(ValidationError, match=r"`width` \(=30\) must be divisible by twice `heads` \(=8\)"):
        ToyLanguageConfig(width=30)


def test_the_number_of_learned_positions_is_told_to_whoever_limits_rows():
    assert ToyLanguage(ToyLanguageConfig(learned_positions=16)).text_config.max_position_embeddings == 16
    assert ToyLanguage(ToyLanguageConfig()).text_config.max_position_embeddings is None
