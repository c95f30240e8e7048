"""Errors of datasets and parts that do not say of which row they come: they are told with what could not be done.

Wherever rows are read, before the first step or in one, in whichever process, the same fault is told in the same words.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vlmzoo.training.memory import is_shortage
from vlmzoo_registry import DataError, VlmzooError


@contextmanager
def foreign_errors_named(trouble: str) -> Iterator[None]:
    """Turn whatever is raised into a `DataError` that begins with `trouble`.

    What is written for the reader already, or about memory, is passed on.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, VlmzooError) or is_shortage(error):
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise DataError(
            f"{trouble}: {type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno}); mend the dataset or the "
            "part that raised this, or drop the row"
        ) from error
