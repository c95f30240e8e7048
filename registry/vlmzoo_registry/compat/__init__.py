"""Every private, deprecated or version-dependent name of another library that vlmzoo leans on, one module per library.

Nothing else in vlmzoo or in a plugin of ours imports such a name (`tests/architecture/test_one_door.py`), so a new release of a
library is met here. Each entry says what it needs, since which version, and when it can go.
"""
