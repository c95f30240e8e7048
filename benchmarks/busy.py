"""A small training loop on an idle machine and beside busy processes, with the spinning of OpenMP bounded and not.

Runtimes read their variables when they are loaded, so each variant has processes of its own; they are measured in turns. Wall
time: waiting is what it is about. Quote the ratios: the seconds belong to the machine that the result file describes.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from vlmzoo.openmp import SPIN_BOUNDS, WAIT_POLICY

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "busy.json"
README = HERE / "README.md"
BEGIN, END = "<!-- busy: written by benchmarks/busy.py -->", "<!-- busy: end -->"

THREADS = 2
LOAD = 2  # processes beside
PAIRS = 3  # processes of each variant
BLOCKS = {"idle": 6, "busy": 3}  # what each process measures in turn with its rival
STEPS, SECONDS = 20, 8.0  # of a block, which ends with whichever comes first
VARIANTS: dict[str, dict[str, str]] = {"default": {}, "bounded": SPIN_BOUNDS}

MODEL = {
    "architecture": "unified",
    "vision": {
        "name": "transformers/vision",
        "config": {
            "model_type": "vit",
            "image_size": 96,
            "patch_size": 16,
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        },
    },
    "connector": "connectors/mlp",
    "language": {
        "name": "transformers/causal-lm",
        "config": {
            "model_type": "llama",
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "vocab_size": 1024,
            "max_position_embeddings": 256,
        },
    },
    "template": "plain",
}
ROWS = 8  # in the batch


# ---- in a process of its own -------------------------------------------------------------------------------------------------


def serve(folder: Path) -> None:
    """Build the model and, for every line on stdin, make a block of steps and print its mean seconds per step as JSON."""
    import torch
    from PIL import Image

    import vlmzoo
    from vlmzoo.config import load_recipe
    from vlmzoo.training.samples import make_collator, stage_samples

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    rows = [{"image": f"{number}.png", "caption": f"a picture, the one of number {number}"} for number in range(ROWS)]
    for number in range(ROWS):
        Image.new("RGB", (96, 96), (30 * number, 90, 200)).save(folder / f"{number}.png")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    stage = {
        "name": "align",
        "objective": "caption",
        "data": [{"name": "captions", "path": str(folder / "rows.jsonl"), "images": str(folder)}],
        "train": {"connector": {"lr": 1e-3}, "language": {"lr": 1e-3}},
        "batch_size": ROWS,
        "steps": 1,
    }
    config = load_recipe({"model": MODEL, "stages": [stage]})
    model = vlmzoo.build(config.model).train()
    samples = stage_samples(config.stages[0])
    batch = make_collator(model, config.stages[0])([samples[number] for number in range(ROWS)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step() -> None:
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(3):
        step()
    print("ready", flush=True)
    for _ in sys.stdin:
        began, done = time.perf_counter(), 0
        while done < STEPS and time.perf_counter() - began < SECONDS:
            step()
            done += 1
        print(json.dumps((time.perf_counter() - began) / done), flush=True)


# ---- the measurement ---------------------------------------------------------------------------------------------------------


@contextmanager
def trainer(variables: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A process that is ready to train, with these variables and none that the shell has set."""
    kept = {name: value for name, value in os.environ.items() if name not in (*SPIN_BOUNDS, WAIT_POLICY)}
    environment = {**kept, **variables, "OMP_NUM_THREADS": str(THREADS)}
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, __file__, "--serve", folder],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", "the training process has failed"
            yield process
        finally:
            process.kill()
            process.wait()


@contextmanager
def load(processes: int) -> Iterator[None]:
    """So many processes that never wait."""
    beside = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in beside:
            process.kill()
            process.wait()


def block(process: subprocess.Popen[str]) -> float:
    """The mean seconds per step of a block; the others wait for their line meanwhile."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("block\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def measure(pairs: int, blocks: dict[str, int]) -> dict[str, Any]:
    """Seconds per step of every block, by situation and variant."""
    found: dict[str, dict[str, list[float]]] = {where: {name: [] for name in VARIANTS} for where in blocks}
    for pair in range(pairs):
        with ExitStack() as stack:
            running = {name: stack.enter_context(trainer(variables)) for name, variables in VARIANTS.items()}
            for where, count in blocks.items():
                with load(LOAD if where == "busy" else 0):
                    for turn in range(count):
                        order = list(VARIANTS) if (pair + turn) % 2 == 0 else list(reversed(VARIANTS))
                        for name in order:
                            found[where][name].append(block(running[name]))
                print(f"pair {pair + 1} of {pairs}, {where}: {summary(found[where])}", flush=True)
    return {where: summary(seconds) for where, seconds in found.items()}


def summary(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """The medians over blocks, their ranges, and how many times as long the default takes."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ranges = {name: [round(min(values), 5), round(max(values), 5)] for name, values in seconds.items()}
    return {
        **{name: round(median, 5) for name, median in medians.items()},
        "ranges": ranges,
        "faster": round(medians["default"] / medians["bounded"], 3),
    }


def machine(pairs: int, blocks: dict[str, int]) -> str:
    """What the figures were measured on, without its name."""
    import torch
    import transformers

    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    ]
    turns = " and ".join(f"{count} ({where})" for where, count in blocks.items())
    return (
        f"{names[0] if names else platform.processor()}, {THREADS} threads of {os.cpu_count()} cores, {LOAD} busy processes "
        f"beside, torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}; "
        f"medians over {pairs} processes of each variant and {turns} blocks of {STEPS} steps (at most {SECONDS:g} s) in each."
    )


def table(result: dict[str, Any]) -> str:
    """The rows of a result as Markdown."""
    lines = ["| machine | default | bounded | faster |", "| --- | ---: | ---: | ---: |"]
    for where in BLOCKS:
        row = result[where]
        cells = [f"{1000 * row[name]:.1f} ms ({_range(row['ranges'][name])})" for name in VARIANTS]
        lines.append(f"| {where} | {' | '.join(cells)} | **{row['faster']:.2f}x** |")
    return "\n".join([*lines, "", result["machine"]])


def _range(ends: Sequence[float]) -> str:
    return " to ".join(f"{1000 * end:.0f}" for end in ends)


def main() -> None:
    """Measure, print the table, and with `--write` put it into the result file and the README."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write results/busy.json and the table in README.md")
    parser.add_argument("--quick", action="store_true", help="one process of each variant and one block: does it run?")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve is not None:
        serve(given.serve)
        return
    pairs, blocks = (1, dict.fromkeys(BLOCKS, 1)) if given.quick else (PAIRS, BLOCKS)
    result = {"machine": machine(pairs, blocks), **measure(pairs, blocks)}
    print(table(result))
    if given.write:
        RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        text = README.read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        README.write_text(f"{before}{BEGIN}\n\n{table(result)}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
