"""A catalogue made by hand, so that the tests of the config language depend on no plugin; and a recipe of its parts."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from vlmzoo_registry import ComponentConfig, ComponentSpec, ConfigError
from vlmzoo_registry.catalogue import Catalogue
from vlmzoo_registry.component import Component
from vlmzoo_registry.record import PluginRecord


class Patches(BaseModel):
    """A model inside a component's options."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int = 8
    overlap: float = 0.0


class EncoderOptions(ComponentConfig):
    layers: Annotated[tuple[int, ...], Field(min_length=1)] = (-1,)
    final_norm: bool = False
    prefix: Literal["drop", "keep"] = "drop"
    patches: Patches = Patches()


class MlpOptions(ComponentConfig):
    depth: Annotated[int, Field(ge=1)] = 2
    hidden_width: int | None = None
    norm_epsilon: Annotated[float, Field(gt=0)] = 1e-5
    activation: Literal["gelu", "silu"] = "gelu"


class ShuffleOptions(ComponentConfig):
    factor: int
    sizes: int | list[int] = 1


class LanguageOptions(ComponentConfig):
    model: str | None = Field(default=None, description="A pretrained id, or a folder.")
    config: dict[str, object] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "LanguageOptions":
        if (self.model is None) == (self.config is None):
            raise ValueError("give either `model` or `config`")
        return self


class FilesOptions(ComponentConfig):
    path: Path = Field(description="The rows, as JSON lines.")
    images: Path | None = None
    more: tuple[Path, ...] = ()
    label: str = "caption"


class RudeOptions(ComponentConfig):
    """Whose validator raises what no validator should."""

    depth: int = 1
    width: int = 1

    @field_validator("depth")
    @classmethod
    def _crash(cls, value: int) -> int:
        if value > 1:
            raise KeyError("oops")
        return value

    @field_validator("width")
    @classmethod
    def _refuse(cls, value: int) -> int:
        if value > 1:
            raise ConfigError("`width` (=2) is more than this toy has")
        return value


def component(kind: str, full_name: str, options: str, *, summary: str = "A part of the tests.") -> Component:
    plugin, name = full_name.split("/")
    config = options if ":" in options else f"config_parts:{options}"
    spec = ComponentSpec(kind=kind, name=name, factory="nowhere:nothing", config=config, summary=summary)
    return Component(plugin=plugin, spec=spec, distribution=f"{plugin}-dist", version="1.0")


NOTHING = "vlmzoo_registry.config:NoOptions"

COMPONENTS = (
    component("vision_encoder", "test/encoder", "EncoderOptions", summary="An encoder of the tests."),
    component("connector", "test/mlp", "MlpOptions", summary="A perceptron."),
    component("connector", "test/shuffle", "ShuffleOptions"),
    component("connector", "test/rude", "RudeOptions"),
    component("connector", "test/heavy", "package_that_is_not_there.config:Options"),
    component("language_model", "test/decoder", "LanguageOptions"),
    component("template", "test/plain", NOTHING),
    component("objective", "test/caption", NOTHING),
    component("dataset", "test/files", "FilesOptions"),
)


def catalogue() -> Catalogue:
    """The parts above, `mlp` by a second plugin too, and a plugin that is broken."""
    other = (component("connector", "other/mlp", "MlpOptions"),)
    return Catalogue(
        plugins=(
            PluginRecord("test", "test-dist", "1.0", "test.plugin", "ok", components=COMPONENTS),
            PluginRecord("other", "other-dist", "1.0", "other.plugin", "ok", components=other),
            PluginRecord("broken", "broken-dist", "2.0", "broken.plugin", "broken", error="ImportError: no", remedy="pip it"),
        )
    )


RECIPE = """\
model:
  architecture: unified
  vision: {name: test/encoder, layers: [-2], final_norm: false, prefix: drop}
  connector:
    - name: test/mlp
      depth: 2
      norm_epsilon: 1e-6
  language: {name: test/decoder, config: {model_type: llama, hidden_size: 32}}
  template: plain
stages:
  - name: align
    objective: caption
    data:
      - {name: files, path: rows.jsonl, images: images/}
    train:
      connector: {lr: 1e-3}
      language: {lr: 2.0e-5, weight_decay: 0.1, warmup: 0.1}
    batch_size: 8
    micro_batch: 4
    steps: 100
    warmup: 0.03
    schedule: cosine
    clip: 1.0
    precision: float32
    log_every: 5
seed: 7
"""
