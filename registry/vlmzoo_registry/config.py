"""The base of every component's config: fields that are typed, frozen, and never ignored."""

from pydantic import BaseModel, ConfigDict


class ComponentConfig(BaseModel):
    """Derive from this to give a component options; an option that is not a field is an error, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


class NoOptions(ComponentConfig):
    """The config of a component that names none."""
