"""Words of a model as they can be shown."""


def on_line(text: str) -> str:
    """A text on one line; what moves a terminal's cursor or has no shape is shown as a replacement character."""
    return "".join(character if character.isprintable() else "\ufffd" for character in " ".join(text.split()))
