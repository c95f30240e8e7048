"""Instruction tuning: every answer is learnt, or the row is refused by name."""

from dataclasses import replace

import pytest

from vlmzoo_registry import DataError, NoOptions, Template
from vlmzoo_registry.byte_tokenizer import byte_tokenizer
from vlmzoo_registry.tasks import IMAGE, Sample, Turn
from vlmzoo_tasks.config import VicunaConfig
from vlmzoo_tasks.instruct import InstructObjective
from vlmzoo_tasks.styles import vicuna_v1

INSTRUCT = InstructObjective(NoOptions())
VICUNA = vicuna_v1(VicunaConfig(system=None)).bind(byte_tokenizer())


def sample(*turns: Turn) -> Sample:
    return Sample("7", turns, (), "rows.jsonl:7")


@pytest.mark.parametrize("exchanges", [1, 2, 3, 30])
def test_every_answer_is_learnt_with_its_end_once(exchanges):
    turns = [turn for n in range(exchanges) for turn in (Turn("user", f"question {n}"), Turn("assistant", f"answer {n}"))]
    rendered = INSTRUCT.render(sample(*turns), VICUNA)
    learnt = [rendered.text[span.start : span.end] for span in rendered.spans]
    assert learnt == [f" answer {n}<eos>" for n in range(exchanges)]
    assert rendered.text.count("<eos>") == exchanges
    assert not rendered.end


def test_rows_that_are_no_conversation_are_named():
    with pytest.raises(DataError) as caught:
        INSTRUCT.render(sample(Turn("assistant", ""), Turn("assistant", "x")), VICUNA)
    assert caught.value.message == "rows.jsonl:7: this is no conversation to learn from:"
    assert caught.value.reasons == (
        "there is no turn of the user: use the objective `caption`, or add what is asked",
        "turn 0 (assistant) has no words, so nothing of it is supervised: add them, or drop the row",
    )
    with pytest.raises(DataError, match=r"^rows.jsonl:7: template `vicuna_v1` cannot write these turns:\n  - it writes"):
        INSTRUCT.render(sample(Turn("user", "x")), VICUNA)


class LastAnswerOnly(Template):
    """The fault that the field reports: of several answers one is learnt."""

    def render(self, turns, *, prompt):
        rendered = VICUNA.render(turns, prompt=prompt)
        return replace(rendered, spans=rendered.spans[-1:])


def test_a_template_that_skips_answers_is_caught():
    turns = (Turn("user", IMAGE), Turn("assistant", "a"), Turn("user", "more"), Turn("assistant", "b"))
    with pytest.raises(DataError, match=r"^rows.jsonl:7: 2 turns of the assistant, but the template marks 1 to learn"):
        INSTRUCT.render(sample(*turns), LastAnswerOnly())
