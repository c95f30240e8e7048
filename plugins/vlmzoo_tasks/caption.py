"""Captioning: learn to say everything the assistant says. The first stage of LLaVA and of most models after it."""

from vlmzoo_registry.config import NoOptions
from vlmzoo_registry.errors import DataError
from vlmzoo_registry.tasks import Objective, Rendered, Sample, Template


class CaptionObjective(Objective):
    """Every character of the assistant's turns is supervised, and the end token behind the last one."""

    def __init__(self, config: NoOptions) -> None:
        pass

    def render(self, sample: Sample, template: Template) -> Rendered:
        """The sample in the style of `template`, with the template's own spans.

        Raises `DataError` naming `sample.source` where the template refuses the turns or the assistant says nothing.
        """
        try:
            rendered = template.render(sample.turns, prompt=False)
        except DataError as error:
            raise DataError(f"{sample.source}: {error.message}", error.reasons) from error
        if not rendered.spans:
            raise DataError(
                f"{sample.source}: the assistant says nothing, so nothing is supervised: add its words, or drop the row"
            )
        return rendered
