"""A manifest that imports a package which nobody has."""

import package_that_nobody_has  # noqa: F401
