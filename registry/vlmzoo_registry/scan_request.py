"""What the scan is asked: which path to search, which local files to read, what to leave alone, and how long to wait."""

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class ScanRequest:
    """Plain data, so that it can be handed to another process and be part of the cache's key.

    `block` are the items of VLMZOO_BLOCK. `skip` are the identities of plugins that killed an earlier scan. `seconds` is the
    time that one manifest may take.
    """

    path: tuple[str, ...]
    files: tuple[str, ...] = ()
    block: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    seconds: float = 10.0

    def to_json(self) -> str:
        """This request as one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "ScanRequest":
        """What `to_json` wrote."""
        data = json.loads(text)
        lists = {key: tuple(data[key]) for key in ("path", "files", "block", "skip")}
        return cls(**lists, seconds=data["seconds"])
