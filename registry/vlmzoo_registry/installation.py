"""What the installed metadata says about plugins: read as text, distribution by distribution, importing none of them."""

import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, PathDistribution, distributions
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

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


def duplicates(found: Sequence[PluginDistribution], path: Sequence[str]) -> list[str]:
    """One line for each distribution with plugins that is on the path more than once, where one shadows the other."""
    lines = []
    for name in sorted({canonicalize_name(distribution.name) for distribution in found}):
        copies = {}
        for distribution in Distribution.discover(name=name, path=list(path)):
            if isinstance(distribution, PathDistribution):
                copies[Path(str(distribution._path)).resolve()] = distribution.version
        if len(copies) > 1:
            places = ", ".join(f"{version} in {folder.parent}" for folder, version in copies.items())
            lines.append(f"{name} is installed {len(copies)} times: {places}; pip uninstall {name} until one is left")
    return lines


def stale_entry_points(found: Sequence[PluginDistribution]) -> list[str]:
    """One line for each editable installation whose `pyproject.toml` names other plugins than its installed metadata.

    An editable installation shows changed code at once, but entry points only when it is installed again.
    """
    lines = []
    for distribution in found:
        project = _editable_project(distribution)
        if project is None:
            continue
        try:
            tables = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
            written = tables.get("project", {}).get("entry-points", {}).get(ENTRY_POINT_GROUP, {})
        except (OSError, tomllib.TOMLDecodeError) as error:
            lines.append(f"{distribution.name}: its project {project} cannot be read: {error}")
            continue
        installed = dict(distribution.entry_points)
        added, gone = sorted(set(written) - set(installed)), sorted(set(installed) - set(written))
        changed = sorted(name for name in set(written) & set(installed) if written[name] != installed[name])
        words = [("not installed yet", added), ("gone", gone), ("changed", changed)]
        differences = [f"{what}: {', '.join(f'`{name}`' for name in names)}" for what, names in words if names]
        if differences:
            lines.append(
                f"{distribution.name}: the plugins in {project / 'pyproject.toml'} differ from the installed metadata "
                f"({'; '.join(differences)}); pip install -e {project}"
            )
    return lines


def _editable_project(distribution: PluginDistribution) -> Path | None:
    """The folder of the project, where the distribution is installed as editable (PEP 610)."""
    if distribution.folder is None:
        return None
    try:
        origin = json.loads((distribution.folder / "direct_url.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    url = urlsplit(origin.get("url", ""))
    if url.scheme != "file" or not origin.get("dir_info", {}).get("editable"):
        return None
    return Path(url2pathname(url.path))
