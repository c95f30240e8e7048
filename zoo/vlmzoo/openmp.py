"""Bounds how long the threads of OpenMP spin while they wait for each other.

The runtimes let a waiting thread spin long before it sleeps. On an idle machine that gains next to nothing; where other
processes want the cores too, those that spin hold up the ones that they wait for, and a step takes many times as long.

Runtimes read these variables when they are loaded: set them before torch is imported. Nothing here imports it.
"""

from collections.abc import Mapping

WAIT_POLICY = "OMP_WAIT_POLICY"

SPIN_BOUNDS = {
    # libgomp, in torch's wheels for Linux: rounds of a loop, here a fraction of a millisecond; its own default is 300,000.
    "GOMP_SPINCOUNT": "10000",
    # The runtimes of LLVM and Intel: milliseconds, of which this is the shortest time but none at all; their own default is
    # 200. Written without a unit: suffixes (`us`) are new, and earlier runtimes refuse them.
    "KMP_BLOCKTIME": "1",
}
"""The variable of each runtime, and its bound."""


def spin_bounds(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that bound the spinning and that this environment lacks.

    None where it says itself how threads wait (`OMP_WAIT_POLICY`): in every runtime a bound would take its place.
    """
    if WAIT_POLICY in environment:
        return {}
    return {name: bound for name, bound in SPIN_BOUNDS.items() if name not in environment}
