"""Plain causal language modelling: learn every token of the text, whoever says it; images are read, never learnt."""

from vlmzoo_registry.config import NoOptions
from vlmzoo_registry.tasks import Objective, Rendered, Sample, Template
from vlmzoo_tasks.all_text import all_text


class TextObjective(Objective):
    """Every character of the text is supervised; the first token, which nothing predicts, is not."""

    def __init__(self, config: NoOptions) -> None:
        pass

    def render(self, sample: Sample, template: Template) -> Rendered:
        """The sample in the style of `template`, with one span over all of it."""
        return all_text(sample, template)
