"""Images with a caption each: rows `{image, caption[, id]}` and a folder of images."""

from vlmzoo_registry.tasks import Dataset, Sample
from vlmzoo_tasks.config import CaptionsConfig
from vlmzoo_tasks.described import described_image
from vlmzoo_tasks.rows import BadRows, caption_field, read_rows, row_id, text_field


class CaptionsDataset(Dataset):
    """The rows of `config.path`. Raises `DataError` with every bad row; an image is looked at when it is called."""

    def __init__(self, config: CaptionsConfig) -> None:
        self.images = config.images
        self.path = config.path
        self.rows: list[tuple[int, str, str, str]] = []
        bad = BadRows(config.path)
        for line, row in read_rows(config.path, bad):
            identifier = row_id(row, line, bad)
            image, caption = text_field(row, "image", line, bad), caption_field(row, line, bad)
            if image is not None and caption is not None:
                self.rows.append((line, identifier, image, caption))
        bad.raise_any(self)

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """The image and its caption, as what the assistant says when it is shown the image."""
        line, identifier, image, caption = self.rows[index]
        source = f"{self.path}:{line}"
        return described_image(identifier, image, caption, (), images=self.images, source=source, field="image")
