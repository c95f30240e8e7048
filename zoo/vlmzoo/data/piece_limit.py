"""What a piece may hold at most, asked of one sample: the same answer before training and when its batches are made."""

from vlmzoo.data.collate import Collator
from vlmzoo_registry.tasks import Sample


def views_of(sample: Sample, collate: Collator) -> int:
    """How many views of its images the encoder sees."""
    return sum(collate.images.count(collate.images.arrangement(image, sample.source)) for image in sample.images)


def beyond_a_piece(tokens: int, views: int, *, max_tokens: int | None, max_images: int | None) -> list[str]:
    """Why a sample of so many tokens and views is longer than a piece may be; nothing where it is not."""
    return [
        f"{count} {unit} are more than `batching.{option}` (={most}) allows one piece"
        for option, most, count, unit in (
            ("max_tokens", max_tokens, tokens, "tokens"),
            ("max_images", max_images, views, "images (views of them)"),
        )
        if most is not None and count > most
    ]
