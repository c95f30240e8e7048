"""Files of Parquet and Arrow, read row by row when asked for; what they hold is never in memory as a whole."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from vlmzoo_registry.errors import DataError

_BATCH = 256  # rows that are looked at together


class Shard:
    """One file. It is opened when first asked, in each process by itself: an open file does not travel to another.

    Arrow files (the streams of `datasets`, and files) are mapped into memory, so a row costs what it holds. Parquet is
    compressed in groups of rows, of which the last one read is kept: rows far from each other cost a group each.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[type["Shard"], tuple[Path]]:
        return Shard, (self.path,)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The names of its columns. Raises `DataError` where it cannot be read."""
        with _named(self.path):
            schema = self._parquet.schema_arrow if self._is_parquet else self._table.schema
            return tuple(schema.names)

    def rows(self, columns: Sequence[str], pictures: str | None) -> Iterator[dict[str, Any]]:
        """Every row with these columns, and with the column of `pictures` without the bytes in it where that can be done."""
        with _named(self.path):
            if self._is_parquet:
                leaves = [self._parquet.schema.column(number).path for number in range(len(self._parquet.schema.names))]
                wanted = [leaf for leaf in leaves if leaf.split(".")[0] in columns]
                inside = [leaf for leaf in leaves if leaf.split(".")[0] == pictures]
                light = [leaf for leaf in inside if not leaf.endswith(".bytes")]
                batches = self._parquet.iter_batches(_BATCH, columns=[*wanted, *(light or inside)])
            else:
                chosen = [*columns, *([] if pictures is None else [pictures])]
                batches = iter(self._table.select(chosen).to_batches(max_chunksize=_BATCH))
        while True:
            with _named(self.path):
                batch = next(batches, None)
                if batch is None:
                    return
                rows = batch.to_pylist()
            yield from rows

    def row(self, index: int) -> dict[str, Any]:
        """The whole row at this index."""
        with _named(self.path):
            if not self._is_parquet:
                return dict(self._table.slice(index, 1).to_pylist()[0])
            group = next(number for number, end in enumerate(self._ends) if index < end)
            if self._kept is None or self._kept[0] != group:
                self._kept = (group, self._parquet.read_row_group(group))
            table = self._kept[1]
            return dict(table.slice(index - self._ends[group] + table.num_rows, 1).to_pylist()[0])

    _kept: tuple[int, Any] | None = None

    @property
    def _is_parquet(self) -> bool:
        return self.path.suffix == ".parquet"

    @cached_property
    def _parquet(self) -> Any:
        return pyarrow.parquet.ParquetFile(self.path, memory_map=True)

    @cached_property
    def _ends(self) -> list[int]:
        metadata = self._parquet.metadata
        return list(accumulate(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)))

    @cached_property
    def _table(self) -> Any:
        mapped = pyarrow.memory_map(str(self.path))
        try:
            return pyarrow.ipc.open_file(mapped).read_all()
        except pyarrow.ArrowInvalid:
            mapped.seek(0)
            return pyarrow.ipc.open_stream(mapped).read_all()


class _named:
    """Turns what Arrow raises about a file into a `DataError` that names it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, pyarrow.ArrowException | OSError | ValueError):
            said = " ".join(str(error).split())
            raise DataError(
                f"`{self.path}` cannot be read ({type(error).__name__}: {said:.200}): correct the path, or make the file again"
            ) from error


def find_shards(path: Path) -> list[Shard]:
    """The file, or those of a folder in the order of their names. Raises `DataError` where there is none."""
    if not path.is_dir():
        return [Shard(path)]
    files = sorted(file for file in path.iterdir() if file.suffix in (".arrow", ".parquet") and file.is_file())
    if not files:
        raise DataError(f"`{path}` has no `.arrow` and no `.parquet` files: name a folder that has some")
    if len({file.suffix for file in files}) > 1:
        raise DataError(f"`{path}` has `.arrow` and `.parquet` files, maybe of the same rows: name one of them, or part them")
    return [Shard(file) for file in files]
