"""The rules of mixtures: what each makes of a few conversations, written out by hand."""

import json
import pickle
from collections import Counter

import pytest
from PIL import Image

from vlmzoo.config import load_choice, load_recipe
from vlmzoo_registry import ConfigError, DataError
from vlmzoo_registry.images import ImageFile
from vlmzoo_registry.tasks import Dataset, Sample, Turn


class Rows(Dataset):
    def __init__(self, *rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


def talk(identifier, *words, image=None, system=None, tmp="/images"):
    """A conversation, question and answer in turns; `image` is marked by the words themselves."""
    turns = [Turn("system", system)] if system else []
    turns += [Turn(("user", "assistant")[number % 2], said) for number, said in enumerate(words)]
    names = [] if image is None else image.split()
    images = tuple(ImageFile(tmp / name if hasattr(tmp, "joinpath") else name, None, f"{identifier}") for name in names)
    return Sample(identifier, tuple(turns), images, f"rows.json:{identifier}")


def apply(name, rows, **options):
    rule = load_choice("rule", {"name": name, **options})
    from vlmzoo_registry.tasks import Rule

    ruled = rule.make(Rule).apply(Rows(*rows))
    samples = [ruled.rows[index] for index in range(len(ruled.rows))]
    assert pickle.loads(pickle.dumps(ruled.rows))[0] == samples[0] if samples else True  # workers get them so
    return samples, ruled.note


def said(samples):
    return [(sample.id, *(turn.text for turn in sample.turns)) for sample in samples]


def test_questions_about_one_image_become_one_conversation():
    rows = [
        talk("1", "<image>\nWhat is it?", "A dog.", image="a.jpg"),
        talk("2", "<image>\nA cat?", "Yes.", image="b.jpg"),
        talk("3", "Which colour?\n<image>", "Brown.", "Asleep?", "No.", image="a.jpg"),
        talk("4", "Hello.", "Hello!"),
        talk("5", "Hello.", "Hi."),
        talk("6", "Is <image> it old?", "No.", image="a.jpg"),
        talk("7", "<image>\nWhat is it?", "Dog", image="a.jpg", system="Be brief."),
    ]
    samples, note = apply("merge_by_image", rows)
    assert said(samples) == [
        ("1", "<image>\nWhat is it?", "A dog.", "Which colour?", "Brown.", "Asleep?", "No.", "Is it old?", "No."),
        ("2", "<image>\nA cat?", "Yes."),
        ("4", "Hello.", "Hello!"),
        ("5", "Hello.", "Hi."),
        ("7", "Be brief.", "<image>\nWhat is it?", "Dog"),
    ]
    assert [len(sample.images) for sample in samples] == [1, 1, 0, 0, 1]
    assert samples[0].source == "rows.json:1 and 2 more about its image"
    assert note == "merge_by_image: 7 samples became 5 conversations"


def test_the_form_of_the_answer_is_asked_for_behind_the_first_question_or_every_one():
    rows = [talk("1", "<image>\nWhat? ", "Dog", "Where?", "Here", image="a.jpg", system="S")]
    samples, note = apply("response_format", rows)
    asked = "Answer the question using a single word or phrase."
    assert said(samples) == [("1", "S", f"<image>\nWhat?\n{asked}", "Dog", "Where?", "Here")]
    assert note == f"response_format: behind first question of 1 conversations: {asked}"
    samples, _ = apply("response_format", rows, prompt="Briefly.", questions="every")
    assert said(samples) == [("1", "S", "<image>\nWhat?\nBriefly.", "Dog", "Where?\nBriefly.", "Here")]


def test_a_question_of_three_options_is_asked_three_times():
    prompt = "Answer with the option's letter from the given choices directly."
    rows = [talk("q", f"<image>\nWhat?\nA. cat\nB. dog\nC. cow\n{prompt}", "B", image="a.jpg")]
    samples, note = apply("rotate_options", rows)
    assert said(samples) == [
        ("q+0", f"<image>\nWhat?\nA. cat\nB. dog\nC. cow\n{prompt}", "B"),
        ("q+1", f"<image>\nWhat?\nA. cow\nB. cat\nC. dog\n{prompt}", "C"),
        ("q+2", f"<image>\nWhat?\nA. dog\nB. cow\nC. cat\n{prompt}", "A"),
    ]
    assert note == "rotate_options: 1 questions became 3"


def test_questions_without_options_are_all_named():
    rows = [
        talk("1", "What?\nA. cat\nB. dog", "cat"),
        talk("2", "What?", "A"),
        talk("3", "What?\nA. cat\nB. dog", "A", "And?", "B"),
        talk("4", "What?\nA. cat\nB. dog", "A"),
        talk("5", "What?\nA. cat\nC. dog", "A"),
    ]
    with pytest.raises(DataError) as caught:
        apply("rotate_options", rows)
    assert caught.value.message == "rule `rotate_options` cannot read 4 of 5 samples:"
    first, second, third, fourth = caught.value.reasons
    assert first == "rows.json:1: the answer 'cat' is not the letter of an option (the question has A, B)"
    assert second.endswith("(the question has no options, `A. ...` and `B. ...` on lines of their own)")
    assert third == "rows.json:3: has 2 questions, not 1: put the rule before `merge_by_image`"
    assert fourth.endswith("(the question has A)")


def test_invalid_conversations_are_left_out_and_loose_ends_cut():
    def turns(identifier, *pairs, images=()):
        return Sample(identifier, tuple(Turn(*pair) for pair in pairs), images, f"rows.json:{identifier}")

    image = (ImageFile("a.jpg", None, ""),)
    rows = [
        turns("good", ("user", "a"), ("assistant", "b")),
        turns("greeting", ("system", "s"), ("assistant", "Welcome"), ("user", "a"), ("assistant", "b"), ("user", "more")),
        turns("twice", ("user", "a"), ("user", "b"), ("assistant", "c")),
        turns("silent", ("assistant", "Welcome")),
        turns("blank", ("user", "a"), ("assistant", " ")),
        turns("picture alone", ("user", "<image>"), ("assistant", "b"), images=image),
        turns("cut picture", ("user", "a"), ("assistant", "b"), ("user", "<image>"), images=image),
    ]
    samples, note = apply("drop_invalid", rows)
    assert said(samples) == [("good", "a", "b"), ("greeting", "s", "a", "b"), ("picture alone", "<image>", "b")]
    assert note == "drop_invalid: left out 4 of 7 conversations, cut the ends off 1"


def test_long_conversations_without_image_are_cut_behind_an_exchange_or_a_word():
    rows = [
        talk("short", "aaaa", "bbbb", "cc", "dd"),
        talk("long", "aaaa", "bbbb", "cccc", "dddd"),
        talk("one", "aaaa", "bbb bbbbb bb"),
        talk("word", "aaaa", "bbbbbbbbbbbbb"),
        talk("asks", "aaaaaaaaaaaaa", "b"),
        talk("system", "aaaa", "bb", "c", "d", system="ssssss"),
        talk("image", "<image>\naaaaaaaaaaa", "bbbbbbbb", image="a.jpg"),
    ]
    samples, note = apply("shorten_text", rows, characters=12)
    assert said(samples) == [
        ("short", "aaaa", "bbbb", "cc", "dd"),
        ("long", "aaaa", "bbbb"),
        ("one", "aaaa", "bbb"),
        ("system", "ssssss", "aaaa", "bb"),
        ("image", "<image>\naaaaaaaaaaa", "bbbbbbbb"),
    ]
    assert note == "shorten_text: cut 3 of 7 conversations to 12 characters, left out 2"


@pytest.mark.parametrize(
    ("answer", "room", "kept"),
    [("one two", 7, "one two"), ("one two", 6, "one"), ("one two", 4, "one"), ("one two", 3, "one"), ("one two", 2, "")],
)
def test_answers_are_cut_where_a_word_ends(answer, room, kept):
    samples, _ = apply("shorten_text", [talk("1", "q", answer)], characters=room + 1)
    assert said(samples) == ([("1", "q", kept)] if kept else [])


def test_long_conversations_are_taken_apart_with_their_images():
    words = [word for number in range(5) for word in (f"q{number}", f"a{number}")]
    rows = [
        talk("1", f"<image>\n{words[0]}", *words[1:], image="a.jpg", system="s"),
        talk("2", "q", "a"),
        talk("3", *words[:4]),
        talk("4", *words[:6]),
    ]
    samples, note = apply("split_conversations", rows, most=2)
    assert said(samples) == [
        ("1/0", "s", "<image>\nq0", "a0", "q1", "a1"),
        ("1/1", "s", "<image>\nq2", "a2", "q3", "a3"),
        ("1/2", "s", "<image>\nq4", "a4"),
        ("2", "q", "a"),
        ("3", "q0", "a0", "q1", "a1"),
        ("4/0", "q0", "a0", "q1", "a1"),
        ("4/1", "q2", "a2"),
    ]
    assert [len(sample.images) for sample in samples] == [1, 1, 1, 0, 0, 0, 0]
    assert note == "split_conversations: 2 of 4 conversations were split, 7 are there now"
    longest = talk("5", *[word for number in range(23) for word in (f"q{number}", f"a{number}")])
    samples, _ = apply("split_conversations", [longest])  # LLaVA-1.5: fewer than 10
    assert [len(sample.turns) // 2 for sample in samples] == [9, 9, 5]
    late = talk("6", "q", "a", "<image> what?", "b", "q", "c", image="a.jpg")
    with pytest.raises(DataError, match=r"rows\.json:6: shows images in later questions"):
        apply("split_conversations", [late], most=2)


def test_some_questions_of_long_conversations_are_kept():
    words = [word for number in range(6) for word in (f"q{number}", f"a{number}")]
    rows = [talk(str(number), f"<image>\n{words[0]}", *words[1:], image="a.jpg") for number in range(40)]
    samples, note = apply("sample_exchanges", [*rows, talk("x", "q", "a")], count=2)
    assert note == "sample_exchanges: kept 2 questions of 40 of 41 conversations"
    assert said(samples)[-1] == ("x", "q", "a")
    kept = Counter()
    for sample in samples[:-1]:
        texts = [turn.text.removeprefix("<image>\n") for turn in sample.turns]
        assert sample.turns[0].text.startswith("<image>\n")
        assert len(texts) == 4
        assert texts[0] < texts[2]
        assert [text.replace("q", "a") for text in texts[::2]] == texts[1::2]
        kept.update(texts[::2])
    assert set(kept) == {f"q{number}" for number in range(6)}
    assert samples == apply("sample_exchanges", [*rows, talk("x", "q", "a")], count=2)[0]


def test_what_is_drawn_does_not_hang_on_the_order_or_on_others():
    rows = [talk(str(number), "q", f"a{number}") for number in range(200)]
    fifty, note = apply("sample", rows, count=50)
    assert note == "sample: kept 50 of 200 samples"
    backwards, _ = apply("sample", rows[::-1], count=50)
    assert {sample.id for sample in fifty} == {sample.id for sample in backwards}
    assert [int(sample.id) for sample in fifty] == sorted(int(sample.id) for sample in fifty)
    quarter = {sample.id for sample in apply("sample", rows, share=0.25)[0]}
    assert 30 <= len(quarter) <= 70
    assert {sample.id for sample in apply("sample", rows[:100], share=0.25)[0]} == quarter & {str(n) for n in range(100)}
    assert quarter < {sample.id for sample in apply("sample", rows, share=0.5)[0]}
    assert quarter != {sample.id for sample in apply("sample", rows, share=0.25, seed=1)[0]}
    assert len(apply("sample", rows, count=1000)[0]) == 200
    same_id = [talk("same", "q", f"a{number}") for number in range(200)]
    assert 30 <= len(apply("sample", same_id, share=0.25)[0]) <= 70


def test_a_source_is_drawn_so_often():
    rows = [talk(str(number), "q", "a") for number in range(200)]
    samples, note = apply("repeat", rows, times=2.5)
    often = Counter(sample.id.partition("*")[0] for sample in samples)
    assert set(often.values()) == {2, 3}
    assert 70 <= sum(count == 3 for count in often.values()) <= 130
    assert len({sample.id for sample in samples}) == len(samples)
    assert note == f"repeat: 200 samples came to {len(samples)}"
    assert len(apply("repeat", rows, times=3.0)[0]) == 600
    assert len(apply("repeat", rows, times=1.0)[0]) == 200


@pytest.mark.parametrize("name", ["merge_by_image", "split_conversations", "sample_exchanges"])
def test_turns_that_are_no_questions_with_answers_are_refused(name):
    sample = Sample("1", (Turn("assistant", "a"), Turn("user", "q")), (ImageFile("a.jpg", None, ""),), "rows.json:1")
    options = {"count": 1} if name == "sample_exchanges" else {}
    with pytest.raises(DataError) as caught:
        apply(name, [sample], **options)
    assert caught.value.message == f"rule `{name}` cannot read 1 of 1 samples:"
    assert caught.value.reasons[0] == (
        f"rows.json:1: rule `{name}` needs questions with their answers (the turns are assistant, user): "
        "put the rule `drop_invalid` before it, or drop the row"
    )


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("sample", {}, "give `count`, a number of samples, or `share`"),
        ("sample", {"count": 1, "share": 0.5}, "one of the two"),
        ("sample", {"share": 1.5}, "share"),
        ("repeat", {"times": 0.5}, "times"),
        ("response_format", {"prompt": "<image>"}, "must be words without `<image>`"),
        ("split_conversations", {"most": 0}, "most"),
    ],
)
def test_options_that_mean_nothing_are_refused(name, options, reason):
    with pytest.raises(ConfigError, match=reason):
        load_choice("rule", {"name": name, **options})


@pytest.fixture
def source(tmp_path):
    Image.new("RGB", (4, 3), "red").save(tmp_path / "a.png")
    rows = [
        {
            "id": str(number),
            "image": "a.png",
            "conversations": [{"from": "human", "value": f"<image>\nq{number}"}, {"from": "gpt", "value": "a"}],
        }
        for number in range(3)
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    return {"name": "llava", "path": str(tmp_path / "rows.json"), "images": str(tmp_path)}


def recipe(source):
    stage = {"name": "s", "objective": "instruct", "data": [source], "train": {"connector": {"lr": 1e-3}}, "batch_size": 1}
    model = {
        "architecture": "unified",
        "vision": "toy/vision",
        "connector": "toy/connector",
        "language": "toy/language",
        "template": "vicuna_v1",
    }
    return {"model": model, "stages": [{**stage, "steps": 1}]}


def test_a_recipe_lists_rules_under_its_data(source):
    plan = load_recipe(recipe({**source, "rules": ["merge_by_image", {"name": "response_format", "prompt": "Briefly."}]}))
    (choice,) = plan.stages[0].data
    rows = choice.make(Dataset)
    assert said([rows[0]]) == [("0", "<image>\nq0\nBriefly.", "a", "q1", "a", "q2", "a")]
    assert len(rows) == 1
    assert rows[0].images[0]().size == (4, 3)
    again = load_recipe(plan.dump())
    assert again == plan
    assert [rule["name"] for rule in plan.dump()["stages"][0]["data"][0]["rules"]] == [
        "tasks/merge_by_image",
        "tasks/response_format",
    ]
    assert "rules" not in load_recipe(recipe(source)).dump()["stages"][0]["data"][0]
    alone = load_recipe(recipe({**source, "rules": "merge_by_image"}), ["stages.0.data.0.rules.0.name=drop_invalid"])
    assert [rule.component.spec.name for rule in alone.stages[0].data[0].rules] == ["drop_invalid"]


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        (["merge_by_imgae"], "stages.0.data.0.rules.0.name: .*merge_by_image"),
        ([{"name": "sample", "cuont": 3}], "stages.0.data.0.rules.0.cuont: unknown key"),
        (3, "stages.0.data.0.rules: must be a list of rules"),
        ([3], r"stages.0.data.0.rules.0: must be a rule \(is 3\)"),
        ([{"count": 3}], "stages.0.data.0.rules.0.name: is missing: the name of a component"),
    ],
)
def test_rules_that_are_wrong_are_named_by_their_place(source, rules, reason):
    with pytest.raises(ConfigError, match=reason):
        load_recipe(recipe({**source, "rules": rules}))
