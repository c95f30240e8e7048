"""The folder of one key: features in shards of safetensors, read by memory map, each with the digest that proves it.

Shards are written under names of their own and renamed when they are whole, so any number of processes may read and write
at once; an entry that two of them wrote is there twice, which harms nothing.
"""

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from vlmzoo.durable import replace_json
from vlmzoo.feature_cache.key import key_sha256, tensor_bytes
from vlmzoo_registry import Arrangement, CheckpointError, ImageSize, ResourceError

KEY = "key.json"
_FRESH = 60  # seconds for which an unfinished file is left alone: its writer may be about to lock it
_OPEN = 64  # shards that are kept open: each is a map of the file into memory


@dataclass(frozen=True)
class Features:
    """What an encoder makes of one image: its size in pixels, how it was cut, and the tokens of its views."""

    content: str
    size: ImageSize
    arrangement: Arrangement
    tokens: Float[Tensor, "V N D"]


@dataclass(frozen=True, slots=True)
class _Entry:
    """Where the features of one image lie, and their digest."""

    shard: str
    name: str
    sha256: str


class FeatureStore:
    """The features that are kept for one key. It may be used in other processes: each opens the files by itself.

    Raises `ResourceError` where the folder cannot be used. `removed` are the shards that were found damaged and removed, and
    why, as texts.
    """

    def __init__(self, folder: Path, key: dict[str, Any]) -> None:
        self.folder = folder
        self.removed: list[str] = []
        self._sizes: dict[str, ImageSize] = {}
        self._entries: dict[tuple[str, Arrangement], _Entry] = {}
        self._handles: OrderedDict[str, Any] = OrderedDict()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / KEY).exists():
                replace_json(folder / KEY, key)
            kept = json.loads((folder / KEY).read_text(encoding="utf-8"))
            if key_sha256(kept) != key_sha256(key):
                raise ValueError("it is not the key of what runs now")
        except OSError as error:
            raise ResourceError(
                f"{_unusable(folder)} ({error}): mend its permissions, or set VLMZOO_CACHE to another"
            ) from error
        except ValueError as error:
            raise ResourceError(f"`{folder / KEY}` is damaged ({error}): remove `{folder}`, and it is made anew") from error
        self._tidy()
        self.refresh()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": OrderedDict()}

    def __len__(self) -> int:
        """Of how many images there are features."""
        return len(self._entries)

    def size(self, content: str) -> ImageSize | None:
        """Height and width of an image in pixels; None where it was never encoded."""
        return self._sizes.get(content)

    def __contains__(self, wanted: tuple[str, Arrangement]) -> bool:
        """Whether there are features of this image, cut in this way."""
        return wanted in self._entries

    def refresh(self) -> None:
        """Look at the shards that other processes have written meanwhile; a damaged one is removed."""
        known = {entry.shard for entry in self._entries.values()}
        for path in sorted(self.folder.glob("*.safetensors")):
            if path.name not in known:
                self._index(path)

    def read(self, content: str, arrangement: Arrangement) -> Float[Tensor, "V N D"]:
        """The tokens of the views of an image, on the CPU; not to be written to.

        Raises `CheckpointError` where they are not what was written; their shard is then removed, to be computed again. Raises
        `ResourceError` where the shard cannot be opened, and leaves it.
        """
        entry = self._entries[content, arrangement]
        try:
            tokens: Tensor = self._open(entry.shard).get_tensor(entry.name)
        except FileNotFoundError as error:
            gone = f"`{self.folder / entry.shard}`: cached features are gone"
            raise CheckpointError(f"{gone}; the same command encodes its images again and goes on") from error
        except SafetensorError as error:
            raise self._damaged(entry.shard, f"{type(error).__name__}: {error}") from error
        found = _sha256(Features(content, self._sizes[content], arrangement, tokens))
        if found != entry.sha256:
            raise self._damaged(
                entry.shard, f"SHA-256 {found[:12]}... of an image's features, recorded is {entry.sha256[:12]}..."
            )
        return tokens

    def write(self, features: Sequence[Features]) -> None:
        """Add a shard. Raises `ResourceError` where it cannot be written."""
        entries = [
            {
                "content": one.content,
                "size": list(one.size),
                "cut": [one.arrangement.rows, one.arrangement.columns, one.arrangement.height, one.arrangement.width],
                "sha256": _sha256(one),
            }
            for one in features
        ]
        tensors = {str(number): one.tokens.contiguous() for number, one in enumerate(features)}
        data = save(tensors, metadata={"entries": json.dumps(entries)})
        self.require_space(len(data))
        name = f"{secrets.token_hex(8)}.safetensors"
        staged = self.folder / f".{name}.partial"
        try:
            with staged.open("wb") as file:
                with suppress(OSError):  # a file system without locks: then leftovers stay
                    fcntl.flock(file, fcntl.LOCK_EX)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                os.replace(staged, self.folder / name)
        except OSError as error:
            raise ResourceError(f"{_unusable(self.folder)} ({error}): make room, or set VLMZOO_CACHE to another") from error
        finally:
            staged.unlink(missing_ok=True)
        self._index(self.folder / name)

    def require_space(self, needed: int) -> None:
        """Raise `ResourceError` where so many bytes are not free."""
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise ResourceError(
                f"`{self.folder}`: features take {in_words(needed)} more, and only {in_words(free)} are free there; make room, "
                "set VLMZOO_CACHE to another folder, or leave `cache_features` out of the stage"
            )

    def _index(self, path: Path) -> None:
        """Take what a shard says it holds into account; where it says nothing that can be understood it is removed."""
        try:
            with _mapped(path) as shard:
                entries = json.loads((shard.metadata() or {})["entries"])
                names = set(shard.keys())
            if names != {str(number) for number in range(len(entries))}:
                raise ValueError(f"it lists {len(entries)} images and holds {len(names)}")
            read = [(one["content"], tuple(one["size"]), Arrangement(*one["cut"]), one["sha256"]) for one in entries]
        except FileNotFoundError:  # another process found it damaged
            return
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            self.removed.append(f"`{path}` is damaged ({type(error).__name__}: {error})")
            self._remove(path)
            return
        for number, (content, size, arrangement, sha256) in enumerate(read):
            self._sizes[content] = size
            self._entries[content, arrangement] = _Entry(path.name, str(number), sha256)

    def _open(self, shard: str) -> Any:
        """A shard, mapped into memory; the one that was read longest ago is given back where there are many."""
        if shard in self._handles:
            self._handles.move_to_end(shard)
        else:
            self._handles[shard] = _mapped(self.folder / shard)
            if len(self._handles) > _OPEN:
                self._handles.popitem(last=False)
        return self._handles[shard]

    def _damaged(self, shard: str, reason: str) -> CheckpointError:
        self._remove(self.folder / shard)
        return CheckpointError(
            f"`{self.folder / shard}`: cached features are damaged ({reason}); the file is removed, and the same command "
            "encodes its images again and goes on"
        )

    def _remove(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise ResourceError(f"`{path}` is damaged and cannot be removed ({error}): remove it by hand") from error

    def _tidy(self) -> None:
        """Remove what killed processes left halfway, and nothing that another one is writing."""
        for path in self.folder.glob(".*.partial"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _FRESH:
                    with _locked(path):
                        path.unlink(missing_ok=True)


def _mapped(path: Path) -> Any:
    """A shard, mapped into memory.

    Raises `FileNotFoundError` where it is gone, `SafetensorError` where it is damaged, and `ResourceError` where nobody knows,
    as it cannot be opened now.
    """
    try:
        path.open("rb").close()  # it says why: safetensors calls every failure "not found", torch raises a bare RuntimeError
        return safe_open(path, framework="pt")
    except (OSError, RuntimeError, MemoryError) as error:
        if isinstance(error, FileNotFoundError) and not path.exists():
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ResourceError(
            f"`{path}`: kept features cannot be opened ({reason}); the file is left as it is: mend its permissions, or allow "
            "more open files (`ulimit -n`) or memory, and start the same command again"
        ) from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file that no other process holds. Raises `OSError` where one does."""
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def in_words(count: int) -> str:
    """A number of bytes."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _unusable(folder: Path) -> str:
    return f"`{folder}`, where features are kept, cannot be used"


def _sha256(features: Features) -> str:
    """The digest of the features of an image, and of all that says what they are."""
    tokens = features.tokens
    said = [features.content, list(features.size), repr(features.arrangement), str(tokens.dtype), list(tokens.shape)]
    digest = hashlib.sha256(json.dumps(said).encode())
    digest.update(tensor_bytes(tokens))
    return digest.hexdigest()
