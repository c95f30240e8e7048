"""A template in a model: generation stops where training let answers end, and a loaded model asks as the saved one did."""

import pytest
import torch
from small_models import picture, section

from vlmzoo.assemble import build
from vlmzoo.checkpoint import load, save
from vlmzoo.data import encode
from vlmzoo.data.encode import IGNORE
from vlmzoo_registry import AssemblyError
from vlmzoo_registry.tasks import IMAGE, Turn

CONTROL = {"name": "toy/language", "control_tokens": ["<|im_start|>", "<|im_end|>"]}
TURNS = [
    Turn("user", f"{IMAGE}\nWhat is this?"),
    Turn("assistant", "a red bird"),
    Turn("user", "Sure?"),
    Turn("assistant", "Yes."),
]


def model(template, language):
    return build({**section(language=language), "template": template})


@pytest.mark.parametrize(
    ("template", "language", "stops"),
    [
        ("plain", {"name": "toy/language"}, ["<eos>"]),
        ("vicuna_v1", {"name": "toy/language"}, ["<eos>"]),
        ("chatml_direct", CONTROL, ["<|im_end|>", "<eos>"]),
        ("tokenizer", {"name": "toy/language"}, ["<eos>"]),
    ],
)
def test_generation_stops_where_answers_end(tmp_path, template, language, stops):
    vlm = model(template, language)
    ids = vlm.processor.tokenizer.convert_tokens_to_ids(stops)
    assert vlm.generation_config.eos_token_id == (ids if len(ids) > 1 else ids[0])
    save(vlm, tmp_path / "checkpoint")
    loaded = load(tmp_path / "checkpoint")
    assert loaded.generation_config.eos_token_id == vlm.generation_config.eos_token_id
    asked = [{"role": "user", "content": f"{IMAGE}\nWhat is this?"}]
    before, after = (each.processor(asked, images=[picture(1)]) for each in (vlm, loaded))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_model_that_says_the_stop_token_stops():
    vlm = model("chatml_direct", CONTROL)
    stop = vlm.processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    head = vlm.language.head

    class SaysStop(torch.nn.Module):
        def forward(self, hidden):
            logits = head(hidden)
            logits[..., stop] = logits.max() + 1
            return logits

    vlm.language.__class__ = type("Stopping", (type(vlm.language),), {"head": property(lambda self: SaysStop())})
    batch = vlm.processor(text="What?", images=[picture(1)])
    ids = vlm.generate(**batch, max_new_tokens=8, do_sample=False)
    assert ids.shape[1] == batch["input_ids"].shape[1] + 1
    assert vlm.processor.decode(ids, prompt_length=batch["input_ids"].shape[1]) == [""]


@pytest.mark.parametrize(
    ("template", "language"),
    [("vicuna_v1", {"name": "toy/language"}), ("chatml_direct", CONTROL), ("tokenizer", {"name": "toy/language"})],
)
def test_ids_and_labels_of_a_conversation(template, language):
    vlm = model(template, language)
    processor = vlm.processor
    encoded = encode(
        processor.template.render(TURNS, prompt=False), processor.tokenizer, processor.image_token, source="rows:1"
    )
    learnt = encoded.labels != IGNORE
    # Runs of supervised ids, decoded: the answers with their ends, nothing else.
    borders = [place for place in range(1, len(learnt)) if learnt[place] != learnt[place - 1]]
    runs = [
        encoded.input_ids[start:end] for start, end in zip([0, *borders], [*borders, len(learnt)], strict=True) if learnt[start]
    ]
    stop = processor.template.stop
    assert [processor.tokenizer.decode(run).strip() for run in runs] == [f"a red bird{stop}", f"Yes.{stop}"]
    # Generation starts from the ids that stood before each answer.
    for turns, run_start in ((TURNS[:1], 0), (TURNS[:3], 1)):
        starts = [start for start in [0, *borders] if learnt[start]]
        prompt = processor([{"role": turn.role, "content": turn.text} for turn in turns], images=[picture(1)])
        assert prompt["input_ids"][0].tolist() == encoded.input_ids[: starts[run_start]].tolist()


def test_a_tokenizer_without_the_tokens_is_refused_at_assembly():
    with pytest.raises(AssemblyError, match="template `chatml_direct` cannot be used with this tokenizer"):
        model("chatml_direct", {"name": "toy/language"})
