"""What the installed metadata says about plugins: read as text, distribution by distribution, importing none of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, PathDistribution, distributions
from pathlib import Path

from packaging.utils import canonicalize_name

from vlmzoo_registry.hooks import ENTRY_POINT_GROUP


@dataclass(frozen=True)
class PluginDistribution:
    """An installed distribution with entry points of the group `vlmzoo.plugins`.

    `entry_points` are (name, value) pairs; `error` says why there are none where its metadata cannot be read; `folder` is its
    `*.dist-info`.
    """

    name: str
    version: str
    entry_points: tuple[tuple[str, str], ...]
    folder: Path | None
    error: str = ""


def plugin_distributions(path: Sequence[str]) -> list[PluginDistribution]:
    """Every distribution on this path with entry points of the group, in the order of the path, duplicates included."""
    found: list[PluginDistribution] = []
    for distribution in distributions(path=list(path)):
        plugin = _read(distribution)
        if plugin is not None and all(plugin.folder is None or plugin.folder != other.folder for other in found):
            found.append(plugin)
    return found


def first_of_each(found: Sequence[PluginDistribution]) -> list[PluginDistribution]:
    """Without later duplicates of a distribution: Python imports the modules of the one that comes first on the path."""
    first: dict[str, PluginDistribution] = {}
    for distribution in found:
        first.setdefault(canonicalize_name(distribution.name), distribution)
    return list(first.values())


def _read(distribution: Distribution) -> PluginDistribution | None:
    # `_path` is the only way to the folder of the metadata; its time of change tells when a scan is out of date.
    folder = Path(str(distribution._path)).resolve() if isinstance(distribution, PathDistribution) else None
    stem = folder.name.rpartition(".")[0] if folder is not None else "unknown"
    try:
        text = distribution.read_text("entry_points.txt")
        if text is None or ENTRY_POINT_GROUP not in text:
            return None
        points = tuple((point.name, point.value) for point in distribution.entry_points.select(group=ENTRY_POINT_GROUP))
        metadata = distribution.metadata
        name, version = metadata["Name"] or stem.partition("-")[0], metadata["Version"] or stem.partition("-")[2] or "?"
    except Exception as error:
        # Garbled metadata of one distribution must not hide the others: this is the only line that meets it.
        reason = f"its installed metadata cannot be read: {type(error).__name__}: {error}"
        return PluginDistribution(stem.partition("-")[0], stem.partition("-")[2] or "?", (), folder, reason)
    return PluginDistribution(name, version, points, folder) if points else None
