"""What holds for every template: it knows where the images stand and which characters the assistant says."""

from collections.abc import Iterator
from itertools import pairwise

from transformers import PreTrainedTokenizerFast

from vlmzoo_registry.component import Component
from vlmzoo_registry.errors import DataError
from vlmzoo_registry.report import failure
from vlmzoo_registry.tasks import IMAGE, Rendered, Template, Turn, marker_positions
from vlmzoo_registry.testing.chat_tokenizer import chat_tokenizer
from vlmzoo_registry.testing.check import CheckFailure, CheckFunction, require
from vlmzoo_registry.testing.conversations import CONVERSATIONS
from vlmzoo_registry.testing.tiny import make, tiny_config


def renders_or_refuses(component: Component) -> None:
    """A template renders a conversation, the same every time, or refuses it with a `DataError`; it takes at least one.

    Why: the error is shown with the row it came from; anything else is a crash in the middle of a data set.

    If it fails: raise `DataError` with what the template takes and what it was given, and keep no state between calls.
    """
    template = _bound(component)[0]
    reasons = []
    for name, turns in CONVERSATIONS.items():
        for prompt in (False, True):
            given = turns[:-1] if prompt else turns
            try:
                once, twice = (template.render(given, prompt=prompt) for _ in range(2))
            except DataError:
                continue
            except Exception as error:
                reasons.append(f"{name}, prompt={prompt}: {failure(error)}")
                continue
            if once != twice:
                reasons.append(f"{name}, prompt={prompt}: rendered twice, it is {once!r} and then {twice!r}")
    require(not reasons, "conversations are neither rendered nor refused", reasons)
    list(_rendered(component))


def images_are_where_it_says(component: Component) -> None:
    """`images` are the places of `<image>` in the text, one for each marker of the turns, in their order.

    Why: each place gets the tokens of one image; one too many or too few shifts every later image.

    If it fails: build the text first and take the places from it with `vlmzoo_registry.tasks.marker_positions`.
    """
    for name, turns, rendered in _rendered(component):
        markers = sum(turn.text.count(IMAGE) for turn in turns)
        found = marker_positions(rendered.text)
        require(rendered.images == found, f"{name}: `images` is {rendered.images}, the text has markers at {found}")
        require(len(found) == markers, f"{name}: the turns have {markers} markers, the text {len(found)}")


def spans_are_what_the_assistant_says(component: Component) -> None:
    """There is one span for each answer: its words and the token that ends it, spaces around them at most, and nothing else.

    Why: they are what is learnt. The field's most reported bug is a model that is trained on its prompts, or on nothing.

    If it fails: note the start and end of each piece while the text is put together; never search for it afterwards.
    """
    template = _bound(component)[0]
    stop = template.stop or template.stop_words or ""
    for name, turns, rendered in _rendered(component):
        length = len(rendered.text)
        outside = [span for span in rendered.spans if not 0 <= span.start < span.end <= length]
        require(not outside, f"{name}: spans outside the text of {length} characters: {outside}")
        overlapping = [pair for pair in pairwise(rendered.spans) if pair[0].end > pair[1].start]
        require(not overlapping, f"{name}: spans that overlap or do not ascend: {overlapping}")
        supervised = [rendered.text[span.start : span.end] for span in rendered.spans]
        said = [turn.text.strip() for turn in turns if turn.role == "assistant"]
        found = [text.removesuffix(stop).strip() for text in supervised]
        require(found == said, f"{name}: the assistant says {said}, and the spans hold {supervised}")


def answers_end_as_generation_does(component: Component) -> None:
    """Each answer ends with the template's `stop`, one token for the tokenizer, or with its `stop_words`, which no answer may
    contain; without either, the tokenizer's end token follows.

    Why: a model that never learnt how answers end talks on until it is cut off.

    If it fails: end each span with the token that `stop` names or the words of `stop_words`, or return `end=True` where there
    is one answer. Refuse answers that contain the words with a `DataError`.
    """
    template, tokenizer = _bound(component)
    stop, words = template.stop, template.stop_words
    require(stop is None or words is None, f"answers end with `stop` (={stop!r}) and `stop_words` (={words!r}): return one")
    if stop is not None:
        ids = tokenizer(stop, add_special_tokens=False)["input_ids"]
        require(len(ids) == 1, f"`stop` (={stop!r}) is {len(ids)} tokens: name it in `control_tokens`, or end with `eos_token`")
    if words is not None:
        _refuses_an_answer_with(words, template)
        stop = words
    for name, _, rendered in _rendered(component):
        if stop is None:
            require(rendered.end, f"{name}: `stop` is None and `end` is False, so no end is learnt")
            require(len(rendered.spans) < 2, f"{name}: {len(rendered.spans)} answers, but only the last one ends")
            continue
        endless = [span for span in rendered.spans if not rendered.text[span.start : span.end].endswith(stop)]
        require(not endless, f"{name}: answers that do not end with `{stop}`: {endless}")
        require(not rendered.end, f"{name}: the end token would follow `{stop}`, which ends the answer already")


def prompt_begins_the_text(component: Component) -> None:
    """The prompt of each answer is the beginning of the full text, up to where that answer starts; it has no end token.

    Why: a model answers well only to what it was trained to answer to, down to the last space.

    If it fails: render the prompt by the same code as the text, with the answer left out. What stands between the role and
    the answer belongs to the prompt where it is a line break, and to the answer where it is a space.
    """
    compared = 0
    for name, turns, prompt, rendered, start in _prompts(component):
        begins = rendered.text.startswith(prompt.text)
        require(begins, f"{name}: the prompt {prompt.text!r} does not begin the text {rendered.text!r}")
        length = len(prompt.text)
        require(
            length == start,
            f"{name}: after {len(turns)} turns the prompt has {length} characters, the answer starts at {start}",
        )
        require(not prompt.end, f"{name}: the end token would follow the prompt")
        compared += 1
    require(compared > 0, "nothing was compared")


def prompt_has_the_ids_of_the_text(component: Component) -> None:
    """The ids of each prompt are the first ids of the full text.

    Why: a space at the end of a prompt is a token of its own, and one with the first word in training: generation would start
    from what the model has never seen.

    If it fails: end the prompt with a special token, a line break or a colon, and let the answer begin with the space.
    """
    tokenizer = _bound(component)[1]
    for name, _, prompt, rendered, _ in _prompts(component):
        ids, full = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt.text, rendered.text))
        if ids != full[: len(ids)]:
            place = next(place for place, (a, b) in enumerate(zip(ids, full, strict=False)) if a != b)
            alone, followed = (tokenizer.convert_ids_to_tokens(row[place : place + 2]) for row in (ids, full))
            raise CheckFailure(
                f"{name}: the prompt {prompt.text[-20:]!r} ends in {alone}, but {followed} stands there in training"
            )


CHECKS: tuple[CheckFunction, ...] = (
    renders_or_refuses,
    images_are_where_it_says,
    spans_are_what_the_assistant_says,
    answers_end_as_generation_does,
    prompt_begins_the_text,
    prompt_has_the_ids_of_the_text,
)


def _refuses_an_answer_with(words: str, template: Template) -> None:
    try:
        template.render((Turn("user", "Say it."), Turn("assistant", f"It is{words} a bird.")), prompt=False)
    except DataError:
        return
    raise CheckFailure(f"an answer that contains `stop_words` (={words!r}) is not refused: generation would end within it")


def _bound(component: Component) -> tuple[Template, PreTrainedTokenizerFast]:
    """The template, bound to a tokenizer that has the tokens it asks for."""
    template = make(component, Template, tiny_config(component))  # type: ignore[type-abstract]
    tokenizer = chat_tokenizer(template.control_tokens)
    return template.bind(tokenizer), tokenizer


def _prompts(component: Component) -> Iterator[tuple[str, tuple[Turn, ...], Rendered, Rendered, int]]:
    """For each answer: the turns before it, their prompt, the full text, and where in it the answer starts."""
    template = _bound(component)[0]
    for name, turns, rendered in _rendered(component):
        answers = [number for number, turn in enumerate(turns) if turn.role == "assistant"]
        require(len(answers) == len(rendered.spans), f"{name}: {len(answers)} answers, {len(rendered.spans)} spans")
        for number, span in zip(answers, rendered.spans, strict=True):
            try:
                prompt = template.render(turns[:number], prompt=True)
            except DataError as error:
                raise CheckFailure(f"{name}: rendered as a text, but refused as a prompt: {error}") from error
            yield name, turns[:number], prompt, rendered, span.start


def _rendered(component: Component) -> Iterator[tuple[str, tuple[Turn, ...], Rendered]]:
    """The conversations that the template takes; raises `CheckFailure` where it refuses all."""
    template = _bound(component)[0]
    refusals = []
    for name, turns in CONVERSATIONS.items():
        try:
            rendered = template.render(turns, prompt=False)
        except DataError as error:
            refusals.append(f"{name}: {error}")
        else:
            yield name, turns, rendered
    require(len(refusals) < len(CONVERSATIONS), "it refuses every conversation", refusals)
