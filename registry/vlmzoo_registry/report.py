"""One line about an exception from a plugin: its type, its message, and the file and line where it began."""

import importlib
import traceback
from pathlib import Path

import pydantic
from pydantic import ValidationError

_BETWEEN = tuple(str(Path(file).parent) for file in (__file__, importlib.__file__, pydantic.__file__))


def failure(error: BaseException) -> str:
    """`TypeName: message (file:line)`, on one line; the place is the plugin's last line on the way to the error."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({error.filename}:{error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(("<frozen", *_BETWEEN))]
    place = f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {_message(error)}{place}"


def _message(error: BaseException) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(
            f"{error.title} field `{'.'.join(str(part) for part in reason['loc'])}` (={reason['input']!r}): {reason['msg']}"
            for reason in error.errors()
        )
    return " ".join(str(error).split()) or "no message"
