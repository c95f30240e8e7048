"""Prefix and plain language modelling against the published classes with the same weights, and what models they refuse."""

from functools import partial

import pytest
import torch
from objective_models import LLAMA, MASKED_LM, collator, model, samples
from PIL import Image
from transformers import LlamaForCausalLM, PaliGemmaConfig, PaliGemmaForConditionalGeneration

import vlmzoo
from vlmzoo.config import load_choice, load_recipe
from vlmzoo.data import Collator, ImageReader, ImageToken
from vlmzoo.data.encode import IGNORE
from vlmzoo.planning import plan
from vlmzoo.training.samples import make_collator
from vlmzoo_registry import AssemblyError, DataError, Objective, Sample, Template, Turn
from vlmzoo_registry.byte_tokenizer import BYTE_TOKENS, byte_tokenizer

CAUSAL = {"name": "transformers/causal-lm", "config": LLAMA}
TEXT = {
    "model_type": "gemma",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": BYTE_TOKENS + 1,
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


def asked(number: int, question: str, answer: str) -> Sample:
    image = partial(Image.new, "RGB", (16, 16), ("red", "blue")[number])
    return Sample(str(number), (Turn("user", f"<image>{question}"), Turn("assistant", answer)), (image,), f"rows:{number}")


def test_the_loss_and_gradients_of_a_prefix_are_those_of_paligemma():
    config = PaliGemmaConfig(
        text_config=TEXT, vision_config=VISION, projection_dim=32, image_token_index=BYTE_TOKENS, pad_token_id=0
    )
    published = PaliGemmaForConditionalGeneration(config)
    built = vlmzoo.from_transformers(published)
    tokenizer = byte_tokenizer(["<image>"])
    collate = Collator(
        objective=load_choice("objective", {"name": "prefix_lm"}).make(Objective).bind(tokenizer),
        template=load_choice("template", {"name": "plain"}).make(Template).bind(tokenizer),
        tokenizer=tokenizer,
        image_token=ImageToken("<image>", BYTE_TOKENS, built.image_tokens),
        images=ImageReader(built.vision.transform, built.layout, built.layout.text),
        max_length=100,
    )
    batch = collate([asked(0, "what is it?", "a red square"), asked(1, "say", "blue")])
    assert set(batch) == {"input_ids", "attention_mask", "labels", "prefix_mask", "pixel_values", "image_mask"}
    built.train(), published.train()
    found = built(**batch).loss
    expected = published(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        token_type_ids=(~batch["prefix_mask"]).long(),
        pixel_values=batch["pixel_values"][:, 0],
        labels=batch["labels"],
    ).loss
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    found.backward(), expected.backward()
    pairs = [
        (built.language.embedding.weight, published.get_input_embeddings().weight),
        (built.connector[0].module.weight, published.model.multi_modal_projector.linear.weight),
        (
            built.language.decoder_layers[0].self_attn.q_proj.weight,
            published.model.language_model.layers[0].self_attn.q_proj.weight,
        ),
    ]
    for ours, theirs in pairs:
        assert theirs.grad.abs().max() > 0
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)


def test_the_prefix_of_a_row_is_all_before_its_answer():
    built = model({**CAUSAL, "prefix": "required"})
    batch = collator(built, "prefix_lm")([asked(0, "what is it?", "a red square")])
    supervised = (batch["labels"][0] != IGNORE).long()
    assert batch["prefix_mask"][0].tolist() == [place < int(supervised.argmax()) for place in range(len(supervised))]


def test_several_answers_in_a_row_are_refused_by_name():
    built = model({**CAUSAL, "prefix": "required"})
    turns = tuple(Turn(role, role) for role in ("user", "assistant") * 2)
    with pytest.raises(DataError, match=r"^chat:9: its answers stand at tokens \d+ to \d+ with others between them"):
        collator(built, "prefix_lm", template="vicuna_v1")([Sample("9", turns, (), "chat:9")])


def test_all_of_a_text_is_learnt_as_llama_learns_it():
    built = model(CAUSAL)
    batch = collator(built, "text")([Sample("1", (Turn("assistant", "The rain came early."),), (), "t:1"), samples()[2]])
    published = LlamaForCausalLM(built.language.text_config).eval()
    published.load_state_dict(built.language.model.state_dict())
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORE)
    expected = published(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
    torch.testing.assert_close(built(**batch).loss, expected, rtol=1e-5, atol=1e-5)


def test_images_are_read_by_the_text_objective_and_never_learnt():
    built = model(CAUSAL)
    batch = collator(built, "text")(samples(images=True))
    slots = batch["input_ids"] == built.processor.image_token.id
    assert slots.any()
    assert (batch["labels"][slots] == IGNORE).all()
    # Behind the images every word is learnt, the user's too; the first token only where something stands before it.
    learnt = (batch["labels"] != IGNORE) == ((batch["attention_mask"] == 1) & ~slots)
    assert learnt.all()


def test_a_row_of_text_alone_is_learnt_alike_as_a_caption():
    """In a mixed run the objective of captions serves rows without images: all of their text is learnt."""
    built = model(CAUSAL)
    text = Sample("1", (Turn("assistant", "The rain came early."),), (), "t:1")
    one, other = (collator(built, name).encode(text) for name in ("caption", "text"))
    assert one.labels.tolist() == other.labels.tolist()


def recipe(objective: object, language: dict[str, object], tmp_path, **stage: object) -> dict[str, object]:
    (tmp_path / "text.txt").write_text("The rain came.\nIt went.\n\nThe boat is old.\nIt is red.\n")
    return {
        "model": {
            "architecture": "unified",
            "vision": "toy/vision",
            "connector": "connectors/mlp",
            "language": language,
            "template": "plain",
        },
        "stages": [
            {
                "name": "first",
                "objective": objective,
                "data": [{"name": "sentence_pairs", "path": str(tmp_path / "text.txt")}],
                "train": {"language": {"lr": 1e-3}},
                "batch_size": 2,
                "steps": 1,
                "template": "pair",
                **stage,
            }
        ],
    }


REFUSED = {
    "prefix of a causal model": (
        "prefix_lm",
        CAUSAL,
        "`tasks/prefix_lm` lets tokens see those behind them, and `transformers/causal-lm` is causal throughout: let it open "
        "its prefix (`prefix: required`), or take another objective",
    ),
    "prefix that generation would not read": (
        "prefix_lm",
        {**CAUSAL, "prefix": "optional"},
        "`tasks/prefix_lm` reads what stands before an answer in both directions, and `transformers/causal-lm` would generate "
        "from it read in one (`prefix: optional`): set `prefix: required`",
    ),
    "masked with a causal model": (
        "masked",
        CAUSAL,
        "`tasks/masked` lets tokens see those behind them, and `transformers/causal-lm` is causal throughout: let it open its "
        "prefix (`prefix: required`), or take another objective",
    ),
    "sentences without a head": (
        {"name": "masked", "next_sentence": True},
        {**MASKED_LM, "sentence_head": False},
        "`tasks/masked` needs a language model that can say whether a text follows another (`sentence_head`), and "
        "`transformers/masked-lm` cannot",
    ),
    "spans without places": (
        "blank_infilling",
        {**CAUSAL, "prefix": "optional"},
        "`tasks/blank_infilling` needs a language model that can be told where in a span a token stands (`span_positions`), "
        "and `transformers/causal-lm` cannot",
    ),
    "masked with an encoder beside a decoder": (
        "masked",
        {
            "name": "transformers/seq2seq-lm",
            "config": {"model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
            | {"vocab_size": 270, "decoder_start_token_id": 0},
        },
        "`tasks/masked` needs a language model that can predict tokens that all others are seen from, and "
        "`transformers/seq2seq-lm` cannot",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_model_that_cannot_is_refused_by_plan_and_before_training(case, tmp_path):
    objective, language, reason = REFUSED[case]
    given = recipe(objective, language, tmp_path)
    with pytest.raises(AssemblyError) as caught:
        plan(given)
    assert caught.value.message == "stage `first` cannot train this language model"
    assert caught.value.reasons == (reason,)
    loaded = load_recipe(given)
    with pytest.raises(AssemblyError) as caught:
        make_collator(vlmzoo.build(loaded.model), loaded.stages[0])
    assert caught.value.reasons == (reason,)


def test_a_tokenizer_without_a_mask_is_refused_by_plan(tmp_path):
    with pytest.raises(AssemblyError) as caught:
        plan(recipe("masked", {**CAUSAL, "prefix": "optional"}, tmp_path))
    assert caught.value.reasons == ("it has no mask token (`mask_token`), behind which tokens are hidden",)


def test_weights_of_data_beside_labels_of_rows_are_refused(tmp_path):
    given = recipe({"name": "masked", "next_sentence": True}, MASKED_LM, tmp_path, loss_weights=[0.2])
    with pytest.raises(AssemblyError, match="labels whole rows, for which there are no `loss_weights`: leave them out"):
        plan(given)


def test_what_a_language_model_does_not_read_is_refused():
    built = model(CAUSAL)
    ids = torch.ones(1, 4, dtype=torch.long)
    with pytest.raises(DataError, match="`segment_ids` was given, but `TransformersCausalLM` does not read it: leave it out"):
        built(input_ids=ids, segment_ids=ids)
    with pytest.raises(DataError, match=r"`labels` .* and `targets` .* came together"):
        built(input_ids=ids, labels=ids, targets=ids)
    with pytest.raises(DataError, match="`sentence_labels` came without"):
        built(input_ids=ids, sentence_labels=ids[0, :1])
    with pytest.raises(AssemblyError, match="has no sentence head"):
        built(input_ids=ids, labels=ids, sentence_labels=ids[0, :1])
