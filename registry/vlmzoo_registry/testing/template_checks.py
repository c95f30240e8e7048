"""What holds for every template: it knows where the images stand and which characters the assistant says."""

from collections.abc import Iterator
from itertools import pairwise

from vlmzoo_registry.component import Component
from vlmzoo_registry.errors import DataError
from vlmzoo_registry.report import failure
from vlmzoo_registry.tasks import IMAGE, Rendered, Template, Turn, marker_positions
from vlmzoo_registry.testing.check import CheckFailure, CheckFunction, require
from vlmzoo_registry.testing.conversations import CONVERSATIONS
from vlmzoo_registry.testing.tiny import make, tiny_config


def renders_or_refuses(component: Component) -> None:
    """A template renders a conversation, the same every time, or refuses it with a `DataError`; it takes at least one.

    Why: the error is shown with the row it came from; anything else is a crash in the middle of a data set.

    If it fails: raise `DataError` with what the template takes and what it was given, and keep no state between calls.
    """
    template = _template(component)
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
    """Spans lie within the text, ascending, without overlap, and hold all that the assistant says and nothing of the user's.

    Why: they are what is learnt. The field's most reported bug is a model that is trained on its prompts, or on nothing.

    If it fails: note the start and end of each piece while the text is put together; never search for it afterwards.
    """
    for name, turns, rendered in _rendered(component):
        length = len(rendered.text)
        outside = [span for span in rendered.spans if not 0 <= span.start < span.end <= length]
        require(not outside, f"{name}: spans outside the text of {length} characters: {outside}")
        overlapping = [pair for pair in pairwise(rendered.spans) if pair[0].end > pair[1].start]
        require(not overlapping, f"{name}: spans that overlap or do not ascend: {overlapping}")
        supervised = [rendered.text[span.start : span.end] for span in rendered.spans]
        for turn in turns:
            said = turn.text.replace(IMAGE, "").strip()
            held = any(said in text for text in supervised)
            if turn.role == "assistant":
                require(held, f"{name}: {said!r} of the assistant is in no span: {supervised}")
            elif said:
                require(not held, f"{name}: {said!r} of the {turn.role} is in a span: {supervised}")
        require(IMAGE not in "".join(supervised), f"{name}: a span holds an image: {supervised}")


def prompt_begins_the_text(component: Component) -> None:
    """The prompt is the beginning of the full text, up to where the last answer starts; it has no end token.

    Why: a model answers well only to what it was trained to answer to, down to the last space.

    If it fails: render the prompt by the same code as the text, with the last answer left out; what stands between the role
    and the answer (a space, a line break) belongs to the prompt.
    """
    compared = 0
    template = _template(component)
    for name, turns, rendered in _rendered(component):
        try:
            prompt = template.render(turns[:-1], prompt=True)
        except DataError as error:
            raise CheckFailure(f"{name}: rendered as a text, but refused as a prompt: {error}") from error
        begins = rendered.text.startswith(prompt.text)
        require(begins, f"{name}: the prompt {prompt.text!r} does not begin the text {rendered.text!r}")
        length, start = len(prompt.text), rendered.spans[-1].start if rendered.spans else None
        require(length == start, f"{name}: the prompt has {length} characters, and the last answer starts at {start}")
        require(not prompt.end, f"{name}: the end token would follow the prompt")
        compared += 1
    require(compared > 0, "nothing was compared")


CHECKS: tuple[CheckFunction, ...] = (
    renders_or_refuses,
    images_are_where_it_says,
    spans_are_what_the_assistant_says,
    prompt_begins_the_text,
)


def _template(component: Component) -> Template:
    return make(component, Template, tiny_config(component))  # type: ignore[type-abstract]


def _rendered(component: Component) -> Iterator[tuple[str, tuple[Turn, ...], Rendered]]:
    """The conversations that the template takes; raises `CheckFailure` where it refuses all."""
    template = _template(component)
    refusals = []
    for name, turns in CONVERSATIONS.items():
        try:
            rendered = template.render(turns, prompt=False)
        except DataError as error:
            refusals.append(f"{name}: {error}")
        else:
            yield name, turns, rendered
    require(len(refusals) < len(CONVERSATIONS), "it refuses every conversation", refusals)
