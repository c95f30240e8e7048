"""What a reader sees of an error: the message, its reasons, and what to do; no traceback."""

import sys
import traceback
from pathlib import Path


def report_failure(error: Exception) -> int:
    """Print the error on stderr and return the exit code.

    An error that is not one of vlmzoo's own is a fault of the program, and the line says so; libraries outside of the tested
    versions are named first where the error comes from them.
    """
    from rich.console import Console
    from rich.text import Text

    from vlmzoo.tested_versions import version_notes
    from vlmzoo_registry.errors import VlmzooError

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    notes = version_notes(error)
    if isinstance(error, VlmzooError):
        message, reasons, code = error.message, (*error.reasons, *notes), error.exit_code
    else:
        frames = traceback.extract_tb(error.__traceback__)
        place = [frame for frame in frames if not frame.filename.startswith("<frozen")][-1]
        message = f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
        fault = "this is a fault of the program, not of yours: `vlmzoo --debug ...` shows the traceback"
        reasons, code = (*notes, f"if that does not help, {fault}" if notes else fault), 1
    sys.stdout.flush()
    console.print(Text.assemble(("error: ", "bold red"), message))
    for reason in reasons:
        console.print(Text.assemble(("  - ", "red"), reason))
    return code
