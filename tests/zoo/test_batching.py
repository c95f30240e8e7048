"""Ways of batching in whole stages: the same update where it should be, what is refused, what is said, resumed runs."""

import json
import math
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from resumable import Killed, assert_same, outcome, stop_after, stopped
from resumable import recipe as two_stages
from small_models import GPT2, LLAMA, causal_lm, picture, section

import vlmzoo
from vlmzoo.config import load_recipe
from vlmzoo.data.lengths import LENGTHS, sample_lengths
from vlmzoo.training import fit as fit_module
from vlmzoo.training.history import read_log
from vlmzoo.training.samples import Samples, make_collator, stage_samples
from vlmzoo.training.state import Point
from vlmzoo.training.train import train
from vlmzoo_registry import AssemblyError, CheckpointError, ConfigError, DataError, PluginError, ResourceError

WORDS = [
    "a",
    "a red cat",
    "two",
    "the dog sees seven blue birds",
    "rain",
    "on a hill",
    "why",
    "it is a very old tree",
    "no",
    "b",
]
TILES = {"name": "layouts/dynamic-tiles", "max_tiles": 4}
LANGUAGE = causal_lm(LLAMA | {"max_position_embeddings": 2048})


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten rows of very different lengths, three of them without an image."""
    root = tmp_path_factory.mktemp("rows")
    lines = []
    for number, words in enumerate(WORDS):
        picture(number, side=40).resize((30 + 20 * number, 40)).save(root / f"{number}.png")
        text = number % 4 == 3
        said = [{"from": "human", "value": "what?" if text else "<image>\nwhat?"}, {"from": "gpt", "value": words}]
        lines.append({"id": str(number), **({} if text else {"image": f"{number}.png"}), "conversations": said})
    (root / "rows.json").write_text(json.dumps(lines))
    return root


def recipe(rows: Path, model: dict[str, Any] | None = None, **stage: Any) -> dict[str, Any]:
    return {
        "model": (section(language=LANGUAGE) if model is None else model) | {"template": "vicuna_v1"},
        "stages": [
            {
                "name": "align",
                "objective": "instruct",
                "data": [{"name": "llava", "path": str(rows / "rows.json"), "images": str(rows)}],
                "train": {"connector": {"lr": 1e-2}, "language": {"lr": 1e-2}},
                "batch_size": 4,
                "steps": 2,
                **stage,
            }
        ],
    }


@pytest.mark.parametrize("architecture", ["unified", "cross_attention"])
@pytest.mark.parametrize("order", [{}, {"group_by": "length", "buffer": 4}])
def test_rows_one_after_the_other_make_the_update_of_padded_ones(
    architecture: str, order: dict[str, Any], rows: Path, tmp_path: Path
) -> None:
    model = section(architecture, language=LANGUAGE)
    found = {}
    for mode in ("padded", "flatten", None):
        given = recipe(rows, model, micro_batch=2, batching=order if mode is None else {"mode": mode, **order})
        found[mode] = train(given, output=tmp_path / str(mode)).losses
    assert found["flatten"] == found[None]
    assert all(math.isclose(a, b, rel_tol=1e-5) for a, b in zip(found["padded"], found["flatten"], strict=True))
    logged = {mode: read_log(tmp_path / str(mode) / "align").stage["batching"]["said"] for mode in found}
    assert logged["padded"].startswith("rows are padded") and logged[None].startswith("rows stand one after the other")


def test_a_pack_teaches_what_its_samples_teach_alone(rows: Path, tmp_path: Path) -> None:
    """One epoch in a single step: packs, budgets and single samples are then the same update, summed in another order."""
    found = {}
    ways = {
        "alone": {"batch_size": 10, "batching": {"mode": "padded"}},
        "packs": {"epochs": 1, "batching": {"mode": "pack", "max_tokens": 400}},
        "runs": {"epochs": 1, "batching": {"mode": "flatten", "max_tokens": 400, "group_by": "modality"}},
        "padded runs": {"epochs": 1, "batching": {"mode": "padded", "max_tokens": 400, "group_by": "length"}},
    }
    for way, stage in ways.items():
        pieces = 0
        if "epochs" in stage:  # how many there are says the log of a run that is stopped by too large a batch
            train(recipe(rows, **(stage | {"steps": None, "batch_size": 1})), output=tmp_path / f"{way} counted")
            log = read_log(tmp_path / f"{way} counted" / "align").stage
            pieces = log["batching"]["pieces"]
            assert log["steps"] == pieces and 2 <= pieces < 10
        size = {"batch_size": pieces, "micro_batch": 1} if pieces else {}
        found[way] = train(recipe(rows, **({"steps": 1} | stage | size | {"epochs": None, "steps": 1})), output=tmp_path / way)
    for way, result in found.items():
        assert math.isclose(result.losses[0], found["alone"].losses[0], rel_tol=1e-5), way
        assert (result.tokens, result.images) == (found["alone"].tokens, 8), way


@pytest.mark.parametrize("layout", [None, TILES])
def test_lengths_are_those_of_the_batches(layout: dict[str, Any] | None, rows: Path) -> None:
    model = section(language=LANGUAGE) | ({} if layout is None else {"layout": layout})
    plan = load_recipe(recipe(rows, model))
    built = vlmzoo.build(plan.model)
    collate, samples = make_collator(built, plan.stages[0]), stage_samples(plan.stages[0])
    lengths = sample_lengths(samples, collate)
    for index in range(len(samples)):
        made = collate([samples[index]])
        assert made["row_lengths"].tolist() == [lengths.tokens[index]], "the default, for this language model"
        assert lengths.tokens[index] == made["input_ids"].shape[1]
        assert lengths.images[index] == (int(made["image_mask"].sum()) if "image_mask" in made else 0)
    # Tiles whose ratio is closest to that of 30, 50, 70, ... x 40 pixels, and the whole image beside several.
    assert lengths.images == ((1, 1, 1, 0, 1, 1, 1, 0, 1, 1) if layout is None else (3, 1, 3, 0, 4, 4, 5, 0, 5, 5))


def test_lengths_open_no_image_and_are_kept_until_anything_changes(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = load_recipe(recipe(rows, section(language=LANGUAGE) | {"layout": TILES}))
    collate, samples = make_collator(vlmzoo.build(plan.model), plan.stages[0]), stage_samples(plan.stages[0])
    from vlmzoo_registry.images import ImageFile

    monkeypatch.setattr(ImageFile, "__call__", lambda self: pytest.fail("an image was decoded"))
    measured: list[int] = []
    kept = tmp_path / LENGTHS
    measure = partial(sample_lengths, samples, collate, kept=kept, advance=lambda: measured.append(1))
    first = measure(told="a")
    assert len(measured) == 10 and measure(told="a") == first and len(measured) == 10
    measure(told="b")
    assert len(measured) == 20, "other parts are measured again"
    for damage in ("{", "[]", json.dumps({"key": json.loads(kept.read_text())["key"], "tokens": [1, "2"], "images": [1, 1]})):
        kept.write_text(damage)
        assert measure(told="b") == first
    assert len(measured) == 50
    changed = [samples[index] for index in range(10)]
    changed[7] = replace(
        changed[7], turns=(changed[7].turns[0], replace(changed[7].turns[1], text="it is a very old tree, no"))
    )
    others = sample_lengths(changed, collate, kept=kept, told="b", advance=lambda: measured.append(1))
    assert len(measured) == 60, "a row that is not looked at by the data's fingerprint counts too"
    assert others.tokens[7] > first.tokens[7]


def test_what_a_piece_cannot_hold_is_named_before_the_first_step(rows: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        train(recipe(rows, batching={"mode": "pack", "max_tokens": 60}), output=tmp_path / "tokens")
    message = str(refused.value)
    assert "samples are longer than a piece may be: raise the budget to at least" in message
    assert "rows.json:" in message and "tokens are more than `batching.max_tokens` (=60) allows one piece" in message
    model = section(language=LANGUAGE) | {"layout": TILES}
    given = recipe(rows, model, batching={"mode": "flatten", "max_tokens": 4000, "max_images": 1})
    with pytest.raises(
        DataError, match=r"images \(views of them\) are more than `batching\.max_images` \(=1\) allows one piece"
    ):
        train(given, output=tmp_path / "images")
    assert not (tmp_path / "tokens" / "align" / "checkpoint").exists()


@pytest.mark.parametrize(
    ("batching", "said"),
    [
        ({"mode": "pack"}, "batching.max_tokens: is missing: `mode: pack` fills packs of so many tokens, for example `8192`"),
        (
            {"mode": "pack", "max_tokens": 100, "group_by": "length"},
            "batching.group_by: stands beside `mode: pack`, which mixes samples to fill packs: leave one of them out",
        ),
        ({"max_images": 3}, "batching.max_images: needs `max_tokens`, as without it a piece is one sample: add it, or leave"),
        (
            {"buffer": 10},
            "batching.buffer: needs `mode: pack` or `group_by`, as otherwise nothing is sorted: add one, or leave",
        ),
        ({"mode": "packed"}, "batching.mode: "),
        ({"max_tokens": 0}, "batching.max_tokens: "),
    ],
)
def test_options_that_do_not_go_together_are_refused(batching: dict[str, Any], said: str, rows: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        load_recipe(recipe(rows, batching=batching))
    assert said in str(refused.value)


def test_what_a_language_model_cannot_is_refused_or_left_and_said(rows: Path, tmp_path: Path) -> None:
    """The toy's language model does not tell rows apart."""
    toy = section()
    with pytest.raises(AssemblyError) as refused:
        vlmzoo.plan(load_recipe(recipe(rows, toy, batching={"mode": "pack", "max_tokens": 300})))
    said = "`toy/language` cannot tell rows apart that stand one after the other (`row_lengths`)"
    assert f"`batching.mode: pack`: {said}" in str(refused.value)
    with pytest.raises(AssemblyError, match=r"`batching\.mode: flatten`"):
        train(recipe(rows, toy, batching={"mode": "flatten"}), output=tmp_path / "flat")
    train(recipe(rows, toy, steps=1), output=tmp_path / "default")
    assert read_log(tmp_path / "default" / "align").stage["batching"]["said"] == (
        f"rows are padded to the longest of their forward pass, as {said}"
    )


def test_a_stopped_run_packs_what_it_would_have_packed(rows: Path, tmp_path: Path) -> None:
    given = two_stages(rows, section(language=causal_lm(GPT2)), batching={"mode": "pack", "max_tokens": 60, "buffer": 6})
    for stage in given["stages"]:
        stage["data"] = [{"name": "llava", "path": str(rows / "rows.json"), "images": str(rows)}]
    train(given, output=tmp_path / "straight")
    stopped(tmp_path / "stopped", given, "instruct", 3)
    train(given, output=tmp_path / "stopped")
    assert_same(outcome(tmp_path / "straight"), outcome(tmp_path / "stopped"))


def test_an_objective_that_changes_lengths_has_no_budget_of_tokens(rows: Path) -> None:
    model = section(language=causal_lm(LLAMA, span_positions=64, prefix="required"))
    given = recipe(rows, model, objective="blank_infilling", batching={"max_tokens": 500})
    with pytest.raises(AssemblyError, match=r"`tasks/blank_infilling` makes rows of other lengths in every epoch, for which"):
        vlmzoo.plan(load_recipe(given))


def test_an_objective_that_hides_that_it_changes_lengths_is_found(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = load_recipe(recipe(rows))
    collate, samples = make_collator(vlmzoo.build(plan.model), plan.stages[0]), stage_samples(plan.stages[0])
    longer = lambda row, generator: replace(row, input_ids=row.input_ids.repeat(2), labels=row.labels.repeat(2))  # noqa: E731
    monkeypatch.setattr(collate.objective, "corrupt", longer)
    with pytest.raises(
        PluginError, match=r"rows\.json:1: the objective made \d+ tokens of \d+, and says of itself that it keeps"
    ):
        collate.encode(samples[0])
    monkeypatch.setattr(type(collate.objective), "keeps_length", False)
    assert len(collate.encode(samples[0]).input_ids) > 2


def test_shares_of_processes_are_the_lengths_that_one_measures_alone(rows: Path, tmp_path: Path) -> None:
    """Three processes, as threads: each measures a share, all get the same, and only the first writes."""
    plan = load_recipe(recipe(rows))
    collate, samples = make_collator(vlmzoo.build(plan.model), plan.stages[0]), stage_samples(plan.stages[0])
    alone = sample_lengths(samples, collate)
    kept = [tmp_path / LENGTHS, tmp_path / "not there" / LENGTHS, tmp_path / "nor this" / LENGTHS]

    def together(collates: list[Any]) -> tuple[list[Any], list[int]]:
        brought: list[Any] = [None] * 3
        counts = [0] * 3
        barrier = threading.Barrier(3)

        def measure(process: int) -> Any:
            def exchange(mine: Any) -> list[Any]:
                brought[process] = mine
                barrier.wait(30)
                found = list(brought)
                barrier.wait(30)
                return found

            def count() -> None:
                counts[process] += 1

            try:
                return sample_lengths(
                    samples,
                    collates[process],
                    kept=kept[process],
                    told="a",
                    advance=count,
                    share=(process, 3),
                    exchange=exchange,
                )
            except DataError as error:
                return error

        with ThreadPoolExecutor(3) as pool:
            return list(pool.map(measure, range(3))), counts

    assert together([collate] * 3) == ([alone] * 3, [4, 3, 3])
    assert kept[0].exists() and together([collate] * 3) == ([alone] * 3, [0, 0, 0])
    # What is wrong in the share of one, all of them say.
    kept[0].unlink()
    short = make_collator(vlmzoo.build(plan.model), load_recipe(recipe(rows, max_length=60)).stages[0])
    errors, _ = together([collate, short, collate])
    reasons = [error.reasons for error in errors]
    assert reasons[0] == reasons[1] == reasons[2] and reasons[0] and not kept[0].exists()
    assert all("are more than `max_length` (=60)" in reason for reason in reasons[0])
    with pytest.raises(ResourceError, match=r"not there/lengths\.json` could not be written"):
        sample_lengths(samples, collate, kept=kept[1], told="a")


def test_a_budget_of_padded_rows_is_that_of_a_forward_pass(rows: Path, tmp_path: Path) -> None:
    way = {"mode": "padded", "max_tokens": 400, "group_by": "length"}
    with pytest.raises(ResourceError) as refused:
        train(recipe(rows, batching=way), output=tmp_path / "four")
    assert refused.value.message.startswith(
        "stage `align`: `batching.max_tokens` (=400) says what a piece may hold, and a forward pass here has 4 of them, all "
        "padded to its longest row: set `micro_batch` (=4) to 1, the number of processes, or let rows stand"
    )
    assert not (tmp_path / "four" / "align" / LENGTHS).exists(), "before anything is measured"
    train(recipe(rows, batching=way, micro_batch=1), output=tmp_path / "one")
    train(recipe(rows, batching=way | {"mode": "flatten"}), output=tmp_path / "flat")


@pytest.fixture
def paused(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Path, Callable[[], object]]]:
    """A run over a copy of the rows that was stopped behind a saved point: where its data lies, and what takes it up."""
    # It looks at 64 samples of a dataset: what happens here to all happens in a large one to the others.
    monkeypatch.setattr(Samples, "fingerprint", lambda self: "looked at a few")

    def pause(**batching: Any) -> tuple[Path, Callable[[], object]]:
        data = Path(shutil.copytree(rows, tmp_path / "data"))
        model = section(language=LANGUAGE) | {"layout": TILES}
        given = recipe(data, model, batch_size=1, steps=5, save_every=1, batching=batching)
        with pytest.MonkeyPatch.context() as patch:
            stop_after(patch, "align", 2)
            with pytest.raises(Killed):
                train(given, output=tmp_path / "run")
        return data, lambda: train(given, output=tmp_path / "run")

    return pause


PACK = {"mode": "pack", "max_tokens": 900}


@pytest.mark.parametrize("order", [PACK, {"mode": "padded", "group_by": "length"}], ids=["pack", "length"])
def test_a_stopped_run_does_not_go_on_in_another_order(paused: Any, order: dict[str, Any]) -> None:
    """Its place in the order would be that of other samples: some would be left out, others shown twice."""
    data, go_on = paused(**order)
    text = (data / "rows.json").read_text()
    (data / "rows.json").write_text(text.replace("a red cat", "a red cat!"))
    with pytest.raises(CheckpointError, match=r"was saved when the rows had other lengths than now, .* put the data back"):
        go_on()
    (data / "rows.json").write_text(text)
    assert len(go_on().losses) == 5


def test_an_order_that_looks_at_no_length_and_points_without_lengths_go_on(
    paused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_module, "Point", lambda *values: Point(*values[:4]))  # as earlier versions kept them
    _, go_on = paused(**PACK)
    assert len(go_on().losses) == 5


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("order", [PACK, {"mode": "padded", "group_by": "length"}], ids=["pack", "length"])
def test_an_image_of_another_size_is_noticed_when_it_is_read(
    rows: Path, tmp_path: Path, order: dict[str, Any], workers: int
) -> None:
    data = Path(shutil.copytree(rows, tmp_path / "data"))
    model = section(language=LANGUAGE) | {"layout": TILES}
    given = recipe(data, model, batch_size=1, steps=5, batching=order, workers=workers)
    train(given, output=tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "align" / "checkpoint")
    for path in data.glob("*.png"):
        size = Image.open(path).size
        picture(0).resize((size[1] * 3, size[0]) if size[0] > 100 else (size[0] * 4, size[1])).save(path)
    with pytest.raises(DataError, match=r"and had \d+ and \d+ when lengths were measured, .*remove `lengths\.json` from"):
        train(given, output=tmp_path / "run")
    (tmp_path / "run" / "align" / LENGTHS).unlink()
    assert len(train(given, output=tmp_path / "run").losses) == 5


@pytest.mark.parametrize("mode", ["padded", "flatten"])
def test_a_first_token_that_nothing_predicts_is_neither_learnt_nor_counted(
    mode: str, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An objective may label it; the loss of rows one after the other would then be divided by what none of them learns."""
    plan = load_recipe(recipe(rows, batching={"mode": mode}))
    collate, samples = make_collator(vlmzoo.build(plan.model), plan.stages[0]), stage_samples(plan.stages[0])
    drawn = [samples[index] for index in range(4)]
    right = collate(drawn)["labels"]
    planted = lambda row, generator: replace(row, labels=torch.cat([row.input_ids[:1], row.labels[1:]]))  # noqa: E731
    monkeypatch.setattr(collate.objective, "corrupt", planted)
    assert torch.equal(collate(drawn)["labels"], right)


def test_steps_without_an_image_are_refused_before_the_first_where_only_image_parts_train(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of the ten rows have no image: with `group_by: modality` they are a step of their own."""
    given = partial(recipe, rows, train={"connector": {"lr": 1e-2}}, batch_size=2, steps=None, epochs=1)
    with pytest.raises(DataError) as refused:
        train(given(batching={"group_by": "modality"}), output=tmp_path / "one")
    message = refused.value.message
    assert message.startswith("step ") and "`group_by: modality` makes steps without an image: lower `micro_batch`" in message
    assert "rows.json:1[3]" in message and "rows.json:1[7]" in message
    assert not (tmp_path / "one" / "align" / "log.jsonl").exists(), "nothing was trained"
    # A step of several groups has some with images, and one that begins in a later epoch is found when it comes.
    train(given(batching={"group_by": "modality"}, batch_size=4, micro_batch=2, epochs=None, steps=2), output=tmp_path / "two")
    with pytest.raises(DataError, match=r"; mix in rows with images or train the language model: "):
        train(given(batch_size=1, batching={"max_tokens": 220}), output=tmp_path / "budget")
    monkeypatch.setattr(fit_module, "refuse_steps_without_image", lambda *arguments: None)
    with pytest.raises(DataError, match=r"a batch does not touch what trains .*`group_by: modality` makes steps"):
        train(given(batching={"group_by": "modality"}), output=tmp_path / "later")
