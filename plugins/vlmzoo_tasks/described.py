"""A sample of an image and one caption, with or without a request before it: what data sets of captions share."""

from collections.abc import Sequence
from pathlib import Path

from vlmzoo_registry.tasks import IMAGE, Sample, Turn
from vlmzoo_tasks.draws import draw
from vlmzoo_tasks.rows import image_opener


def drawn(prompts: Sequence[str], identifier: str) -> str:
    """One of the prompts, by the sample's id alone: the same on every machine, in every epoch, whatever the order."""
    return prompts[draw(identifier) * len(prompts) >> 64]


def described_image(
    identifier: str, image: str, caption: str, prompts: Sequence[str], *, images: Path, source: str, field: str
) -> Sample:
    """The caption as what the assistant says when it is shown the image, and asked one of the prompts where there are any.

    `image` is a path under the folder `images`; it is opened when the sample's is called, and `field` names it in an error.
    """
    # Directly before the words, where the processor puts the image of a plain request too.
    asked = IMAGE + (drawn(prompts, identifier) if prompts else "")
    return Sample(
        id=identifier,
        turns=(Turn("user", asked), Turn("assistant", caption)),
        images=(image_opener(images, image, f"{source}: {field}"),),
        source=source,
    )
