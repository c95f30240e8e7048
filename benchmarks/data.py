"""Orders of batches on a mix like LLaVA-1.5's 665K: how many tokens are real, how long processes wait, how random it is.

And what that does to a step: one small model trained on the same samples padded, one after the other, and packed.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image
from transformers.trainer_pt_utils import LengthGroupedSampler

import vlmzoo
from vlmzoo.config import load_recipe
from vlmzoo.data.grouping import Budget, Grouped, sorting_buffer
from vlmzoo.data.lengths import Lengths, sample_lengths
from vlmzoo.data.packing import Packed, best_fit
from vlmzoo.data.stream import BatchStream, Permutation
from vlmzoo.training.batching import stage_stream
from vlmzoo.training.samples import make_collator
from vlmzoo_registry import Sample, Turn

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "data.json"
README = HERE / "README.md"
BEGIN, END = "<!-- data: written by benchmarks/data.py -->", "<!-- data: end -->"

SAMPLES = 99_600
RANKS, EACH = 8, 16  # processes, and samples of one forward in each
SLOTS = 576  # of an image (LLaVA-1.5)
MOST = 2048  # tokens of a row

SOURCES = {  # thousands of samples (arXiv:2310.03744), images, and ASSUMED: median and log-spread of the tokens of text
    "llava": (158, 1, 260, 0.55),
    "sharegpt": (40, 0, 1000, 0.75),
    "vqav2": (83, 1, 150, 0.70),
    "gqa": (72, 1, 230, 0.60),
    "okvqa": (9, 1, 60, 0.40),
    "ocrvqa": (80, 1, 130, 0.50),
    "aokvqa": (66, 1, 80, 0.30),
    "textcaps": (22, 1, 50, 0.30),
    "refcoco": (48, 1, 300, 0.50),
    "vg": (86, 1, 430, 0.70),
}


@dataclass(frozen=True)
class Mix:
    """The samples: how long, how many images, from which source."""

    lengths: Lengths
    sources: tuple[str, ...]


def mix(count: int = SAMPLES) -> Mix:
    """A mix with the sources and image tokens of LLaVA-1.5's, and lognormal lengths of text."""
    generator = np.random.default_rng(0)
    total = sum(thousands for thousands, *_ in SOURCES.values())
    tokens: list[int] = []
    images: list[int] = []
    sources: list[str] = []
    for name, (thousands, shown, median, spread) in SOURCES.items():
        number = round(count * thousands / total)
        text = np.exp(generator.normal(np.log(median), spread, number)).clip(20, MOST - SLOTS * shown).astype(int)
        tokens += (text + SLOTS * shown).tolist()
        images += [shown] * number
        sources += [name] * number
    return Mix(Lengths(tuple(tokens), tuple(images)), tuple(sources))


# ---- orders of others --------------------------------------------------------------------------------------------------------


def llava_order(lengths: Lengths, seed: int) -> list[int]:
    """LLaVA's `group_by_modality_length`, written anew: megabatches (what all processes see at once) of one modality, their
    samples dealt to the processes so that these get equally many tokens; megabatches in random order.
    """
    generator = np.random.default_rng(seed)
    megabatch = RANKS * EACH
    whole, rest = [], []
    for shown in (True, False):
        kind = [index for index in generator.permutation(len(lengths)).tolist() if bool(lengths.images[index]) == shown]
        for start in range(0, len(kind), megabatch):
            found = kind[start : start + megabatch]
            if len(found) < megabatch:
                rest += found
                continue
            shares: list[list[int]] = [[] for _ in range(RANKS)]
            held = [0.0] * RANKS
            for index in sorted(found, key=lengths.tokens.__getitem__, reverse=True):
                least = min(range(RANKS), key=held.__getitem__)
                shares[least].append(index)
                held[least] = held[least] + lengths.tokens[index] if len(shares[least]) < EACH else float("inf")
            whole.append([index for share in shares for index in share])
    order = [index for place in generator.permutation(len(whole)).tolist() for index in whole[place]]
    return order + rest


def transformers_order(lengths: Lengths, seed: int) -> list[int]:
    """`train_sampling_strategy="group_by_length"`: the sampler of the installed transformers."""
    generator = torch.Generator().manual_seed(seed)
    return list(LengthGroupedSampler(EACH, lengths=list(lengths.tokens), generator=generator))


# ---- what an order comes to --------------------------------------------------------------------------------------------------

Step = list[list[int]]
"""The samples that each process sees in one forward."""


def consecutive(order: Sequence[int]) -> list[Step]:
    """Steps of an order whose every `EACH` samples are one process's."""
    whole = RANKS * EACH
    return [
        [list(order[start + rank * EACH : start + (rank + 1) * EACH]) for rank in range(RANKS)]
        for start in range(0, len(order) - whole + 1, whole)
    ]


def steps_of(stream: BatchStream) -> list[Step]:
    """The steps of one epoch of a stream, dealt to processes as training does."""
    return [
        [[draw.index for piece in batch[rank::RANKS] for draw in piece] for rank in range(RANKS)]
        for batch in (stream.next_batch() for _ in range(len(stream) - 1))
    ]


def measured(steps: Sequence[Step], found: Mix, cost: Callable[[list[int]], int]) -> dict[str, float]:
    """The figures of an order. `cost` is how many tokens a process computes for the samples it sees."""
    tokens, images = found.lengths.tokens, found.lengths.images
    real = np.array([[sum(tokens[i] for i in seen) for seen in step] for step in steps])
    computed = np.array([[cost(seen) for seen in step] for step in steps])
    shown = np.array([[sum(images[i] for i in seen) for seen in step] for step in steps])
    shown = shown[shown.sum(axis=1) > 0]
    drawn = np.array([tokens[index] for step in steps for seen in step for index in seen])
    counts = [Counter(found.sources[i] for seen in step for i in seen) for step in steps]
    means = [np.mean([tokens[i] for seen in step for i in seen]) for step in steps]
    size = np.mean([sum(map(len, step)) for step in steps])
    token_efficiency = real.sum() / computed.sum()
    sync_efficiency = computed.sum() / (computed.max(axis=1).sum() * RANKS)
    return {
        "token_efficiency": round(float(token_efficiency), 4),
        "sync_efficiency": round(float(sync_efficiency), 4),
        "total": round(float(token_efficiency * sync_efficiency), 4),
        "images_most_to_mean": round(float((shown.max(axis=1) / shown.mean(axis=1)).mean()), 3),
        "length_of_neighbours": round(float(np.corrcoef(drawn[1:], drawn[:-1])[0, 1]), 3),
        "spread_of_forwards": round(float(np.std(means) / (np.std(tokens) / np.sqrt(size))), 2),
        "largest_source": round(float(np.mean([max(count.values()) / sum(count.values()) for count in counts])), 3),
        "most_tokens": int(computed.max()),
    }


def padded(found: Mix) -> Callable[[list[int]], int]:
    """Rows filled up to the longest."""
    return lambda seen: max(found.lengths.tokens[i] for i in seen) * len(seen)


def flat(found: Mix) -> Callable[[list[int]], int]:
    """Rows one after the other."""
    return lambda seen: sum(found.lengths.tokens[i] for i in seen)


def orders(found: Mix) -> list[dict[str, object]]:
    """Every order, measured."""
    lengths, group = found.lengths, RANKS * EACH
    rows: list[dict[str, object]] = []

    def add(name: str, made: Callable[[], list[Step]], cost: Callable[[list[int]], int]) -> None:
        began = time.process_time()
        steps = made()
        spent = time.process_time() - began
        rows.append({"name": name, **measured(steps, found, cost), "microseconds": round(spent / len(lengths) * 1e6, 2)})
        print(rows[-1], flush=True)

    def grouped(by: str, budget: Budget | None = None, pieces: int = group) -> Callable[[], list[Step]]:
        buffer = sorting_buffer(lengths, pieces, budget)
        order = Grouped(lengths, by=by, group=pieces, buffer=buffer, seed=0, budget=budget)  # type: ignore[arg-type]
        return lambda: steps_of(BatchStream(order, pieces))

    add("random, padded", lambda: steps_of(BatchStream(Permutation(len(lengths), seed=0), group)), padded(found))
    add("LLaVA's modality and length grouping, padded", lambda: consecutive(llava_order(lengths, 0)), padded(found))
    add("transformers' `group_by_length`, padded", lambda: consecutive(transformers_order(lengths, 0)), padded(found))
    add("`group_by: modality`, padded", grouped("modality"), padded(found))
    add("`group_by: length`, padded", grouped("length"), padded(found))
    add(
        "`group_by: length`, `max_tokens: 16384`, padded",
        grouped("length", Budget(16_384, padded=True), RANKS),
        padded(found),
    )
    add("random, `flatten` (the default)", lambda: steps_of(BatchStream(Permutation(len(lengths), seed=0), group)), flat(found))
    add("`max_tokens: 16384`, `flatten`", grouped("none", Budget(16_384), RANKS), flat(found))
    for most in (4096, 8192, 16_384):
        packs = Packed(lengths, budget=Budget(most), group=RANKS, buffer=1000, seed=0)
        add(f"`pack`, `max_tokens: {most}`", lambda packs=packs: steps_of(BatchStream(packs, RANKS)), flat(found))
    return rows


def moved(lengths: Lengths) -> dict[str, int]:
    """How many places a sample leaves the permutation by when it is packed into 8,192 tokens."""
    order = Permutation(len(lengths), seed=0).indexes(0)
    packed = np.array([index for pack in best_fit(order, lengths, Budget(8192), 1000) for index in pack])
    place = np.empty(len(order), dtype=int)
    place[order] = np.arange(len(order))
    by = np.abs(place[packed] - np.arange(len(order)))
    return {"median": int(np.median(by)), "most": int(by.max())}


# ---- the time of a step ------------------------------------------------------------------------------------------------------

SCALE = 9  # lengths are a ninth of the mix's: an image is 64 tokens
STEP_SAMPLES, MICRO = 64, 8
VISION = {"model_type": "clip_vision_model", "hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 4}
LANGUAGE = {"model_type": "llama", "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6, "vocab_size": 320}
WAYS = {
    "padded": {"mode": "padded"},
    "padded, `group_by: length`": {"mode": "padded", "group_by": "length", "buffer": 64},
    "flatten": {"mode": "flatten"},
    "pack": {"mode": "pack", "max_tokens": 8192 // SCALE},
}


def step_samples(found: Mix) -> list[Sample]:
    """Samples of the mix, a ninth as long; the byte tokenizer makes a token of each letter."""
    generator = np.random.default_rng(1)
    picture = Image.fromarray(generator.integers(0, 256, (128, 128, 3), dtype=np.uint8))
    samples = []
    for index in generator.choice(len(found.lengths), STEP_SAMPLES, replace=False).tolist():
        shown = found.lengths.images[index]
        text = max(4, round((found.lengths.tokens[index] - SLOTS * shown) / SCALE))
        asked = ("<image>" if shown else "") + "q" * (text - text // 3)
        turns = (Turn("user", asked), Turn("assistant", "a" * (text // 3 + 1)))
        samples.append(Sample(str(index), turns, (lambda: picture,) * shown, f"mix:{index}"))
    return samples


def step_recipe(way: dict[str, object]) -> dict[str, object]:
    """A stage that trains all but the encoder."""
    heads = {"num_attention_heads": 6}
    return {
        "model": {
            "architecture": "unified",
            "vision": {"name": "transformers/vision", "config": {**VISION, **heads, "image_size": 128, "patch_size": 16}},
            "connector": "connectors/mlp",
            "language": {"name": "transformers/causal-lm", "config": {**LANGUAGE, **heads, "max_position_embeddings": 4096}},
            "template": "plain",
        },
        "stages": [
            {
                "name": "step",
                "objective": "instruct",
                "data": [{"name": "captions", "path": "none.jsonl", "images": "."}],
                "train": {"connector": {"lr": 1e-3}, "language": {"lr": 1e-3}},
                "batch_size": MICRO,
                "steps": 1,
                "batching": way,
            }
        ],
    }


def step_times(found: Mix, rounds: int) -> dict[str, dict[str, float]]:
    """CPU seconds of a step over the same samples, way by way; the ways take turns."""
    samples = step_samples(found)
    torch.manual_seed(0)
    model = vlmzoo.build(load_recipe(step_recipe(WAYS["padded"])).model)
    for parameter in model.vision.parameters():
        parameter.requires_grad_(False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    start = [parameter.detach().clone() for parameter in trained]
    batches, record = {}, {}
    for name, way in WAYS.items():
        stage = load_recipe(step_recipe(way)).stages[0]
        collate = make_collator(model, stage)
        stream = stage_stream(stage, samples, collate, sample_lengths(samples, collate), seed=0)
        pieces = [piece for _ in range(len(stream)) for piece in stream.next_batch() if all(draw.epoch == 0 for draw in piece)]
        forward = 1 if way["mode"] == "pack" else MICRO
        micros = [
            [samples[d.index] for piece in pieces[i : i + forward] for d in piece] for i in range(0, len(pieces), forward)
        ]
        assert sum(map(len, micros)) == STEP_SAMPLES
        batches[name] = [collate(micro) for micro in micros]
        computed = sum(batch["input_ids"].numel() for batch in batches[name])
        record[name] = {"forwards": len(micros), "tokens": computed}
    supervised = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in batches["padded"])
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    losses: dict[str, float] = {}
    for number in range(rounds + 1):
        for name, made in batches.items():
            with torch.no_grad():
                for parameter, value in zip(trained, start, strict=True):
                    parameter.copy_(value)
            optimizer = torch.optim.AdamW(trained, lr=1e-3)
            began = time.process_time()
            loss = 0.0
            for batch in made:
                output = model(**batch, num_items_in_batch=supervised)
                output.loss.backward()
                loss += float(output.loss.detach())
            optimizer.step()
            spent = time.process_time() - began
            optimizer.zero_grad()
            losses[name] = loss
            if number:  # the first warms up
                seconds[name].append(spent)
    for name in WAYS:
        record[name] |= {"seconds": round(statistics.median(seconds[name]), 3), "loss": round(losses[name], 6)}
    return record


# ---- the page ----------------------------------------------------------------------------------------------------------------


def section(data: dict) -> str:
    """What stands between the marks."""
    lines = [
        "| order | real tokens | in step | together | images, most / mean | neighbours | spread | largest source | µs |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row['name']} | {row['token_efficiency']:.3f} | {row['sync_efficiency']:.3f} | **{row['total']:.3f}** | "
        f"{row['images_most_to_mean']:.2f} | {row['length_of_neighbours']:.2f} | {row['spread_of_forwards']:.1f} | "
        f"{row['largest_source']:.0%} | {row['microseconds']:.1f} |".replace("%", " %")
        for row in data["orders"]
    ]
    found, by = data["mix"], data["moved"]
    lines += [
        "",
        f"{found['samples']:,} samples, {found['mean']:.0f} tokens on average ({found['mean_with_image']:.0f} with an image, "
        f"{found['mean_without']:.0f} without), {found['image_share']:.0%} of them image tokens. ".replace("%", " %")
        + f"Packing moves a sample by {by['median']} places of the permutation (median; at most {by['most']}).",
        "",
        "| a step over the same 64 samples | forwards | tokens computed | CPU seconds | faster | loss |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    base = data["steps"]["padded"]["seconds"]
    lines += [
        f"| {name} | {row['forwards']} | {row['tokens']:,} | {row['seconds']:.2f} | **{base / row['seconds']:.2f}x** | "
        f"{row['loss']:.5f} |"
        for name, row in data["steps"].items()
    ]
    return "\n".join([*lines, "", data["machine"]])


def machine(rounds: int) -> str:
    """On what this was measured."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "?")
    return (
        f"{model}, 1 thread of {os.cpu_count()} cores, torch {torch.__version__}, transformers {transformers.__version__}, "
        f"Python {platform.python_version()}; medians of {rounds} rounds."
    )


def main() -> None:
    """Measure, and with `--write` keep the results and the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = mix()
    tokens, images = np.array(found.lengths.tokens), np.array(found.lengths.images)
    data = {
        "mix": {
            "samples": len(tokens),
            "mean": round(float(tokens.mean()), 1),
            "mean_with_image": round(float(tokens[images > 0].mean()), 1),
            "mean_without": round(float(tokens[images == 0].mean()), 1),
            "image_share": round(float(images.sum() * SLOTS / tokens.sum()), 4),
        },
        "orders": orders(found),
        "moved": moved(found.lengths),
        "steps": step_times(found, options.rounds),
        "machine": machine(options.rounds),
    }
    print(section(data))
    if options.write:
        RESULTS.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
        _, _, after = rest.partition(END)
        README.write_text(f"{before}{BEGIN}\n\n{section(data)}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
