"""What holds for every objective: something is supervised, within the text, and a sample without it is refused by name."""

from collections.abc import Sequence

from vlmzoo_registry.component import Component
from vlmzoo_registry.errors import DataError
from vlmzoo_registry.tasks import Objective, Rendered, Span, Template, Turn, marker_positions
from vlmzoo_registry.testing.check import CheckFailure, CheckFunction, require
from vlmzoo_registry.testing.conversations import CONVERSATIONS, as_sample
from vlmzoo_registry.testing.tiny import make, tiny_config


class BracketTemplate(Template):
    """`[role]text` for each turn, with spans over what the assistant says: a template that takes every conversation."""

    def render(self, turns: Sequence[Turn], *, prompt: bool) -> Rendered:
        """The turns one after the other."""
        text, spans = "", []
        for turn in turns:
            text += f"[{turn.role}]"
            if turn.role == "assistant" and turn.text:
                spans.append(Span(len(text), len(text) + len(turn.text)))
            text += turn.text
        text += "[assistant]" if prompt else ""
        return Rendered(text, marker_positions(text), tuple(spans), end=not prompt)


def supervises_within_the_text(component: Component) -> None:
    """Each sample that is taken has at least one supervised span, within its text, with a weight above 0 and its images kept.

    Why: a sample without a supervised token trains nothing, silently.

    If it fails: derive the spans from those of the template, and change the text only together with them.
    """
    objective = _objective(component)
    taken, refusals = 0, []
    for name, turns in CONVERSATIONS.items():
        sample = as_sample(name, turns)
        try:
            rendered = objective.render(sample, BracketTemplate())
        except DataError as error:
            refusals.append(str(error))
            require(sample.source in str(error), f"{name}: the refusal does not name {sample.source}: {error}")
            continue
        taken += 1
        length = len(rendered.text)
        require(bool(rendered.spans), f"{name}: nothing is supervised")
        wrong = [span for span in rendered.spans if not (0 <= span.start < span.end <= length and span.weight > 0)]
        require(not wrong, f"{name}: spans outside the text of {length} characters, or without weight: {wrong}")
        found = marker_positions(rendered.text)
        require(
            rendered.images == found and len(found) == len(sample.images),
            f"{name}: `images` is {rendered.images} for {len(sample.images)} images, the text has markers at {found}",
        )
    require(taken > 0, "it refuses every conversation", refusals)


def refuses_a_sample_without_a_target(component: Component) -> None:
    """A sample in which the assistant says nothing is refused with a `DataError` that names the sample's source.

    Why: the row has to be found and mended, among millions.

    If it fails: look at the spans that are left, and raise `DataError(f"{sample.source}: ...")` where there are none.
    """
    sample = as_sample("silent", (Turn("user", "Say nothing."), Turn("assistant", "")))
    try:
        rendered = _objective(component).render(sample, BracketTemplate())
    except DataError as error:
        require(sample.source in str(error), f"the refusal does not name the source {sample.source}: {error}")
        return
    raise CheckFailure(f"a sample in which the assistant says nothing is rendered with the spans {rendered.spans}")


CHECKS: tuple[CheckFunction, ...] = (supervises_within_the_text, refuses_a_sample_without_a_target)


def _objective(component: Component) -> Objective:
    return make(component, Objective, tiny_config(component))  # type: ignore[type-abstract]
