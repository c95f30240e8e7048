"""Shape annotations are executed in every test: this must stand before anything of vlmzoo is imported that has any."""

import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

from deprecations import Deprecations
from vlmzoo.openmp import spin_bounds

# Two cores are shared by the workers of the suite; threads of one model would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(spin_bounds(os.environ))
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

# A suite that is green once is green again; `HYPOTHESIS_PROFILE=search` looks for new failures with draws of its own.
settings.register_profile("steady", derandomize=True, database=None, deadline=None)
settings.register_profile("search", derandomize=False, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))

SHAPED = [
    "vlmzoo.data",
    "vlmzoo.feature_cache",
    "vlmzoo.loss",
    "vlmzoo._loss_head",
    "vlmzoo._loss_terms",
    "vlmzoo.model",
    "vlmzoo.processor",
    "vlmzoo.training",
    "vlmzoo_registry.connector",
    "vlmzoo_registry.language",
    "vlmzoo_registry.layout",
    "vlmzoo_registry.vision",
    "vlmzoo_connectors",
    "vlmzoo_layouts",
    "vlmzoo_openclip",
    "vlmzoo_timm",
    "vlmzoo_toy",
    "vlmzoo_transformers",
]
install_import_hook(SHAPED, "shape_checker.check")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same draws, alone or in any order; tests that load no framework stay without one."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


DEPRECATIONS = Deprecations()
DEPRECATIONS.watch()


@pytest.fixture(autouse=True)
def nothing_deprecated() -> Iterator[None]:
    """What a library calls deprecated in its log is an error, as its warnings are (`filterwarnings` in `pyproject.toml`)."""
    yield
    DEPRECATIONS.check()
