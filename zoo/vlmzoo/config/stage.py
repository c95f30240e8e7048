"""One stage of a recipe: on what it trains, which parts, and how."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from vlmzoo.config.choice import Choice
from vlmzoo.config.section import Section

PartName = Literal["vision", "connector", "language"]

_OTHER_MODES = ("lora", "last", "norms", "bias")

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class TrainPart(Section):
    """How one part trains; a part that a stage's `train` does not name is frozen."""

    called: ClassVar[str] = "a part that trains"

    mode: Literal["full"] = Field(default="full", description="What of the part trains: `full` is all of it.")
    lr: Annotated[float, Field(gt=0)] = Field(description="The highest learning rate, for example `1.0e-3`.")
    weight_decay: Annotated[float, Field(ge=0)] = Field(default=0.0, description="AdamW's weight decay.")
    warmup: Fraction | None = Field(
        default=None, description="Fraction of the steps over which this part's learning rate rises; default: the stage's."
    )

    @field_validator("mode", mode="before")
    @classmethod
    def _only_full(cls, value: Any) -> Any:
        if value in _OTHER_MODES:
            raise ValueError(
                f"`{value}` is not available: this version trains parts `full`, and freezes those that `train` does not name"
            )
        return value


class StageConfig(Section):
    """A stage: data, objective, the parts that train, and the optimization."""

    called: ClassVar[str] = "a stage"

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)] = Field(
        description="The stage's name, of letters, digits, `_`, `.` and `-`: its folder is called so."
    )
    objective: Choice = Field(description="What is learnt from a sample (`vlmzoo list --kind objective`).")
    data: Annotated[tuple[Choice, ...], Field(strict=False, min_length=1)] = Field(
        description="The datasets (`vlmzoo list --kind dataset`)."
    )
    train: dict[PartName, TrainPart] = Field(
        description="The parts that train, and how: `vision`, `connector`, `language`. A part not named is frozen."
    )
    batch_size: Positive = Field(description="Samples per optimizer step, over all processes.")
    micro_batch: Positive = Field(
        default_factory=lambda fields: fields["batch_size"],
        description="Samples per forward pass; divides `batch_size`, which is the default.",
    )
    steps: Positive | None = Field(default=None, description="How many optimizer steps; or give `epochs`.")
    epochs: Positive | None = Field(default=None, description="How many times through the data; or give `steps`.")
    warmup: Fraction = Field(default=0.03, description="Fraction of the steps over which the learning rate rises from 0.")
    schedule: Literal["cosine", "constant"] = Field(default="cosine", description="The learning rate after the warm-up.")
    clip: Annotated[float, Field(gt=0)] = Field(default=1.0, description="Largest norm of the gradient of all parts together.")
    precision: Literal["float32", "bf16"] = Field(
        default="float32", description="The type that forward and backward compute in."
    )
    log_every: Positive = Field(default=10, description="Optimizer steps between two lines of the log.")
    save_every: Positive = Field(
        default=100, description="Optimizer steps between two points from which a killed run can go on."
    )

    @classmethod
    def conflicts(cls, values: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Something trains; one length; whole micro-batches."""
        found = []
        if values.get("train") == {}:
            found.append(("train", "names no part, so nothing would train: name `vision`, `connector` or `language`"))
        steps, epochs = values.get("steps"), values.get("epochs")
        if steps is None and epochs is None:
            found.append(("steps", "is missing: give `steps` or `epochs`"))
        if steps is not None and epochs is not None:
            found.append(("epochs", f"stands beside `steps` (={steps}): give one of them, not both"))
        batch_size, micro_batch = values.get("batch_size"), values.get("micro_batch")
        if isinstance(batch_size, int) and isinstance(micro_batch, int) and micro_batch > 0 and batch_size % micro_batch:
            found.append(("micro_batch", f"must divide `batch_size` (={batch_size}) without remainder (is {micro_batch})"))
        return found
