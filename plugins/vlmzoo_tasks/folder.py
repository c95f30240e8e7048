"""A folder of images, each with a file of the same name that holds its words: how many collections are kept."""

import os
from collections import defaultdict
from pathlib import Path, PurePosixPath

from vlmzoo_registry.errors import DataError
from vlmzoo_registry.tasks import Dataset, Sample
from vlmzoo_tasks.config import FolderConfig
from vlmzoo_tasks.described import described_image
from vlmzoo_tasks.rows import BadRows, caption_field

_IMAGES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"))


class FolderDataset(Dataset):
    """One sample for each image below the folder, in the order of their paths; `cat.jpg` is described in `cat.txt`.

    Hidden files and folders, and files that are neither images nor texts, are passed over; links to folders are not followed.
    Raises `DataError` with every image without words, words without image, and text that cannot be read; an image is looked
    at when it is called.
    """

    def __init__(self, config: FolderConfig) -> None:
        self.config = config
        self.rows: list[tuple[str, str]] = []  # image, caption
        bad = BadRows(config.path, folder=True)
        images, texts = _files(config)
        for stem in sorted({*images, *texts}):
            if stem not in texts:
                bad.add(images[stem][0], "text", f"`{stem}{config.text}` is missing: add it, or take the image away")
            elif stem not in images:
                bad.add(texts[stem], "image", "there is no image of this name: add it, or take the text away")
            elif len(images[stem]) > 1:
                bad.add(texts[stem], "image", f"{', '.join(images[stem])} have the same name: keep one of them")
            else:
                caption = _caption(config.path, texts[stem], bad)
                if caption is not None:
                    self.rows.append((images[stem][0], caption))
        bad.raise_any(self)
        if not self.rows:
            raise DataError(f"`{config.path}` has no images with texts (`{config.text}`): name a folder that has some")

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """An image and its words."""
        image, caption = self.rows[index]
        source = str(self.config.path / image)
        return described_image(
            image, image, caption, self.config.prompts, images=self.config.path, source=source, field="image"
        )


def _files(config: FolderConfig) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The paths of images and texts below the folder, by their path without its ending."""
    if not config.path.is_dir():
        raise DataError(f"`{config.path}` is not a folder: name the one that holds the images and their texts")
    images: dict[str, list[str]] = defaultdict(list)
    texts: dict[str, str] = {}
    for folder, below, names in os.walk(config.path, onerror=_unreadable):
        below[:] = [name for name in below if not name.startswith(".")]
        for name in sorted(names):
            path = PurePosixPath(Path(folder, name).relative_to(config.path).as_posix())
            stem = str(path.with_suffix(""))
            if name.startswith("."):
                continue
            if path.suffix == config.text:
                texts[stem] = str(path)
            elif path.suffix.lower() in _IMAGES:
                images[stem].append(str(path))
    return images, texts


def _unreadable(error: OSError) -> None:
    raise DataError(f"`{error.filename}` cannot be read ({error.strerror}): mend its permissions, or take it away") from error


def _caption(folder: Path, name: str, bad: BadRows) -> str | None:
    try:
        text = (folder / name).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        bad.add(name, "text", f"cannot be read ({type(error).__name__}: {error}): correct it, or take it away")
        return None
    return caption_field({"caption": text}, name, bad)
