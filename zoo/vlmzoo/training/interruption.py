"""Signals that ask a run to end: the first is kept until the step is done and saved, a second ends the run at once."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, NoReturn

from vlmzoo.exits import AskedToExit

ASKING = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """While it is entered, the first SIGINT or SIGTERM is only noted, in `number`; then the earlier handlers are back.

    Does nothing outside of the main thread, where Python takes no signals, and for signals that the process ignores.
    """

    def __init__(self) -> None:
        self.number = 0
        self._earlier: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            for number in ASKING:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._earlier[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()

    def leave(self, number: int) -> NoReturn:
        """Let the signal have the effect that it would have had: an exception of the earlier handler, or the process ends."""
        self._restore()
        try:
            signal.raise_signal(number)
        except SystemExit as exit_:
            raise AskedToExit(exit_.code) from exit_
        raise KeyboardInterrupt(signal.Signals(number).name)  # whatever the handler did, this run is over

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)
        self._earlier.clear()
