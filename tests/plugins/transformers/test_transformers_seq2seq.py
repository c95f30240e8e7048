"""`transformers/seq2seq-lm` against transformers' own encoder-decoder models with the same weights."""

from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutput

import vlmzoo
from vlmzoo.loss import masked_nll
from vlmzoo_registry import AssemblyError, ConfigError, DataError
from vlmzoo_transformers.config import Seq2SeqLMConfig
from vlmzoo_transformers.prefix_cache import PrefixMemory
from vlmzoo_transformers.seq2seq_lm import TransformersSeq2SeqLM

T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4} | {
    "vocab_size": 300,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 2,
    "initializer_factor": 3.0,
    "dropout_rate": 0.0,
}
BART = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "vocab_size": 300,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "eos_token_id": 2,
    "forced_eos_token_id": None,
    "decoder_start_token_id": 2,
    "init_std": 0.2,
    "dropout": 0.0,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "t5": T5,  # hidden states are scaled before a tied head
    "flan": T5 | {"model_type": "t5", "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "bart": BART | {"scale_embedding": True},
    "pegasus": BART,
}


def language(family: str) -> TransformersSeq2SeqLM:
    """A tiny random model, its weights large enough that everything is seen in the logits."""
    return TransformersSeq2SeqLM(Seq2SeqLMConfig(config={"model_type": family} | FAMILIES[family]))


def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ids, attention mask, prefix and labels: rows with padding on the left, on the right, and none."""
    ids = torch.randint(3, 290, (3, 12))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    mask[1, -2:] = 0
    prefix = (torch.arange(12) < torch.tensor([[8], [6], [5]])) & mask.bool()
    labels = torch.where(mask.bool() & ~prefix, ids, -100)
    return ids, mask, prefix, labels


def reference(model: Any, embeddings: Tensor, ids: Tensor, mask: Tensor, prefix: Tensor) -> list[tuple[Tensor, Tensor]]:
    """For each row alone, unpadded: transformers' logits for the answer, and the answer."""
    found = []
    for row in range(len(ids)):
        answer = ids[row][mask[row].bool() & ~prefix[row]][None]
        read = embeddings[row][prefix[row]][None]
        found.append((model(inputs_embeds=read, labels=answer).logits[0], answer[0]))
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_loss_and_gradients_are_transformers_own(family: str) -> None:
    ours = language(family).double()
    ids, mask, prefix, labels = batch()
    embeddings = ours.embedding(ids).detach().requires_grad_()
    rows = reference(ours.model, embeddings, ids, mask, prefix)
    logits = torch.cat([row for row, _ in rows])
    expected = torch.nn.functional.cross_entropy(logits, torch.cat([answer for _, answer in rows]))
    expected.backward()
    wanted = {name: parameter.grad for name, parameter in ours.named_parameters() if parameter.requires_grad}
    wanted |= {"embeddings": embeddings.grad}

    ours.zero_grad(set_to_none=True)
    embeddings.grad = None
    hidden = ours.decode(embeddings, attention_mask=mask, prefix_mask=prefix)
    loss = masked_nll(hidden, ours.head, labels).loss
    loss.backward()
    assert abs(loss - expected) <= 1e-5 * abs(expected)
    # An answer's embeddings are those of its ids there, and given here: the table's gradient is split between the two.
    found = {name: parameter.grad for name, parameter in ours.named_parameters() if parameter.requires_grad}
    table = next(name for name, parameter in ours.named_parameters() if parameter is ours.embedding.weight)
    answers = ours.embedding.weight.new_zeros(ours.embedding.weight.shape)
    scale = float((ours.embedding(ids)[0, 0, 0] / ours.embedding.weight[ids[0, 0], 0]).detach())
    answers.index_add_(0, ids[labels != -100], scale * embeddings.grad[labels != -100])
    found[table] = found[table] + answers
    inside = embeddings.grad * prefix[..., None]
    assert (inside - wanted.pop("embeddings")).abs().max() <= 1e-5 * inside.abs().max()
    for name, gradient in wanted.items():
        assert (found[name] - gradient).abs().max() <= 1e-5 * gradient.abs().max() + 1e-12, name  # a key's bias has none
    said = labels[:, 1:] != -100
    with torch.no_grad():
        distance = (ours.head(hidden)[:, :-1][said] - logits).abs().max()
    assert distance <= 1e-5 * logits.abs().max()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cache_changes_nothing_and_follows_the_batch(family: str) -> None:
    ours = language(family)
    ids = torch.randint(3, 290, (2, 12))
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    prefix = (torch.arange(12) < 6).expand(2, -1)
    with torch.no_grad():
        whole = ours.decode(ours.embedding(ids), attention_mask=mask, prefix_mask=prefix)
        cache = DynamicCache(config=ours.text_config)
        pieces, swapped = [], False
        for begin, end in ((0, 7), (7, 9), (9, 10), (10, 12)):
            part, so_far = (ids.flip(0), mask.flip(0)) if swapped else (ids, mask)
            hidden = ours.decode(
                ours.embedding(part[:, begin:end]),
                attention_mask=so_far[:, :end],
                cache=cache,
                prefix_mask=prefix[:, begin:end] if begin == 0 else None,
            )
            pieces.append(hidden.flip(0) if swapped else hidden)
            assert cache.get_seq_length() == end
            if begin == 7:
                cache.reorder_cache(torch.tensor([1, 0]))
                swapped = True
    assert (torch.cat(pieces, dim=1) - whole).abs().max() <= 1e-5 * whole.abs().max()
    with torch.no_grad():
        cache.batch_repeat_interleave(2)
        cache.crop(-2)
        again = ours.decode(ours.embedding(ids.flip(0).repeat_interleave(2, 0)[:, 10:]), cache=cache)
    assert cache.get_seq_length() == 12
    assert (again[::2].flip(0) - whole[:, 10:]).abs().max() <= 1e-5 * whole.abs().max()


def section(family: str, architecture: str, connector: str, **fields: Any) -> dict[str, Any]:
    """A `model:` section around it."""
    return {
        "architecture": architecture,
        "vision": {"name": "toy/vision"},
        "connector": [{"name": connector}],
        "language": {"name": "transformers/seq2seq-lm", "config": {"model_type": family} | FAMILIES[family] | fields},
        "template": "plain",
    }


def model(family: str, **fields: Any) -> Any:
    """A whole zoo model around it."""
    return vlmzoo.build(section(family, "unified", "connectors/mlp", **fields))


def images_and_text(model: Any) -> dict[str, Tensor]:
    """Two prompts of different lengths, an image each."""
    pictures = [Image.effect_noise((40, 40), sigma).convert("RGB") for sigma in (50, 90)]
    return model.processor(text=["a red cat", "what"], images=[[picture] for picture in pictures])


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("family", ["t5", "bart"])
def test_the_zoo_generates_what_transformers_generates(family: str, beams: int) -> None:
    # transformers' own generation lays out the cache of T5 by the depth of the encoder.
    ours = model(family, **({"num_decoder_layers": 2} if family == "t5" else {}))
    inputs = images_and_text(ours)
    seen: list[tuple[Tensor, Tensor]] = []
    decode = ours.language.decode

    def watch(embeddings: Tensor, **options: Any) -> Tensor:
        if options.get("prefix_mask") is not None:
            seen.append((embeddings, options["prefix_mask"]))
        return decode(embeddings, **options)

    ours.language.decode = watch
    options = {"max_new_tokens": 8, "num_beams": beams, "do_sample": False}
    found = ours.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :]
    embeddings, prefix = seen[0][0][::beams], seen[0][1][::beams]
    for row in range(2):
        read = embeddings[row][prefix[row]][None]
        encoded = BaseModelOutput(last_hidden_state=ours.language.model.get_encoder()(inputs_embeds=read).last_hidden_state)
        expected = ours.language.model.generate(encoder_outputs=encoded, **options)[0, 1:]
        kept = expected[expected != 0]
        assert found[row][: len(kept)].tolist() == kept.tolist()
    assert len(seen) == 1, "the prompt is read once"


def test_the_zoo_trains_it_and_keeps_it(tmp_path: Any) -> None:
    ours = model("t5")
    inputs = images_and_text(ours)
    answer = torch.randint(3, 290, (2, 4))
    ids = torch.cat([inputs["input_ids"], answer], dim=1)
    mask = torch.cat([inputs["attention_mask"], torch.ones_like(answer)], dim=1)
    labels = torch.cat([torch.full_like(inputs["input_ids"], -100), answer], dim=1)
    given = {**inputs, "input_ids": ids, "attention_mask": mask, "labels": labels}
    ours(**given).loss.backward()
    for part in ("connector", "language"):
        assert all(parameter.grad is not None for parameter in ours.parts[part].parameters())
    ours.save_pretrained(tmp_path)
    again = vlmzoo.load(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(**given).loss, ours(**given).loss)


def test_what_cannot_be_read_is_refused() -> None:
    ours = language("t5")
    embeddings = ours.embedding(torch.randint(3, 290, (2, 6)))
    with pytest.raises(DataError, match="needs `prefix_mask`: which positions its encoder reads"):
        ours.decode(embeddings)
    prefix = torch.tensor([[0, 0, 0, 0, 0, 0], [1, 1, 0, 1, 0, 0]]).bool()
    with pytest.raises(DataError) as caught:
        ours.decode(embeddings, prefix_mask=prefix)
    assert "row 0: its prefix is empty, so the encoder has nothing to read" in str(caught.value)
    assert "row 1: a position of its prefix stands behind one of its answer" in str(caught.value)
    ragged = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0]]).bool()
    with pytest.raises(DataError, match=r"answers that have begun must be equally long, and they are \[3, 2\] tokens long"):
        ours.decode(embeddings, prefix_mask=ragged, cache=DynamicCache())
    with pytest.raises(ValueError, match="the cache holds no text that an encoder has read"):
        PrefixMemory.recall(DynamicCache(), 3)
    with pytest.raises(ConfigError, match="transformers builds no encoder-decoder model of `llama`"):
        TransformersSeq2SeqLM(Seq2SeqLMConfig(config={"model_type": "llama"}))


def test_the_scale_before_the_head_does_not_show_the_weights_it_was_found_with() -> None:
    """Else a checkpoint would be another model than the one that was saved, in its last bits."""
    assert language("t5")._head.entry == language("t5")._head.entry == pytest.approx(32**-0.5, rel=1e-7)


def test_blocks_in_a_decoder_that_does_not_see_the_text_are_refused() -> None:
    with pytest.raises(AssemblyError) as caught:
        vlmzoo.plan(section("t5", "cross_attention", "connectors/cross-attention"))
    assert "an encoder of `language` (transformers/seq2seq-lm) reads a part of it: use `architecture: unified`" in str(
        caught.value
    )


def test_a_plan_says_what_a_build_says() -> None:
    built = language("t5")
    with torch.device("meta"):
        planned = language("t5")
    assert len(planned.decoder_layers) == len(built.decoder_layers) == built.text_config.num_hidden_layers == 3
    assert language("bart").text_config.num_hidden_layers == len(language("bart").decoder_layers) == 3
    built.resize(305)
    assert built.text_config.vocab_size == built.embedding.weight.shape[0] == 305
