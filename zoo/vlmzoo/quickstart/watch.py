"""What a model says of one picture while it trains: people watch it learn to speak."""

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from vlmzoo.config import StageConfig
from vlmzoo.model.vlm import VLM
from vlmzoo.quickstart.words import on_line
from vlmzoo.say import say
from vlmzoo.training.samples import evaluation_collator
from vlmzoo_registry import Sample

EVERY = 50
"""Steps between two looks; the first is before the first step."""

_MOST = 32
"""Characters of an answer, so that two stand on a line of 80; what has not learnt to stop talks on."""


class Watch:
    """An observer of training that asks every question about one picture that is not trained on, and prints what is said.

    `samples` are the questions, all about the same picture.
    """

    def __init__(self, samples: Sequence[Sample], stage: StageConfig, console: Console, *, most_tokens: int) -> None:
        self._samples, self._stage, self._console, self._most_tokens = samples, stage, console, most_tokens
        self._told = False

    def __call__(self, model: VLM, step: int) -> None:
        """Ask, at every `EVERY`th step."""
        if step % EVERY:
            return
        if not self._told:
            truths = ", ".join(sample.turns[-1].text for sample in self._samples)
            self._print(f"What it says every {EVERY} steps of a held-out picture ({on_line(truths)}):")
            self._told = True
        batch = evaluation_collator(model, self._stage).prompts(self._samples)
        batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
        said = [_shown(text) for text in say(model, batch, self._most_tokens)]
        self._print(f"step {step:>3}: {', '.join(said)}")

    def _print(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)


def _shown(text: str) -> str:
    line = on_line(text) or "(nothing)"
    return line if len(line) <= _MOST else line[: _MOST - 1] + "…"
