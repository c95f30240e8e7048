"""One stage of a recipe: on what it trains, which parts, and how."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Field

from vlmzoo.config.batching import BatchingConfig
from vlmzoo.config.choice import Choice, DataChoice
from vlmzoo.config.section import Section

PartName = Literal["vision", "connector", "language"]

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class TrainPart(Section):
    """How one part trains, in the ways that all modes share; a part that a stage's `train` does not name is frozen."""

    called: ClassVar[str] = "a part that trains"

    mode: str
    lr: Annotated[float, Field(gt=0)] = Field(description="The highest learning rate, for example `1.0e-3`.")
    weight_decay: Annotated[float, Field(ge=0)] = Field(default=0.0, description="AdamW's weight decay.")
    warmup: Fraction | None = Field(
        default=None, description="Fraction of the steps over which this part's learning rate rises; default: the stage's."
    )

    @classmethod
    def conflicts(cls, values: Mapping[str, Any]) -> list[tuple[str, str]]:
        """An option stands beside the mode that it belongs to."""
        mode = values.get("mode", "full")
        own = next((kind for kind in MODES if _mode(kind) == mode), None)
        if own is None:
            return []
        owners = {key: kind for kind in MODES for key in kind.model_fields}
        return [
            (
                key,
                f"belongs to `mode: {_mode(owners[key])}`, and this part has `mode: {mode}`: change the mode, or leave it out",
            )
            for key in values
            if key in owners and key not in own.model_fields
        ]


class TrainFull(TrainPart):
    """All of a part trains."""

    mode: Literal["full"] = Field(default="full", description="`full`: all of the part trains.")


class TrainLast(TrainPart):
    """The last blocks of a part train, and nothing else of it: what stands before, between and after them is frozen."""

    mode: Literal["last"] = Field(description="`last`: the last blocks train (of an encoder: up to the last layer it uses).")
    layers: Positive = Field(description="How many blocks train, counted from the end; what follows the last one is frozen.")


class TrainLora(TrainPart):
    """The part is frozen, and low-rank adapters on its linear layers train (arXiv:2106.09685)."""

    mode: Literal["lora"] = Field(description="`lora`: low-rank adapters train (arXiv:2106.09685); the part itself is frozen.")
    rank: Positive = Field(description="The rank of every adapter, for example `16`.")
    alpha: Annotated[float, Field(gt=0)] = Field(
        default_factory=lambda fields: 2.0 * fields["rank"],
        description="Adapters are scaled by `alpha` / `rank`; default: twice the rank, as LLaVA trains (rank 128, alpha 256).",
    )
    dropout: Fraction = Field(default=0.0, description="Dropout before the adapters.")
    targets: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False, min_length=1)] | None = Field(
        default=None,
        description="Which linear layers get an adapter, by the ends of their names, for example `[q_proj, v_proj]`; default: "
        "all of the part's blocks.",
    )


class TrainNorms(TrainPart):
    """The scales and shifts of a part's norms train."""

    mode: Literal["norms"] = Field(description="`norms`: the scales and shifts of the norms train.")


class TrainBias(TrainPart):
    """The biases of a part train (BitFit, arXiv:2106.10199)."""

    mode: Literal["bias"] = Field(description="`bias`: the biases train (BitFit, arXiv:2106.10199).")


MODES: tuple[type[TrainPart], ...] = (TrainFull, TrainLast, TrainLora, TrainNorms, TrainBias)


def _mode(kind: type[TrainPart]) -> str:
    """The word that chooses this mode."""
    word: str = get_args(kind.model_fields["mode"].annotation)[0]
    return word


def _full_by_default(value: Any) -> Any:
    """A part without `mode` trains in full."""
    return {"mode": "full", **value} if isinstance(value, Mapping) else value


AnyTrainPart = Annotated[
    TrainFull | TrainLast | TrainLora | TrainNorms | TrainBias, Field(discriminator="mode"), BeforeValidator(_full_by_default)
]


class StageConfig(Section):
    """A stage: data, objective, the parts that train, and the optimization."""

    called: ClassVar[str] = "a stage"

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)] = Field(
        description="The stage's name, of letters, digits, `_`, `.` and `-`: its folder is called so."
    )
    objective: Choice = Field(description="What is learnt from a sample (`vlmzoo list --kind objective`).")
    data: Annotated[tuple[DataChoice, ...], Field(strict=False, min_length=1)] = Field(
        description="The datasets (`vlmzoo list --kind dataset`), each with `rules` that merge, split, sample or clean what it "
        "gives (`vlmzoo list --kind rule`)."
    )
    on_bad_row: Literal["error", "skip"] = Field(
        default="error",
        description="`error`: a row that cannot be used ends the run. `skip`: every row is read, its images opened and its "
        "text tokenized before the first step; bad ones are left out and logged.",
    )
    max_bad_rows: Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.01, description="With `on_bad_row: skip`: how many rows may be left out, a number or a share."
    )
    max_length: Positive | None = Field(
        default=None,
        description="The most tokens of a row, images included. Default: as many as the language model has positions for.",
    )
    too_long: Literal["refuse", "cut"] = Field(
        default="refuse",
        description="What becomes of a longer row. `refuse`: it is a bad row. `cut`: it loses whole exchanges from its end, or "
        "where the first is too long the end of its answer, which then learns no end; never an image, never a whole answer.",
    )
    template: Choice | None = Field(
        default=None,
        description="The style of conversation in this stage (`vlmzoo list --kind template`), with which its checkpoint then "
        "speaks. Default: the model's.",
    )
    train: dict[PartName, AnyTrainPart] = Field(
        description="The parts that train, and how: `vision`, `connector`, `language`. A part not named is frozen."
    )
    batch_size: Positive = Field(description="Samples (pieces of `batching`) per optimizer step, over all processes.")
    micro_batch: Positive = Field(
        default_factory=lambda fields: fields["batch_size"],
        description="Samples (pieces) per forward pass, over all processes; divides `batch_size`, which is the default.",
    )
    batching: BatchingConfig = Field(
        default_factory=BatchingConfig,
        description="How rows stand beside each other, and which samples are brought together.",
    )
    workers: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="How many processes read rows ahead of each training process; 0: it reads them itself. The batches are the "
        "same for any number.",
    )
    steps: Positive | None = Field(default=None, description="How many optimizer steps; or give `epochs`.")
    epochs: Positive | None = Field(default=None, description="How many times through the data; or give `steps`.")
    warmup: Fraction = Field(default=0.03, description="Fraction of the steps over which the learning rate rises from 0.")
    schedule: Literal["cosine", "constant"] = Field(default="cosine", description="The learning rate after the warm-up.")
    loss_weights: Annotated[tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...], Field(strict=False)] | None = Field(
        default=None,
        description="How much the samples of each dataset of `data` count in the loss, in their order: `[0.2, 1.0]`.",
    )
    label_smoothing: Fraction = Field(
        default=0.0, description="The share of each target that is spread over the whole vocabulary (arXiv:1512.00567)."
    )
    z_loss: Annotated[float, Field(ge=0)] = Field(
        default=0.0,
        description="The weight of (log Z)² beside the loss of each token, for example `1.0e-4` (arXiv:2204.02311).",
    )
    clip: Annotated[float, Field(gt=0)] = Field(default=1.0, description="Largest norm of the gradient of all parts together.")
    precision: Literal["float32", "bf16"] = Field(
        default="float32", description="The type that forward and backward compute in."
    )
    cache_features: bool = Field(
        default=False,
        description="Whether images are encoded once, before the first step, and their features read from the cache folder "
        "in every epoch and every later run. Only where the vision part is frozen.",
    )
    log_every: Positive = Field(default=10, description="Optimizer steps between two lines of the log.")
    save_every: Positive = Field(
        default=100, description="Optimizer steps between two points from which a killed run can go on."
    )
    save_minutes: Annotated[float, Field(gt=0)] | None = Field(
        default=5.0,
        description="A point is also saved after the first step that ends so many minutes after the last one, and not before "
        "ten times as long as that took to save; `null`: only every `save_every` steps.",
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
        if "max_bad_rows" in values and values.get("on_bad_row", "error") == "error" and values["max_bad_rows"] != 0.01:
            found.append(
                ("max_bad_rows", "needs `on_bad_row: skip`, as otherwise no row is left out: add it, or leave this out")
            )
        data, weights = values.get("data"), values.get("loss_weights")
        if isinstance(data, list | tuple) and isinstance(weights, list | tuple) and len(data) != len(weights):
            found.append(("loss_weights", f"has {len(weights)} weights, and `data` {len(data)} datasets: give one for each"))
        batch_size, micro_batch = values.get("batch_size"), values.get("micro_batch")
        if isinstance(batch_size, int) and isinstance(micro_batch, int) and micro_batch > 0 and batch_size % micro_batch:
            found.append(("micro_batch", f"must divide `batch_size` (={batch_size}) without remainder (is {micro_batch})"))
        if values.get("cache_features") is True and isinstance(train := values.get("train"), Mapping) and "vision" in train:
            found.append(
                (
                    "cache_features",
                    "keeps what a frozen encoder makes of images, and `train.vision` changes it: leave one of them out",
                )
            )
        return found
