"""The base of every component's config: fields that are typed, frozen, and never ignored."""

from pydantic import BaseModel, ConfigDict


class ComponentConfig(BaseModel):
    """Derive from this to give a component options; an option that is not a field is an error, never ignored."""

    # Infinity may stand in an option that is open (some architectures' configurations hold it); it must not be dumped as null.
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, ser_json_inf_nan="constants", protected_namespaces=()
    )


class NoOptions(ComponentConfig):
    """The config of a component that names none."""
