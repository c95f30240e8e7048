"""COCO's captions (arXiv:1504.00325) as they are published: one JSON object with `images` and `annotations`."""

from typing import Any

from vlmzoo_registry.errors import DataError
from vlmzoo_registry.tasks import Dataset, Sample
from vlmzoo_tasks.coco import read_tables, whole_number
from vlmzoo_tasks.config import CocoCaptionsConfig
from vlmzoo_tasks.described import described_image
from vlmzoo_tasks.rows import BadRows, caption_field, text_field


class CocoCaptionsDataset(Dataset):
    """One sample for each caption, in the order of the file: an epoch shows an image as often as it has captions (about 5).

    The file is one line, so an error names the place in it, as in `captions_train2017.json:annotations[17]`. Raises
    `DataError` with every bad entry; an image is looked at when it is called.
    """

    def __init__(self, config: CocoCaptionsConfig) -> None:
        self.config = config
        self.rows: list[tuple[int, str, str, str]] = []
        bad = BadRows(config.path)
        content = read_tables(config.path, ("images", "annotations"), "COCO's format of captions")
        files = _files(content["images"], bad)
        for number, row in enumerate(content["annotations"]):
            place = f"annotations[{number}]"
            if not isinstance(row, dict):
                bad.add(place, "row", f"must be an object of fields (is {type(row).__name__}): correct it, or drop it")
                continue
            caption, identifier, image = caption_field(row, place, bad), row.get("id"), row.get("image_id")
            if not whole_number(identifier):
                bad.add(place, "id", f"must be a whole number (is {identifier!r:.40}): correct it")
            elif not whole_number(image):
                bad.add(place, "image_id", f"must be a whole number (is {image!r:.40}): correct it")
            elif image not in files:
                bad.add(
                    place, "image_id", f"there is no image {image} among the {len(files)} of `images`: add it, or drop the row"
                )
            elif caption is not None:
                self.rows.append((number, str(identifier), files[image], caption))
        bad.raise_any(self)
        if not self.rows:
            raise DataError(f"`{config.path}` has no annotations: name a file with captions (`captions_train2017.json`)")

    def __len__(self) -> int:
        """How many captions there are."""
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """An image and one of its captions."""
        number, identifier, file, caption = self.rows[index]
        return described_image(
            identifier,
            file,
            caption,
            self.config.prompts,
            images=self.config.images,
            source=f"{self.config.path}:annotations[{number}]",
            field="image_id",
        )


def _files(images: list[Any], bad: BadRows) -> dict[int, str]:
    """The file of each image id."""
    files: dict[int, str] = {}
    for number, row in enumerate(images):
        place = f"images[{number}]"
        if not isinstance(row, dict):
            bad.add(place, "row", f"must be an object of fields (is {type(row).__name__}): correct it, or drop it")
            continue
        file = text_field(row, "file_name", place, bad)
        identifier: Any = row.get("id")
        if not whole_number(identifier):
            bad.add(place, "id", f"must be a whole number (is {identifier!r:.40}): correct it")
        elif identifier in files:
            bad.add(place, "id", f"{identifier} is the id of an earlier image too (`{files[identifier]}`): make it unique")
        elif file is not None:
            files[identifier] = file
    return files
