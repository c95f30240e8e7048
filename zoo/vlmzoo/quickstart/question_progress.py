"""How many questions are asked: a bar in a terminal, plain lines by the clock in a pipe."""

import time
from types import TracebackType

from rich.console import Console

from vlmzoo.passing_bar import passing_bar

_SECONDS = 20.0
"""Between two lines in a pipe, where the batch under way is done by then."""


class QuestionProgress:
    """To be used in a `with`; nothing is shown where `console` is None."""

    def __init__(self, console: Console | None, questions: int) -> None:
        self._console, self._questions = console, questions
        bar = console is not None and console.is_terminal
        self._bar = passing_bar(console if bar else None, "questions")
        self._task = self._bar.add_task("asking", total=questions)
        self._line(0)

    def __enter__(self) -> "QuestionProgress":
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def asked(self, number: int) -> None:
        """So many questions are asked by now."""
        self._bar.update(self._task, completed=number)
        if number == self._questions or time.monotonic() - self._told >= _SECONDS:
            self._line(number)

    def _line(self, number: int) -> None:
        self._told = time.monotonic()
        if self._console is not None and not self._console.is_terminal:
            self._console.print(f"asking about held-out pictures: {number} of {self._questions} questions", soft_wrap=True)
