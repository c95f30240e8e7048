"""Q01 of the field's silent bugs, with SmolLM2's tokenizer: where the tokens of an answer lie is known, never counted.

`test_every_template.py` holds every template and kind of tokenizer to the same.
"""

import random
from collections.abc import Callable

import pytest
from tokenizer_kinds import made

from vlmzoo.config import load_choice
from vlmzoo.data import ImageToken, encode
from vlmzoo.data.encode import IGNORE
from vlmzoo_registry import Rendered, Template, Turn

WORDS = ["a", "red", "car", "It's", "(two", "cats)", "…", '"yes"', "-", "1.", "2024", "über", "日本", "😀", ":)", "\n", "\n\n"]


def answers(count: int) -> list[str]:
    draws = random.Random(0)
    said: list[str] = []
    while len(said) < count:
        words = "".join(draws.choice(WORDS) + draws.choice([" ", " ", "", "  "]) for _ in range(draws.randrange(1, 9))).strip()
        said += [words] if words else []
    return said


@pytest.mark.parametrize("style", ["vicuna_v1", "v0", "llama_2", "mistral_instruct"])
def test_q01_labels_bpe_border(style):
    """The tokens of 500 answers with their ends are supervised and no other, wherever their text stands."""
    tokenizer = made("SmolLM2", ("<|im_start|>", "<|im_end|>"))
    template = load_choice("template", {"name": style}).make(Template).bind(tokenizer)
    image = ImageToken("<image>", tokenizer.convert_tokens_to_ids("<image>"), 1)
    said = answers(500)
    talks = []
    for first, second in zip(said[::2], said[1::2], strict=True):
        turns = [Turn("user", "What?"), Turn("assistant", first), Turn("user", "And here?"), Turn("assistant", second)]
        talks.append(template.render(turns, prompt=False))

    def check(learnt: Callable[[Rendered], list[bool]]) -> None:
        """The characters that are learnt of each text are those of its answers; spaces have no part in it."""
        for rendered in talks:
            offsets = tokenizer(rendered.text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
            covered = {
                place for (start, end), yes in zip(offsets, learnt(rendered), strict=True) if yes for place in range(start, end)
            }
            spans = {place for span in rendered.spans for place in range(span.start, span.end)}
            assert all(rendered.text[place].isspace() for place in covered ^ spans), rendered.text

    def known(rendered: Rendered) -> list[bool]:
        return [label != IGNORE for label in encode(rendered, tokenizer, image, source="row 1").labels.tolist()]

    def counted(rendered: Rendered) -> list[bool]:
        """The field's way: each piece of the text is tokenized alone, and the numbers of tokens say where it lies.

        A prompt is written with the space behind it, which belongs to the first token of the answer.
        """
        borders = [border for span in rendered.spans for border in (span.start + 1, span.end)]
        learnt: list[bool] = []
        for number, (start, end) in enumerate(zip([0, *borders], [*borders, len(rendered.text)], strict=True)):
            tokens = tokenizer(rendered.text[start:end], add_special_tokens=False)["input_ids"]
            learnt += [number % 2 == 1] * len(tokens)
        whole = len(tokenizer(rendered.text, add_special_tokens=False)["input_ids"])
        return (learnt + [False] * whole)[:whole]

    check(known)
    with pytest.raises(AssertionError):
        check(counted)
