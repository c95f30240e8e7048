"""A stage of training: the update it makes, what stays as it was, and what stops it before any harm is done."""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from small_models import GPT2, LLAMA, causal_lm, picture, section
from torch import Tensor, nn

import vlmzoo
from vlmzoo.config import Recipe, TrainFull, load_recipe
from vlmzoo.data.stream import BatchStream, Draw
from vlmzoo.model.tensors import own_tensors
from vlmzoo.model.vlm import VLM
from vlmzoo.training import audit
from vlmzoo.training import fit as training
from vlmzoo.training.fit import NotFiniteError, Origin
from vlmzoo.training.history import STEP, RunLog, read_log
from vlmzoo.training.optimization import make_optimizer, rate_factor, set_rates
from vlmzoo.training.processes import join_processes
from vlmzoo.training.samples import Samples
from vlmzoo.training.train import train
from vlmzoo.training.trainable import check_gradients, set_trainable
from vlmzoo_registry import AssemblyError, DataError, ResourceError
from vlmzoo_registry.tasks import Dataset, Sample, Turn

WORDS = [
    "a",
    "a red cat",
    "two",
    "the dog sees seven blue birds on a wire",
    "rain",
    "on a hill",
    "why",
    "it is a very old tree",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Eight pictures with captions of very different lengths."""
    root = tmp_path_factory.mktemp("data")
    rows = []
    for number, words in enumerate(WORDS):
        picture(number).save(root / f"{number}.png")
        rows.append({"image": f"{number}.png", "caption": words})
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"name": "captions", "path": str(root / "rows.jsonl"), "images": str(root)}


def recipe(data: dict[str, Any], model: dict[str, Any] | None = None, seed: int = 0, **stage: Any) -> dict[str, Any]:
    """Everything trains, by default; one batch holds all the data."""
    return {
        "model": section() if model is None else model,
        "seed": seed,
        "stages": [
            {
                "name": "align",
                "objective": "caption",
                "data": [data],
                "train": {"connector": {"lr": 1e-2}, "language": {"lr": 1e-2}, "vision": {"lr": 1e-2}},
                "batch_size": 8,
                "steps": 1,
                **stage,
            }
        ],
    }


def refusal(action: Callable[[], object], kind: type[Exception]) -> str:
    with pytest.raises(kind) as refused:
        action()
    return str(refused.value)


# ---- the update ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def gradients(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """The gradients that the first step hands to the optimizer, before clipping, by parameter name."""
    kept: dict[str, Tensor] = {}
    original = audit.check_gradients

    def keep(states: Any, **options: Any) -> None:
        original(states, **options)
        for state in states:
            kept.update({f"{state.name}.{name}": p.grad.detach().clone() for name, p in state.trained.items()})

    monkeypatch.setattr(audit, "check_gradients", keep)
    return kept


@pytest.mark.parametrize("architecture", ["unified", "cross_attention"])
def test_micro_batches_make_the_same_update(
    architecture: str, data: dict[str, Any], gradients: dict[str, Tensor], tmp_path: Path
) -> None:
    """The captions differ in length twentyfold: a mean over micro-batches, instead of over tokens, would be far off."""
    found = {}
    for micro in (8, 4, 2, 1):
        result = train(recipe(data, section(architecture), micro_batch=micro), output=tmp_path / str(micro))
        found[micro] = ({**gradients}, result.losses[0], own_tensors(result.model))
    whole, loss, weights = found[8]
    assert sum(bool(gradient.any()) for gradient in whole.values()) > 20
    for micro in (4, 2, 1):
        parts, split_loss, split_weights = found[micro]
        assert math.isclose(loss, split_loss, rel_tol=1e-6)
        scale = max(float(gradient.abs().max()) for gradient in whole.values())
        for name, gradient in whole.items():
            assert (parts[name] - gradient).norm() <= 1e-6 * max(float(gradient.norm()), scale), (micro, name)
        # AdamW divides each gradient by its own size, so rounding near 0 is seen again in the weights, but no more than that.
        assert all(torch.allclose(split_weights[name], weight, atol=1e-3) for name, weight in weights.items())


def test_the_loss_is_the_mean_over_all_supervised_tokens(data: dict[str, Any], tmp_path: Path) -> None:
    """Against logits of the whole batch, worked out here, before the step and with the stage's own labels."""
    plan = load_recipe(recipe(data, micro_batch=2))
    torch.manual_seed(plan.seed)
    result = train(plan, output=tmp_path)
    torch.manual_seed(plan.seed)
    model = vlmzoo.build(plan.model)
    total, count = 0.0, 0
    for number, words in enumerate(WORDS):
        batch = model.processor(text="", images=[picture(number)])
        answer = [*model.processor.tokenizer(words, add_special_tokens=False).input_ids, model.processor.tokenizer.eos_token_id]
        ids = torch.cat([batch["input_ids"], torch.tensor([answer])], dim=1)
        with torch.no_grad():
            logits = model(input_ids=ids, pixel_values=batch["pixel_values"], image_mask=batch["image_mask"]).logits[0].double()
        predicted = logits.log_softmax(-1)[batch["input_ids"].shape[1] - 1 : -1]
        total -= float(predicted[range(len(answer)), answer].sum())
        count += len(answer)
    assert math.isclose(result.losses[0], total / count, rel_tol=1e-5)
    assert read_log(tmp_path / "align").steps[0]["tokens"] == count
    assert result.tokens == count
    assert result.images == len(WORDS)


def test_the_same_seed_gives_the_same_run_and_another_another(data: dict[str, Any], tmp_path: Path) -> None:
    runs = {}
    for name, seed in (("first", 3), ("again", 3), ("other", 4)):
        result = train(recipe(data, seed=seed, batch_size=4, steps=4), output=tmp_path / name)
        runs[name] = (result.losses, result.checkpoint)
    assert runs["first"][0] == runs["again"][0]
    for file in runs["first"][1].glob("*.safetensors"):
        assert file.read_bytes() == (runs["again"][1] / file.name).read_bytes()
    assert runs["first"][0] != runs["other"][0]


def test_what_is_returned_is_what_was_saved(data: dict[str, Any], tmp_path: Path) -> None:
    """In bf16 too: nothing of the training (autocast, training mode) stays in the model."""
    for precision in ("float32", "bf16", "float32"):
        result = train(recipe(data, precision=precision, steps=2), output=tmp_path / precision / str(time.time_ns()))
        batch = result.model.processor(text="a", images=[picture(0)])
        with torch.no_grad():
            assert torch.equal(result.model(**batch).logits, vlmzoo.load(result.checkpoint)(**batch).logits)
        assert {tensor.dtype for tensor in own_tensors(result.model).values()} == {torch.float32}
        assert not any(module.training for module in result.model.modules())


def test_bf16_computes_in_bf16(data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    forward = nn.Linear.forward

    def watched(self: nn.Linear, inputs: Tensor) -> Tensor:
        output = forward(self, inputs)
        seen.add(output.dtype)
        return output

    monkeypatch.setattr(nn.Linear, "forward", watched)
    train(recipe(data, precision="bf16"), output=tmp_path)
    assert seen == {torch.bfloat16}


# ---- what trains, and what does not ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "trains"),
    [
        (section(), {"connector"}),
        (section(), {"language"}),
        (section(), {"vision"}),
        (section("cross_attention"), {"connector"}),
        (section("cross_attention", language=causal_lm(LLAMA)), {"connector", "vision"}),
        (section(vision={"name": "timm/encoder", "config": {"architecture": "test_efficientnet"}}), {"connector"}),
    ],
)
def test_frozen_bytes_stay_and_trained_tensors_move(
    model: dict[str, Any], trains: set[str], data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every tensor and buffer, also those that no checkpoint keeps (batch-norm counters, rotary tables)."""
    before: dict[str, Tensor] = {}
    original = training.set_trainable

    def keep(vlm: VLM, parts: Any) -> Any:
        before.update({name: tensor.detach().clone() for name, tensor in (*vlm.named_parameters(), *vlm.named_buffers())})
        return original(vlm, parts)

    monkeypatch.setattr(training, "set_trainable", keep)
    stage = {"train": {part: {"lr": 1e-2} for part in trains}, "steps": 5, "batch_size": 4}
    trained = train(recipe(data, model, **stage), output=tmp_path).model
    unused = {f"vision.{name}" for name in trained.vision.unused_parameters}
    for name, tensor in (*trained.named_parameters(), *trained.named_buffers()):
        same = torch.equal(before[name], tensor)
        moves = name.partition(".")[0] in trains and isinstance(tensor, nn.Parameter) and name not in unused
        assert same != moves, f"{name}: {'stands still' if same else 'has moved'}"


def test_a_frozen_part_stays_in_evaluation_mode(data: dict[str, Any]) -> None:
    model = vlmzoo.build(section(vision={"name": "timm/encoder", "config": {"architecture": "test_efficientnet"}}))
    set_trainable(model, {"connector": TrainFull(lr=1.0)})
    assert not any(module.training for module in [*model.vision.modules(), *model.language.modules()])
    assert all(module.training for module in model.connector.modules())


def test_every_parameter_is_in_exactly_one_group() -> None:
    model = vlmzoo.build(section("cross_attention", language=causal_lm({**LLAMA, "tie_word_embeddings": True})))
    settings = {
        "connector": TrainFull(lr=1e-3, weight_decay=0.1),
        "language": TrainFull(lr=2e-5, weight_decay=0.02, warmup=0.5),
    }
    states = set_trainable(model, settings)
    optimizer = make_optimizer(states)
    groups = [(id(parameter), group) for group in optimizer.param_groups for parameter in group["params"]]
    assert len(groups) == len({key for key, _ in groups})
    found = dict(groups)
    for name, parameter in model.named_parameters():
        part = name.partition(".")[0]
        if part not in settings:
            assert id(parameter) not in found
            assert not parameter.requires_grad
            continue
        group = found.pop(id(parameter))
        assert parameter.requires_grad
        assert group["lr"] == settings[part].lr
        assert group["weight_decay"] == (settings[part].weight_decay if parameter.ndim > 1 else 0.0)
    assert not found


def test_a_part_without_parameters_cannot_train(data: dict[str, Any], tmp_path: Path) -> None:
    shuffle = [{"name": "connectors/pixel-shuffle", "factor": 2}]
    model = section(connector=shuffle, vision={"name": "toy/vision", "width": 8})
    assert refusal(lambda: train(recipe(data, model), output=tmp_path), AssemblyError) == (
        "the stage cannot train what it names\n  - `train.connector`: the part has no parameters that train; leave it out"
    )


# ---- the learning rate -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "warmup"), [(10, 0.3), (100, 0.07), (7, 0.0), (3, 0.5), (1, 0.03), (1000, 0.03)])
@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_the_schedule_against_its_formula(steps: int, warmup: float, schedule: str) -> None:
    rising = math.ceil(Fraction(str(warmup)) * steps)
    for update in range(steps):
        if update < rising:
            expected = (update + 1) / rising
        elif schedule == "constant":
            expected = 1.0
        else:
            expected = (1 + math.cos(math.pi * (update - rising) / (steps - rising))) / 2
        assert math.isclose(rate_factor(update, steps, warmup, schedule), expected, rel_tol=1e-12)  # type: ignore[arg-type]


def test_rates_follow_updates_whatever_the_micro_batches(data: dict[str, Any], tmp_path: Path) -> None:
    parts = {"connector": {"lr": 1e-3}, "language": {"lr": 1e-4, "warmup": 0.5}}
    logs = []
    for micro in (4, 1):
        stage = {"train": parts, "batch_size": 4, "micro_batch": micro, "steps": 10, "warmup": 0.2, "log_every": 1}
        train(recipe(data, **stage), output=tmp_path / str(micro))
        logs.append([record["lr"] for record in read_log(tmp_path / str(micro) / "align").steps])
    assert logs[0] == logs[1]
    assert [rates["connector"] / 1e-3 for rates in logs[0][:3]] == pytest.approx([0.5, 1.0, 1.0])
    assert [rates["language"] / 1e-4 for rates in logs[0][:6]] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert logs[0][-1]["connector"] == pytest.approx(1e-3 * (1 + math.cos(math.pi * 7 / 8)) / 2)


def test_the_rates_reach_the_optimizer() -> None:
    states = set_trainable(vlmzoo.build(section()), {"connector": TrainFull(lr=1.0), "vision": TrainFull(lr=0.5, warmup=0.0)})
    optimizer = make_optimizer(states)
    set_rates(optimizer, states, 0, 10, 0.5, "constant")
    assert {(group["part"], group["lr"]) for group in optimizer.param_groups} == {("connector", 0.2), ("vision", 0.5)}


def test_epochs_are_counted_in_samples(data: dict[str, Any], tmp_path: Path) -> None:
    stage = recipe(data, batch_size=3, epochs=2)
    del stage["stages"][0]["steps"]
    assert len(train(stage, output=tmp_path).losses) == 6  # 2 x 8 samples in batches of 3: 5.33


# ---- what stops a run ------------------------------------------------------------------------------------------------------


class Rows(Dataset):
    """Rows made here."""

    def __init__(self, rows: Sequence[tuple[str, Image.Image | None]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        words, image = self.rows[index]
        turns = (Turn("user", "<image>" if image else "say"), Turn("assistant", words))
        return Sample(str(index), turns, () if image is None else (lambda: image,), f"rows:{index}")


def fit(model: VLM, plan: Recipe, rows: Sequence[tuple[str, Image.Image | None]], folder: Path) -> Any:
    folder.mkdir(exist_ok=True)
    samples = Samples([Rows(rows)])
    return training.fit(model, plan, plan.stages[0], samples, folder, None, accelerator=join_processes(), origin=Origin())


def stored(model: VLM) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in (*model.named_parameters(), *model.named_buffers())}


def assert_untouched(model: VLM, before: dict[str, Tensor]) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        assert torch.equal(tensor, before[name]) or (tensor.isnan().any() and before[name].isnan().any()), name


@pytest.mark.parametrize("micro", [4, 1])
def test_a_loss_that_is_no_number_stops_the_run_before_the_weights_change(
    micro: int, data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row of four has pixels that are no numbers."""
    plan = load_recipe(recipe(data, batch_size=4, micro_batch=micro))
    model = vlmzoo.build(plan.model)
    transform = type(model.processor.images.transform)
    poisoned = Image.new("RGB", (8, 8), "red")
    original = transform.__call__
    monkeypatch.setattr(
        transform, "__call__", lambda self, image: original(self, image) * (math.nan if image.size == (8, 8) else 1)
    )
    before = stored(model)
    rows = [("one", picture(0)), ("two", picture(1)), ("three", poisoned), ("four", picture(3))]
    message = refusal(lambda: fit(model, plan, rows, tmp_path), NotFiniteError)
    assert message.startswith("step 0: the loss is nan and the gradient's norm nan; the weights are untouched. Lower the ")
    named = message.partition("look at these rows: ")[2].split(", ")
    assert named == ["rows:2"] if micro == 1 else sorted(named) == [f"rows:{number}" for number in range(4)]
    assert_untouched(model, before)
    assert not (tmp_path / "checkpoint").exists()
    assert not read_log(tmp_path).steps


def test_a_weight_that_is_no_number_stops_the_run(data: dict[str, Any], tmp_path: Path) -> None:
    plan = load_recipe(recipe(data, batch_size=2, train={"connector": {"lr": 1e-3}}))
    model = vlmzoo.build(plan.model)
    with torch.no_grad():
        model.vision.patches.weight[0, 0, 0, 0] = math.inf
    before = stored(model)
    message = refusal(lambda: fit(model, plan, [("one", picture(0)), ("two", picture(1))], tmp_path), NotFiniteError)
    assert "the weights are untouched" in message
    assert_untouched(model, before)


def test_a_gradient_that_is_no_number_stops_the_run_though_the_loss_is_one(data: dict[str, Any], tmp_path: Path) -> None:
    plan = load_recipe(recipe(data, batch_size=2, micro_batch=1))
    model = vlmzoo.build(plan.model)
    next(model.connector.parameters()).register_hook(lambda gradient: gradient * math.inf)
    before = stored(model)
    message = refusal(lambda: fit(model, plan, [("one", picture(0)), ("two", picture(1))], tmp_path), NotFiniteError)
    assert "and the gradient's norm nan; the weights are untouched" in message or "norm inf; the weights" in message
    assert sorted(message.partition("rows: ")[2].split(", ")) == ["rows:0", "rows:1"]
    assert_untouched(model, before)


def test_a_run_that_diverges_stops_and_leaves_no_checkpoint(data: dict[str, Any], tmp_path: Path) -> None:
    stage = {"steps": 50, "train": {"language": {"lr": 1e30}}, "schedule": "constant", "warmup": 0.0}
    message = refusal(lambda: train(recipe(data, **stage), output=tmp_path), NotFiniteError)
    assert "the loss is nan" in message or "the loss is inf" in message
    assert sorted(file.name for file in (tmp_path / "align").iterdir()) == ["log.jsonl"]


def test_text_alone_cannot_train_image_parts(data: dict[str, Any], tmp_path: Path) -> None:
    plan = load_recipe(recipe(data, batch_size=2, train={"connector": {"lr": 1e-3}, "vision": {"lr": 1e-3}}))
    rows = [("one", None), ("two", None)]
    message = refusal(lambda: fit(vlmzoo.build(plan.model), plan, rows, tmp_path), DataError)
    assert message.startswith(
        "a batch does not touch what trains (rows without an image, and only image parts train); mix in rows with images or "
        "train the language model: rows:"
    )


@pytest.mark.parametrize("architecture", ["unified", "cross_attention"])
@pytest.mark.parametrize("trains", [("connector",), ("connector", "language")])
def test_rows_without_an_image_among_others(
    architecture: str, trains: tuple[str, ...], data: dict[str, Any], gradients: dict[str, Tensor], tmp_path: Path
) -> None:
    """They may fill a whole micro-batch, which then gives the image parts no gradient: the update is the same."""
    rows = [("one", None), ("two", picture(1)), ("three", None), ("four and more", picture(3))]
    found = {}
    for micro in (4, 1):
        stage = {"batch_size": 4, "micro_batch": micro, "train": {part: {"lr": 1e-2} for part in trains}}
        plan = load_recipe(recipe(data, section(architecture), **stage))
        torch.manual_seed(0)
        result = fit(vlmzoo.build(plan.model), plan, rows, tmp_path / str(micro))
        found[micro] = ({**gradients}, result.losses[0])
    assert math.isclose(found[4][1], found[1][1], rel_tol=1e-6)
    scale = max(float(gradient.abs().max()) for gradient in found[4][0].values())
    for name, gradient in found[4][0].items():
        assert (found[1][0][name] - gradient).norm() <= 1e-6 * max(float(gradient.norm()), scale), name


def test_a_batch_of_text_before_the_first_image_is_no_missing_gradient(data: dict[str, Any], tmp_path: Path) -> None:
    """And the connector, which it does not reach, learns once there is an image."""
    plan = load_recipe(recipe(data, batch_size=2, steps=4, train={"connector": {"lr": 1e-2}, "language": {"lr": 1e-2}}))
    rows = [("one", None), ("two", None), ("three", picture(1)), ("four", picture(2))]
    model = vlmzoo.build(plan.model)
    before = stored(model)
    order = iter([[0, 1], [2, 3], [0, 1], [2, 3]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BatchStream, "next_batch", lambda self: [(Draw(0, index),) for index in next(order)])
        fit(model, plan, rows, tmp_path)
    assert not any(torch.equal(before[name], p) for name, p in model.named_parameters() if name.startswith("connector."))


def test_a_connector_that_is_cut_off_is_found_in_the_first_step(
    data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = load_recipe(recipe(data, batch_size=2, train={"connector": {"lr": 1e-3}, "language": {"lr": 1e-3}}))
    model = vlmzoo.build(plan.model)
    connector = model.connector[0]
    forward = type(connector).forward

    def cut(self: Any, features: Any) -> Any:
        with torch.no_grad():
            return forward(self, features)

    monkeypatch.setattr(type(connector), "forward", cut)
    before = stored(model)
    message = refusal(lambda: fit(model, plan, [("one", picture(0)), ("two", picture(1))], tmp_path), AssemblyError)
    assert message == "\n".join(
        [
            "the first step does not train what the recipe says",
            *(f"  - `connector.{name}` trains, but got no gradient" for name, _ in model.connector.named_parameters()),
        ]
    )
    assert_untouched(model, before)


def test_a_frozen_tensor_with_a_gradient_is_found() -> None:
    model = vlmzoo.build(section())
    states = set_trainable(model, {"connector": TrainFull(lr=1.0)})
    for parameter in model.connector.parameters():
        parameter.grad = torch.ones_like(parameter)
    model.vision.positions.grad = torch.ones_like(model.vision.positions)
    assert refusal(lambda: check_gradients(states), AssemblyError) == (
        "the first step does not train what the recipe says\n  - `vision.positions` is frozen, but got a gradient"
    )


@pytest.mark.parametrize("config", [LLAMA, GPT2])
def test_a_row_that_is_too_long_is_named(config: dict[str, Any], data: dict[str, Any], tmp_path: Path) -> None:
    plan = load_recipe(recipe(data, section(language=causal_lm(config)), batch_size=1))
    message = refusal(lambda: fit(vlmzoo.build(plan.model), plan, [("a" * 200, picture(0))], tmp_path), DataError)
    assert message == (
        "rows:0: 217 tokens (1 image of 16 included) are more than `max_length` (=128): raise it, or shorten or drop the "
        "row, or let `too_long: cut` cut its text"
    )


# ---- files -----------------------------------------------------------------------------------------------------------------


def test_a_finished_run_is_loaded_and_not_trained_again(data: dict[str, Any], tmp_path: Path) -> None:
    first = train(recipe(data), output=tmp_path)
    content = (tmp_path / "align" / "checkpoint" / "manifest.json").read_bytes()
    extra = json.loads(content)["extra"]
    assert extra["stage"] == "align"
    assert extra["parent"] is None
    assert len(extra["recipe_sha256"]) == 64
    again = train(recipe(data), output=tmp_path)
    assert again.stages == (replace(first.stages[0], seconds=again.seconds),)
    weights = own_tensors(first.model)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in own_tensors(again.model).items())
    assert (tmp_path / "align" / "checkpoint" / "manifest.json").read_bytes() == content


def test_the_recipe_is_kept_and_can_be_trained_from(data: dict[str, Any], tmp_path: Path) -> None:
    plan = load_recipe(recipe(data))
    train(plan, output=tmp_path)
    assert load_recipe(tmp_path / "recipe.json") == plan


def test_another_recipe_is_refused_with_what_differs(data: dict[str, Any], tmp_path: Path) -> None:
    train(recipe(data), output=tmp_path)
    changed = recipe(data, seed=7, steps=2, name="align")
    changed["stages"][0]["train"] = {"connector": {"lr": 1e-2}}
    with pytest.raises(ResourceError) as refused:
        train(changed, output=tmp_path)
    assert refused.value.message == (
        f"`{tmp_path}` holds what another recipe has trained (align): choose another `--output`, go back to that recipe, or "
        "remove the folder"
    )
    assert [reason.partition(":")[0] for reason in refused.value.reasons] == [
        "`seed`",
        "`stages.0.steps`",
        "`stages.0.train.language`",
        "`stages.0.train.vision`",
    ]
    assert refused.value.reasons[:2] == (
        "`seed`: 0 there, 7 in this recipe",
        "`stages.0.steps`: 1 there, 2 in this recipe",
    )
    (tmp_path / "recipe.json").unlink()
    with pytest.raises(ResourceError) as refused:
        train(changed, output=tmp_path)
    assert refused.value.reasons == ("its recipe is not known",)


def test_a_recipe_that_trained_nothing_yet_may_be_changed(data: dict[str, Any], tmp_path: Path) -> None:
    """Corrected after an error in its first steps, say."""
    with pytest.raises(NotFiniteError):
        train(recipe(data, steps=50, train={"language": {"lr": 1e30}}, warmup=0.0), output=tmp_path)
    result = train(recipe(data), output=tmp_path)
    assert load_recipe(tmp_path / "recipe.json").stages[0].steps == 1
    assert len(result.losses) == len(read_log(tmp_path / "align").losses) == 1


def test_a_checkpoint_without_its_log(data: dict[str, Any], tmp_path: Path) -> None:
    train(recipe(data), output=tmp_path)
    log = tmp_path / "align" / "log.jsonl"
    log.write_text("".join(line for line in log.read_text().splitlines(keepends=True) if '"end"' not in line))
    assert refusal(lambda: train(recipe(data), output=tmp_path), ResourceError) == (
        f"`{tmp_path / 'align'}` holds a finished stage, but not the end of its log: put its `log.jsonl` back, or remove the "
        "folder to train the stage again"
    )


def test_an_output_that_cannot_be_made(data: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = refusal(lambda: train(recipe(data), output=tmp_path / "file"), ResourceError)
    assert message.startswith(f"`{tmp_path / 'file'}` cannot be written (")
    assert message.endswith("): choose another `--output`")


def test_room_for_the_checkpoint_is_asked_for_before_the_first_step(
    data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 2**16})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    assert refusal(lambda: train(recipe(data), output=tmp_path), ResourceError) == (
        f"`{tmp_path / 'align'}`: a checkpoint takes 0.2 MiB, and only 0.1 MiB are free there; make room, or choose "
        "another folder"
    )


def test_processes_that_do_not_find_each_other_are_refused(
    data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would train alone and write over the other."""
    train(recipe(data), output=tmp_path / "alone")  # from now on accelerate takes this process for the only one
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert refusal(lambda: train(recipe(data), output=tmp_path / "one of two"), ResourceError) == (
        "2 processes were started together (WORLD_SIZE), but accelerate has joined 1: start them with `accelerate launch` or "
        "`torchrun`, and import nothing before that makes an `Accelerator`"
    )


def test_an_interruption_says_what_is_lost(data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a notebook too, where it is a `KeyboardInterrupt`."""
    advance = training.StepProgress.advance

    def interrupted(self: Any, loss: float, seconds: float) -> None:
        advance(self, loss, seconds)
        if self._done == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(training.StepProgress, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt) as stopped:
        train(recipe(data, steps=7), output=tmp_path)
    assert stopped.value.__notes__ == [
        "stage `align` stopped after step 3 of 7, saved after step 0: the same command goes on from there"
    ]
    assert sorted(file.name for file in (tmp_path / "align").iterdir()) == ["log.jsonl"]


def test_only_the_first_process_writes_the_log(tmp_path: Path) -> None:
    with RunLog(tmp_path, {"stage": "s"}, writes=False) as log:
        log.write(STEP, {"step": 0})
    assert list(tmp_path.iterdir()) == []
