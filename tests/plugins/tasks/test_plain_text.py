"""Plain text as samples: paragraphs, and pairs of sentences of which about half do not belong together."""

from pathlib import Path

import pytest

from vlmzoo_registry import AssemblyError, DataError, NoOptions, Turn
from vlmzoo_registry.byte_tokenizer import byte_tokenizer
from vlmzoo_tasks.pair import PairTemplate
from vlmzoo_tasks.paragraphs import ParagraphsDataset
from vlmzoo_tasks.sentence_pairs import SentencePairsDataset
from vlmzoo_tasks.text_config import ParagraphsConfig, SentencePairsConfig

TEXT = "\n  The rain came.\nIt went.\n\n\nA boat.\n \nIt is old.\nIt is red.\nIt floats.\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "text.txt"
    path.write_text(text)
    return path


def test_paragraphs_stand_between_empty_lines(tmp_path):
    path = written(tmp_path, TEXT)
    data = ParagraphsDataset(ParagraphsConfig(path=path))
    assert [(row.id, row.source, row.turns) for row in (data[index] for index in range(len(data)))] == [
        ("2", f"{path}:2", (Turn("assistant", "The rain came. It went."),)),
        ("6", f"{path}:6", (Turn("assistant", "A boat."),)),
        ("8", f"{path}:8", (Turn("assistant", "It is old. It is red. It floats."),)),
    ]


def test_pairs_are_one_sentence_and_the_next_or_one_of_another_document(tmp_path):
    data = SentencePairsDataset(SentencePairsConfig(path=written(tmp_path, TEXT)))
    after = {"The rain came.": "It went.", "It is old.": "It is red.", "It is red.": "It floats."}
    own = [{"The rain came.", "It went."}, {"It is old.", "It is red.", "It floats."}]
    rows = [data[index] for index in range(len(data))]
    assert [row.turns[0].text for row in rows] == list(after)
    assert rows == [data[index] for index in range(len(data))]
    for row in rows:
        first, second = (turn.text for turn in row.turns)
        assert row.label == (0 if after[first] == second else 1)
        if row.label:
            assert second not in next(document for document in own if first in document)


def test_half_of_many_pairs_are_random_and_the_others_are_evenly_drawn(tmp_path):
    documents = ["\n".join(f"Sentence {number} of {document}." for number in range(11)) for document in range(40)]
    data = SentencePairsDataset(SentencePairsConfig(path=written(tmp_path, "\n\n".join(documents))))
    rows = [data[index] for index in range(len(data))]
    assert len(rows) == 400
    drawn = [row.turns[1].text.split()[-1] for row in rows if row.label]
    assert 170 < len(drawn) < 230
    assert len(set(drawn)) > 35
    assert all(row.turns[0].text.split()[-1] != row.turns[1].text.split()[-1] for row in rows if row.label)


def test_within_one_document_the_other_sentence_is_neither_the_same_nor_the_next(tmp_path):
    lines = [f"Line {number}." for number in range(60)]
    data = SentencePairsDataset(SentencePairsConfig(path=written(tmp_path, "\n".join(lines))))
    labels = set()
    for index in range(len(data)):
        second = lines.index(data[index].turns[1].text)
        assert second == index + 1 if data[index].label == 0 else second not in (index, index + 1)
        labels.add(data[index].label)
    assert labels == {0, 1}


def test_what_cannot_be_used_is_named_by_its_line(tmp_path):
    path = written(tmp_path, "One.\n<image> two.\n\nThree <image>.\n")
    with pytest.raises(DataError) as caught:
        ParagraphsDataset(ParagraphsConfig(path=path))
    reason = "line: contains `<image>`, which marks an image's place: take it out"
    assert caught.value.reasons == (f"{path}:2: {reason}", f"{path}:4: {reason}")
    with pytest.raises(DataError, match="has no words: name a file that has some"):
        ParagraphsDataset(ParagraphsConfig(path=written(tmp_path, " \n\n")))
    with pytest.raises(DataError, match="has 2 sentences and 1 pairs of one and the next: it needs 3 sentences and a pair"):
        SentencePairsDataset(SentencePairsConfig(path=written(tmp_path, "One.\nTwo.\n")))


def test_a_pair_is_two_texts_with_a_separator_between():
    tokenizer = byte_tokenizer()
    template = PairTemplate(NoOptions()).bind(tokenizer)
    rendered = template.render((Turn("user", " <image>One. "), Turn("assistant", " Two.\n")), prompt=False)
    assert rendered.text == "<image>One.<eos>Two."
    assert [rendered.text[span.start : span.end] for span in rendered.spans] == ["Two."]
    assert (rendered.images, rendered.end) == ((0,), True)
    tokenizer.add_special_tokens({"sep_token": "[SEP]"})
    assert PairTemplate(NoOptions()).bind(tokenizer).render((Turn("user", "One."),), prompt=True).text == "One.[SEP]"
    with pytest.raises(DataError, match=r"renders one turn of the user and one of the assistant \(the turns are user\)"):
        template.render((Turn("user", "One."),), prompt=False)
    tokenizer.sep_token = tokenizer.eos_token = None
    with pytest.raises(AssemblyError, match="has no `sep_token` and no `eos_token`"):
        PairTemplate(NoOptions()).bind(tokenizer)
