"""Text of the data as it can be shown: what cannot be seen, or would drive a terminal or a page, by its escape."""


def visible(text: str) -> str:
    """Line breaks with a mark before them; other characters that have no shape as their escapes."""
    return "".join("↵\n" if character == "\n" else _shape(character) for character in text)


def on_one_line(text: str) -> str:
    """The same in one line."""
    return "".join(map(_shape, text))


def _shape(character: str) -> str:
    return character if character.isprintable() else repr(character)[1:-1]
