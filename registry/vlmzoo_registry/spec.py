"""What a plugin says about one of its components: plain data, so that nothing heavy is imported to read it."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints

API_VERSION = 1

Reference = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
ComponentName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]*$")]


class ComponentSpec(BaseModel):
    """The description of one component.

    `factory` and `config` are `"module:attribute"` strings, imported on first use. `capabilities` are words that the
    assembler and the conformance kit act on (`layers`: a connector whose blocks sit in the decoder). `requires` are pip
    requirement strings. `tiny` are config fields that build a small random instance offline, for the conformance kit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z_]*$")]
    name: ComponentName
    api: int = API_VERSION
    factory: Reference
    config: Reference = "vlmzoo_registry.config:NoOptions"
    summary: Annotated[str, StringConstraints(min_length=1, pattern=r"^[^\n]+$")]
    paper: str | None = None
    license: str | None = None
    capabilities: frozenset[str] = frozenset()
    requires: tuple[str, ...] = ()
    tiny: dict[str, Any] | None = None
