"""Instruction tuning: learn what the assistant says, in every one of its turns, and nothing of what it is told."""

from vlmzoo_registry.config import NoOptions
from vlmzoo_registry.errors import DataError
from vlmzoo_registry.tasks import Objective, Rendered, Sample, Template


class InstructObjective(Objective):
    """Every assistant's turn is supervised with the token that ends it (arXiv:2304.08485, 4.2, equation 3)."""

    def __init__(self, config: NoOptions) -> None:
        pass

    def render(self, sample: Sample, template: Template) -> Rendered:
        """The sample in the style of `template`, with one span for each of the assistant's turns.

        Raises `DataError` naming `sample.source` where the template refuses the turns, where nobody asks, and where a turn of
        the assistant would not be supervised: a conversation learnt in part is not what the reader believes it is.
        """
        reasons = []
        if not any(turn.role == "user" for turn in sample.turns):
            reasons.append("there is no turn of the user: use the objective `caption`, or add what is asked")
        reasons += [
            f"turn {number} (assistant) has no words, so nothing of it is supervised: add them, or drop the row"
            for number, turn in enumerate(sample.turns)
            if turn.role == "assistant" and not turn.text.strip()
        ]
        if reasons:
            raise DataError(f"{sample.source}: this is no conversation to learn from:", reasons)
        try:
            rendered = template.render(sample.turns, prompt=False)
        except DataError as error:
            raise DataError(f"{sample.source}: {error.message}", error.reasons) from error
        answers = sum(turn.role == "assistant" for turn in sample.turns)
        if len(rendered.spans) != answers or not answers:
            raise DataError(
                f"{sample.source}: {answers} turns of the assistant, but the template marks {len(rendered.spans)} to learn: "
                "each must be one; use another template, or correct the row"
            )
        return rendered
