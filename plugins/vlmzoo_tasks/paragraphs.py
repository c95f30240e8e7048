"""Plain text without images: what stands between two empty lines of a file is one sample."""

from vlmzoo_registry.tasks import Dataset, Sample, Turn
from vlmzoo_tasks.documents import read_blocks
from vlmzoo_tasks.rows import BadRows
from vlmzoo_tasks.text_config import ParagraphsConfig


class ParagraphsDataset(Dataset):
    """The blocks of `config.path`, lines joined by spaces. Raises `DataError` with every line that cannot be used."""

    def __init__(self, config: ParagraphsConfig) -> None:
        self._path = config.path
        bad = BadRows(config.path)
        self._blocks = read_blocks(config.path, bad)
        bad.raise_any(self)

    def __len__(self) -> int:
        """How many blocks there are."""
        return len(self._blocks)

    def __getitem__(self, index: int) -> Sample:
        """The block, as what the assistant says without being asked."""
        block = self._blocks[index]
        line = block[0][0]
        words = " ".join(words for _, words in block)
        return Sample(id=str(line), turns=(Turn("assistant", words),), images=(), source=f"{self._path}:{line}")
