"""Widths that a connector chooses itself, checked against the width that what follows needs."""

from dataclasses import replace

from vlmzoo_registry import AssemblyError, ConnectorContext


def with_width(part: str, context: ConnectorContext, width: int | None) -> ConnectorContext:
    """The same neighbours, with the option `width` as what comes out; raises `AssemblyError` where another one is needed."""
    if width is None:
        return context
    if context.output_width not in (None, width):
        raise AssemblyError(
            f"`{part}`: `width` (={width}) is not the width {context.output_width} that is needed: leave `width` out at the "
            "end of a chain, or let `connectors/linear` follow"
        )
    return replace(context, output_width=width)


def keeping_width(part: str, context: ConnectorContext) -> ConnectorContext:
    """The same neighbours, with the width that comes in as what comes out; raises `AssemblyError` where another is needed."""
    misfit = width_misfit(context.input.width, context.output_width)
    if misfit:
        raise AssemblyError(f"`{part}` does not fit to {context.input}", misfit)
    return replace(context, output_width=context.input.width)


def width_misfit(width: int, needed: int | None) -> list[str]:
    """Why tokens of this width cannot come out, if so."""
    if needed in (None, width):
        return []
    return [f"it puts out width {width} where {needed} is needed: let `connectors/linear` or `connectors/mlp` follow it"]
