"""A budget becomes a number of steps exactly: what was counted beforehand is what training then used."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from comparison_toys import GRID, write_toys
from small_models import TOY_LANGUAGE, section

import vlmzoo
from vlmzoo.comparison.budget import Counts, Length, length_of
from vlmzoo.comparison.cells import cells_of, combinations_of, with_steps
from vlmzoo.comparison.compare import plan_comparison
from vlmzoo.config import BudgetConfig, load_grid, load_recipe
from vlmzoo.data import BatchStream, Permutation
from vlmzoo.training.samples import make_collator, stage_samples
from vlmzoo.training.train import train
from vlmzoo.without_values import without_values
from vlmzoo_registry import DataError


@pytest.fixture
def toys(tmp_path):
    return partial(write_toys, tmp_path)


def text_collator(recipe):
    """From parts without weights, as a grid counts."""
    return make_collator(without_values(recipe.model), recipe.stages[-1], seed=recipe.seed)


def supervised(recipe, seed: int) -> list[int]:
    """Tokens of each batch, from the real collator of the real model."""
    stage = recipe.stages[-1]
    samples = stage_samples(stage)
    collate = make_collator(vlmzoo.build(recipe.model), stage)
    stream = BatchStream(Permutation(len(samples), seed=seed), stage.batch_size)
    return [int((collate([samples[d.index] for (d,) in stream.next_batch()])["labels"] != -100).sum()) for _ in range(40)]


@pytest.mark.parametrize("seed", [0, 1, 7])
@pytest.mark.parametrize("budget", [1, 57, 300, 999])
def test_the_fewest_whole_steps_that_use_the_tokens_up(toys, seed, budget):
    recipe = load_recipe(toys().parent / "recipe.yaml", [f"seed={seed}"])
    counts = Counts(stage_samples(recipe.stages[-1]), text_collator(recipe))
    length = length_of(
        counts, BatchStream(Permutation(len(counts.samples), seed=seed), 4), BudgetConfig(supervised_tokens=budget)
    )
    batches = supervised(recipe, seed)
    assert length.supervised_tokens == sum(batches[: length.steps]) >= budget
    assert sum(batches[: length.steps - 1]) < budget
    assert length.images == 4 * length.steps


def test_training_uses_what_was_counted_and_every_architecture_the_same(toys, tmp_path):
    cells = [cell for cell in plan_comparison(toys()) if cell.seed == 1]
    assert [cell.combination.name for cell in cells] == ["linear+unified", "mlp+unified", "mlp+cross"]
    assert len({(cell.length.steps, cell.length.supervised_tokens, cell.length.images) for cell in cells}) == 1
    for cell in cells:
        result = train(cell.recipe, output=tmp_path / cell.name)
        assert (len(result.losses), result.tokens, result.images) == (
            cell.length.steps,
            cell.length.supervised_tokens,
            cell.length.images,
        )


def test_images_and_steps_are_counted_too(toys):
    grid = toys()
    by_images = plan_comparison(grid, overrides=["budget={images: 42}"])
    assert {(cell.length.steps, cell.length.images) for cell in by_images} == {(11, 44)}
    by_steps = plan_comparison(grid, overrides=["budget={steps: 7}"])
    assert {cell.recipe.stages[-1].steps for cell in by_steps} == {7}
    assert {cell.length.images for cell in by_steps} == {28}
    by_seconds = plan_comparison(grid, overrides=["budget={seconds: 3}"])
    assert {(cell.length, cell.seconds) for cell in by_seconds} == {(None, 3.0)}


def test_a_budget_of_images_needs_images(toys):
    recipe = load_recipe(toys().parent / "recipe.yaml")

    class Blind:
        def __init__(self, samples):
            self.samples = samples

        def __len__(self):
            return len(self.samples)

        def __getitem__(self, index):
            sample = self.samples[index]
            return replace(
                sample, images=(), turns=tuple(replace(t, text=t.text.replace("<image>", "x")) for t in sample.turns)
            )

    counts = Counts(Blind(stage_samples(recipe.stages[-1])), text_collator(recipe))
    with pytest.raises(DataError, match=r"none of the 8 samples has an image, so `budget\.images` is never used up"):
        length_of(counts, BatchStream(Permutation(8, seed=0), 4), BudgetConfig(images=10))
    assert length_of(counts, BatchStream(Permutation(8, seed=0), 4), BudgetConfig(supervised_tokens=1)).images == 0


def test_the_budget_is_that_of_the_last_stage(toys):
    recipe = toys().parent / "recipe.yaml"
    text = recipe.read_text()
    stage = text[text.index("  - name: align") :]
    recipe.write_text(text + stage.replace("align", "tune"))
    cells = plan_comparison(recipe.parent / "grid.yaml")
    for cell in cells:
        first, last = cell.recipe.stages
        assert (first.steps, last.steps) == (2, cell.length.steps)
        assert last.steps > 2
    epochs = load_recipe(recipe, ["stages.1.steps=null", "stages.1.epochs=2"])
    assert [(stage.steps, stage.epochs) for stage in with_steps(epochs, 9).stages] == [(2, None), (9, None)]


def test_each_sample_is_read_once(toys):
    grid, root = load_grid(toys())
    recipe = combinations_of(grid, root, lambda line: None)[0].recipe
    samples = stage_samples(recipe.stages[-1])
    read = []

    class Watched:
        def __len__(self):
            return len(samples)

        def __getitem__(self, index):
            read.append(index)
            return samples[index]

    counts = Counts(Watched(), text_collator(recipe))
    for seed in (0, 1):
        assert isinstance(length_of(counts, BatchStream(Permutation(8, seed=seed), 4), BudgetConfig(steps=20)), Length)
    assert sorted(read) == list(range(8))
    assert len(cells_of(grid, combinations_of(grid, root, lambda line: None), lambda line: None)) == 6


def test_no_weights_are_made_to_count(toys):
    recipe = load_recipe(toys().parent / "recipe.yaml")
    collate = text_collator(recipe)
    model = vlmzoo.build(section(language=TOY_LANGUAGE))
    sample = stage_samples(recipe.stages[-1])[3]
    with torch.device("cpu"):
        real = make_collator(model, recipe.stages[-1]).encode(sample)
    assert torch.equal(collate.encode(sample).labels, real.labels)
    assert torch.equal(collate.encode(sample).input_ids, real.input_ids)


def length_axis(toys, *overrides: str):
    """Two combinations that differ in how long a row may be; each has 16 tokens of its image, and one for each letter."""
    axes = "axes: {length: {short: [stages.0.max_length=30], long: []}}\n"
    overrides = "overrides: [" + ", ".join(overrides) + "]\n"
    return toys(grid="base: recipe.yaml\n" + overrides + axes + GRID[GRID.index("seeds:") :])


@pytest.mark.parametrize(
    "overrides", [("stages.0.on_bad_row=skip", "stages.0.max_bad_rows=7"), ("stages.0.too_long=cut",)], ids=["skip", "cut"]
)
def test_cells_that_cut_or_leave_out_other_rows_do_not_share_a_count(toys, tmp_path, overrides):
    short, long = plan_comparison(length_axis(toys, *overrides), overrides=["seeds=[0]"])
    assert short.length != long.length
    for cell in (short, long):
        result = train(cell.recipe, output=tmp_path / cell.combination.name)
        assert (len(result.losses), result.tokens) == (cell.length.steps, cell.length.supervised_tokens)


def test_what_one_cell_takes_another_may_refuse(toys):
    """The longer rows are counted first, and only then looked at by who may not take them."""
    grid = length_axis(toys)
    grid.write_text(
        grid.read_text().replace("{short: [stages.0.max_length=30], long: []}", "{long: [], short: [stages.0.max_length=30]}")
    )
    with pytest.raises(DataError) as refused:
        plan_comparison(grid)
    assert refused.value.reasons
    for reason in refused.value.reasons:
        assert reason.startswith("short: ") and "are more than `max_length` (=30)" in reason


def test_what_is_hidden_at_random_is_counted_for_every_seed_and_epoch(toys, tmp_path):
    """More steps than an epoch has, with another choice of tokens in each."""
    masked = {
        "model_type": "bert",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "vocab_size": 320,
        "max_position_embeddings": 128,
    }
    language = json.dumps({"name": "transformers/masked-lm", "config": masked})
    changes = [f"model.language={language}", "stages.0.objective=masked", "model.template=pair"]
    grid = "base: recipe.yaml\naxes: {one: {way: []}}\noverrides: " + json.dumps(changes) + "\n" + GRID[GRID.index("seeds:") :]
    cells = plan_comparison(toys(grid=grid), overrides=["budget={supervised_tokens: 60}"])
    assert len(cells) == 2 and cells[0].length != cells[1].length
    for cell in cells:
        assert cell.length.steps > 2
        result = train(cell.recipe, output=tmp_path / str(cell.seed))
        assert (len(result.losses), result.tokens) == (cell.length.steps, cell.length.supervised_tokens)


def test_a_budget_of_padded_rows_that_no_forward_keeps_is_refused_before_a_cell_trains(toys):
    changes = ["stages.0.batching={mode: padded, max_tokens: 100}"]
    grid = toys(grid=GRID.replace("axes:", f"overrides: {json.dumps(changes)}\naxes:", 1))
    with pytest.raises(DataError) as refused:
        plan_comparison(grid)
    (reason,) = refused.value.reasons
    assert reason.startswith("every cell: stage `align`: `batching.max_tokens` (=100) says what a piece may hold")
    assert "set `micro_batch` (=4) to 1, the number of processes" in reason
    planned = plan_comparison(grid, overrides=[f"overrides={json.dumps([*changes, 'stages.0.micro_batch=1'])}"])
    assert len(planned) == 6
