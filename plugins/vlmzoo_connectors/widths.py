"""The rule by which a connector finds the width it must put out, and what it says where the rule gives none."""

from vlmzoo_registry import AssemblyError, ConnectorContext


def projected_width(name: str, context: ConnectorContext) -> int:
    """The width that is asked for, or else that of the language model.

    Raises `AssemblyError` where neither is known.
    """
    width = context.output_width or context.language_width
    if width < 1:
        raise AssemblyError(
            f"`{name}` maps tokens of width {context.input.width} to the width of the language model, and that is not known: "
            f"`output_width` (={context.output_width}), `language_width` (={context.language_width})"
        )
    return width
