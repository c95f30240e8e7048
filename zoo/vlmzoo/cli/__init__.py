"""The command line: `vlmzoo COMMAND`. Nothing here imports torch; a command's module is imported when it is called."""

from vlmzoo.cli.entry import main

__all__ = ["main"]
