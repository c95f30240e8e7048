"""Refuses that a part ends the process: `sys.exit(0)` in a forward or a dataset would look like a run that succeeded."""

import functools
import traceback
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from vlmzoo_registry import PluginError

P = ParamSpec("P")
R = TypeVar("R")


class AskedToExit(SystemExit):
    """The exit that a signal handler of the caller asks for, once a run is saved; it is let through."""


def refuses_exit(function: Callable[P, R]) -> Callable[P, R]:
    """Turn a `SystemExit` inside of a function, whatever its code, into a `PluginError` that names the place."""

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except AskedToExit:
            raise
        except SystemExit as exit_:
            place = traceback.extract_tb(exit_.__traceback__)[-1]
            raise PluginError(
                f"`sys.exit({exit_.code!r})` was called in {place.filename}:{place.lineno} (`{place.name}`), in the middle of "
                f"`{function.__name__}`: what runs in it must raise an exception that says what is wrong"
            ) from exit_

    return guarded
