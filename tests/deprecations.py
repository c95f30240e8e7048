"""Make what other libraries call deprecated an error in every test: as a warning, and as a line of their log.

transformers says most of it by its log alone, once per process (`warning_once`); pytest sees warnings only.
"""

import logging
import re

TOLD = re.compile(r"\b(is|are|been) deprecated\b|\bdeprecated (argument|and|since|in)\b|\bwill be removed\b", re.IGNORECASE)
"""What a deprecation says of itself; the filters of `pyproject.toml` know the same words."""

KNOWN: dict[str, str] = {}
"""Deprecations that are let through: a regular expression for the message, and the place that will mend it."""

LIBRARIES = ("transformers", "peft", "accelerate", "timm", "open_clip", "huggingface_hub")


class Deprecations(logging.Handler):
    """Keep the lines of these libraries' logs that tell of something deprecated."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line, unless it is known."""
        message = record.getMessage()
        if TOLD.search(message) and not any(re.search(known, message) for known in KNOWN):
            self.found.append(f"{record.name}: {message}")

    def watch(self) -> None:
        """Listen to the logs of the libraries."""
        for library in LIBRARIES:
            logging.getLogger(library).addHandler(self)

    def check(self) -> None:
        """Fail with what was found since the last time."""
        found, self.found = self.found, []
        assert not found, f"deprecated by a library; mend the call, in `vlmzoo_registry.compat`: {'; '.join(found)}"
