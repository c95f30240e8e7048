"""What holds for every connector that maps tokens to tokens: it says beforehand what comes out, or refuses and says why."""

import torch

from vlmzoo_registry.component import Component
from vlmzoo_registry.connector import Connector, ConnectorContext, InstructedConnector
from vlmzoo_registry.errors import AssemblyError
from vlmzoo_registry.features import FeatureShape
from vlmzoo_registry.report import failure
from vlmzoo_registry.testing.check import CheckFunction, require
from vlmzoo_registry.testing.connector_harness import SHAPES, ConnectorHarness, connected, contexts, features_of
from vlmzoo_registry.testing.part_checks import ROWS
from vlmzoo_registry.testing.tiny import tiny_config
from vlmzoo_registry.vision import VisionFeatures


def returns_what_it_declares(component: Component) -> None:
    """For every grid it takes, width, count, grid and prefix that come out are those of `output_shape`; so is a given width.
    An `InstructedConnector`, and no other, has the capability `text`.

    Why: the number of image slots in the text and every later width are derived from it before anything runs.

    If it fails: `output_grid` and `token_count` must follow the same arithmetic as `forward`, for grids that are not square
    and tokens without a place too; where the context gives an `output_width`, that is the width that comes out.
    """
    reasons = []
    says, reads = "text" in component.spec.capabilities, isinstance(ConnectorHarness(component).build(), InstructedConnector)
    if says != reads:
        reasons.append(
            f"its description {'has' if says else 'lacks'} the capability `text`, and it is "
            f"{'an' if reads else 'no'} `InstructedConnector`"
        )
    for context in contexts():
        connector = _made(component, context)
        for shape in (context.input, *SHAPES):
            taken = None if connector is None else _taken(connector, shape)
            if taken is None:
                continue
            declared, features = taken
            rows, count, width = features.tokens.shape
            came = (width, count, features.grid, features.prefix)
            if rows != ROWS or came != (declared.width, declared.count, declared.grid, declared.prefix):
                reasons.append(
                    f"for {ROWS} rows of {shape} it declares {declared}, and {rows} rows of {count} tokens of width {width} "
                    f"(grid {features.grid}, prefix {features.prefix}) came out"
                )
            if context.output_width not in (None, width):
                reasons.append(f"`output_width` {context.output_width} is asked for, and tokens of width {width} came out")
    require(not reasons, "what comes out is not what was declared", list(dict.fromkeys(reasons)))


def refuses_with_an_assembly_error(component: Component) -> None:
    """A grid or width that the connector cannot take is refused with an `AssemblyError`, when it is built or declared.

    Why: the assembler collects these refusals and shows all of them with the numbers, before a weight is downloaded; any other
    error is a crash, and a refusal only in `forward` comes after hours of loading.

    If it fails: check the grid, the prefix and `output_width` in the constructor and in `output_grid` and `token_count`, and
    raise `AssemblyError` with both numbers and what to do.
    """
    harness = ConnectorHarness(component)
    assert harness.context  # some neighbours it agrees with
    reasons = []
    for context in contexts():
        try:
            connector = harness.make_in(tiny_config(component), context)
        except AssemblyError:
            continue
        except Exception as error:
            reasons.append(f"built for {context.input}, `output_width` {context.output_width}: {failure(error)}")
            continue
        for shape in (context.input, *SHAPES):
            reasons += _crashes(connector, shape)
    require(not reasons, "it ends with another error than `AssemblyError`", list(dict.fromkeys(reasons)))


CHECKS: tuple[CheckFunction, ...] = (returns_what_it_declares, refuses_with_an_assembly_error)


def _made(component: Component, context: ConnectorContext) -> Connector | None:
    """The connector between these neighbours; None where it refuses them (how it does so is another check)."""
    try:
        return ConnectorHarness(component).make_in(tiny_config(component), context).eval()
    except Exception:
        return None


def _taken(connector: Connector, shape: FeatureShape) -> tuple[FeatureShape, VisionFeatures] | None:
    """What is declared for this shape and what comes out; None where it is not taken."""
    try:
        with torch.no_grad():
            return connector.output_shape(shape), connected(connector, features_of(shape, ROWS))
    except Exception:
        return None


def _crashes(connector: Connector, shape: FeatureShape) -> list[str]:
    """What a connector ends with for this shape, unless it takes it or refuses it beforehand."""
    try:
        connector.output_shape(shape)
    except AssemblyError:
        return []
    except Exception as error:
        return [f"asked what comes out for {shape}: {failure(error)}"]
    try:
        with torch.no_grad():
            connected(connector, features_of(shape, 1))
    except Exception as error:
        return [f"`output_shape` takes {shape}, but `forward` does not: {failure(error)}"]
    return []
