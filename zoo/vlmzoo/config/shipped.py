"""The recipes that come with vlmzoo: named without a path, they are read from here, and their data from where one stands."""

from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "recipes"


def shipped_recipes() -> dict[str, Path]:
    """The shipped recipes by name."""
    return {file.stem: file for file in sorted(FOLDER.glob("*.yaml"))}
