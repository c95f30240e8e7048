"""The real parts, converted once per test session; where their packages are absent the tests say so and are skipped."""

from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec

import pytest

from vlmzoo.quickstart import assets


@pytest.fixture(scope="session")
def parts(tmp_path_factory):
    for package in (source.package for source in (assets.VISION, assets.LANGUAGE, assets.OPENMOJI, assets.TWEMOJI)):
        try:
            distribution(package)
        except PackageNotFoundError:
            pytest.skip(f"`{package}` is not installed: `make quickstart` installs it")
    for module in ("gguf", "resvg_py"):
        if find_spec(module) is None:
            pytest.skip(f"`{module}` is not installed: `make quickstart` installs it")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLMZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
        return assets.prepare(lambda line: None)
