"""Prefix language modelling: image and prompt see each other in both directions, the answer is said from left to right."""

from typing import Literal

from vlmzoo_registry.config import NoOptions
from vlmzoo_registry.tasks import Objective, Rendered, Sample, Template
from vlmzoo_tasks.caption import CaptionObjective


class PrefixLMObjective(Objective):
    """What the assistant says is supervised, once per sample (PaliGemma, arXiv:2407.07726, section 3.1)."""

    def __init__(self, config: NoOptions) -> None:
        self._spoken = CaptionObjective(config)

    @property
    def attention(self) -> Literal["prefix"]:
        """All before the answer sees itself in both directions."""
        return "prefix"

    def render(self, sample: Sample, template: Template) -> Rendered:
        """The sample in the style of `template`, with the template's own spans. Raises `DataError` as `caption` does."""
        return self._spoken.render(sample, template)
