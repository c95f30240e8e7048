"""The loss stage, forward and backward: `masked_nll` against full logits and cross-entropy as transformers computes them.

Time is CPU seconds of one thread, variants interleaved in one process, medians; memory is the peak of a fresh process above
what it held before the step. Quote the ratios: the seconds belong to the machine that the result file describes.
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.loss.loss_utils import ForCausalLMLoss

from vlmzoo.loss import masked_nll

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "loss.json"
README = HERE / "README.md"
BEGIN, END = "<!-- loss: written by benchmarks/loss.py -->", "<!-- loss: end -->"

BATCH, LENGTH, WIDTH = 8, 256, 576  # SmolLM2-135M's width
VOCABULARIES = (32_000, 128_256, 151_936)  # Llama 2, Llama 3, Qwen 2.5
SHARES = (10, 20, 30, 100)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
RECOMPUTED_SHARE = 20

Loss = Callable[[Tensor, nn.Linear, Tensor], Tensor]


def full_logits(hidden: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
    """What a transformers model does: logits of every position, then `ForCausalLMLoss`."""
    return ForCausalLMLoss(head(hidden), targets, head.out_features)


def ours(hidden: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
    """The loss core with its defaults."""
    return masked_nll(hidden, head, targets).loss


def recomputed(hidden: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
    """Supervised rows in checkpointed chunks of 256: the algorithm of TRL's `chunked_nll`, written anew here."""
    shifted = nn.functional.pad(targets[:, 1:], (0, 1), value=-100).flatten()
    rows, labels = hidden.flatten(0, 1)[shifted != -100], shifted[shifted != -100]

    def chunk_sum(part: Tensor, part_labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(head(part).float(), part_labels, reduction="sum")

    pieces = zip(rows.split(256), labels.split(256), strict=True)
    return sum(checkpoint(chunk_sum, *piece, use_reentrant=False) for piece in pieces) / len(labels)


VARIANTS: dict[str, Loss] = {"full": full_logits, "ours": ours, "recomputed": recomputed}


class Stage:
    """The tensors of one vocabulary and dtype, and a step of a variant on them."""

    def __init__(self, vocabulary: int, dtype: str) -> None:
        torch.manual_seed(0)
        self.hidden = torch.randn(BATCH, LENGTH, WIDTH).to(DTYPES[dtype]).requires_grad_()
        self.head = nn.Linear(WIDTH, vocabulary, bias=False, dtype=DTYPES[dtype])
        self.labels = torch.randint(vocabulary, (BATCH, LENGTH))
        self.order = torch.rand(BATCH, LENGTH).argsort(dim=1)

    def targets(self, share: int) -> Tensor:
        """Labels of which this share, in percent, is supervised."""
        return self.labels.masked_fill(self.order >= round(LENGTH * share / 100), -100)

    def step(self, variant: str, share: int) -> float:
        """Forward and backward; the loss."""
        self.hidden.grad = self.head.weight.grad = None
        loss = VARIANTS[variant](self.hidden, self.head, self.targets(share))
        loss.backward()
        return loss.item()


def cells() -> list[tuple[str, int]]:
    """What is measured for each vocabulary and dtype. Full logits cost the same at any share."""
    return [("full", RECOMPUTED_SHARE), ("recomputed", RECOMPUTED_SHARE), *(("ours", share) for share in SHARES)]


def memory(field: str) -> int:
    """`VmRSS` or `VmHWM` of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}; the peak of memory can only be measured on Linux")


def peak_in_child(vocabulary: int, dtype: str, variant: str, share: int, answer: Connection) -> None:
    """One step in a process that has done nothing else; sends the peak above what was held before it."""
    torch.set_num_threads(1)
    Stage(256, dtype).step(variant, share)  # loads the kernels
    stage = Stage(vocabulary, dtype)
    before = memory("VmRSS")
    stage.step(variant, share)
    answer.send(memory("VmHWM") - before)


def peak_bytes(vocabulary: int, dtype: str, variant: str, share: int) -> int:
    """The peak of one step, of a process forked from this one, which must not have run torch yet."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=peak_in_child, args=(vocabulary, dtype, variant, share, sender))
    child.start()
    sender.close()
    peak = receiver.recv()
    child.join()
    return peak


def measure(rounds: int) -> list[dict[str, object]]:
    """One record per vocabulary, dtype, variant and share."""
    settings = [(dtype, vocabulary) for dtype in DTYPES for vocabulary in VOCABULARIES]
    peaks = {}
    for dtype, vocabulary in settings:
        for cell in cells():
            peaks[dtype, vocabulary, *cell] = peak_bytes(vocabulary, dtype, *cell)
        print(f"peak memory {dtype} V={vocabulary} done", flush=True)

    records: list[dict[str, object]] = []
    torch.set_num_threads(1)
    for dtype, vocabulary in settings:
        stage = Stage(vocabulary, dtype)
        seconds: dict[tuple[str, int], list[float]] = {cell: [] for cell in cells()}
        losses = {}
        for turn in range(rounds):
            for variant, share in cells():
                if share == 100 and turn > 0:
                    continue  # a third of the time of a run, for the least interesting number
                start = time.process_time()
                losses[variant, share] = stage.step(variant, share)
                seconds[variant, share].append(time.process_time() - start)
        records += [
            {
                "dtype": dtype,
                "vocabulary": vocabulary,
                "variant": variant,
                "supervised_percent": share,
                "cpu_seconds": round(statistics.median(seconds[variant, share]), 3),
                "peak_mb": round(peaks[dtype, vocabulary, variant, share] / 1e6),
                "loss": losses[variant, share],
            }
            for variant, share in cells()
        ]
        print(f"time {dtype} V={vocabulary} done", flush=True)
    return records


def machine() -> dict[str, object]:
    """What the numbers depend on; nothing that names the machine."""
    models = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return {
        "cpu": models[0] if models else platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": 1,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def table(report: dict) -> str:
    """The report as markdown, with the raw columns beside the ratios."""
    by_cell = {(r["dtype"], r["vocabulary"], r["variant"], r["supervised_percent"]): r for r in report["results"]}
    lines = [
        "| dtype | V | supervised | full logits | `masked_nll` | faster | peak |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for dtype in DTYPES:
        for vocabulary in VOCABULARIES:
            full = by_cell[dtype, vocabulary, "full", RECOMPUTED_SHARE]
            for share in SHARES:
                record = by_cell[dtype, vocabulary, "ours", share]
                lines.append(
                    f"| {dtype} | {vocabulary:,} | {share} % | {full['cpu_seconds']:.2f} s, {full['peak_mb']:,} MB "
                    f"| {record['cpu_seconds']:.2f} s, {record['peak_mb']:,} MB "
                    f"| **{full['cpu_seconds'] / record['cpu_seconds']:.1f}x** | {record['peak_mb'] / full['peak_mb']:.2f}x |"
                )
    lines += [
        "",
        f"Against supervised rows in recomputed chunks of 256 (TRL's algorithm), {RECOMPUTED_SHARE} % supervised:",
        "",
        "| dtype | V | recomputed chunks | `masked_nll` | faster | peak |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for dtype in DTYPES:
        for vocabulary in VOCABULARIES:
            other = by_cell[dtype, vocabulary, "recomputed", RECOMPUTED_SHARE]
            record = by_cell[dtype, vocabulary, "ours", RECOMPUTED_SHARE]
            lines.append(
                f"| {dtype} | {vocabulary:,} | {other['cpu_seconds']:.2f} s, {other['peak_mb']:,} MB "
                f"| {record['cpu_seconds']:.2f} s, {record['peak_mb']:,} MB "
                f"| **{other['cpu_seconds'] / record['cpu_seconds']:.1f}x** | {record['peak_mb'] / other['peak_mb']:.2f}x |"
            )
    about = report["machine"]
    lines += [
        "",
        f"{about['cpu']} ({about['capability']}), 1 thread of {about['cores']} cores, torch {about['torch']}, "
        f"transformers {about['transformers']}, Python {about['python']}; medians of {report['rounds']} rounds (100 %: one).",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table, and with --write keep it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="steps of each variant; the median counts")
    parser.add_argument("--write", action="store_true", help=f"replace {RESULTS.name} and the table in {README.name}")
    options = parser.parse_args()
    results = measure(options.rounds)
    shape = {"batch": BATCH, "length": LENGTH, "width": WIDTH}
    report = {"benchmark": "loss", "machine": machine(), "shape": shape, "rounds": options.rounds, "results": results}
    print(table(report))
    if options.write:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(report, indent=1) + "\n")
        before, _, rest = README.read_text().partition(BEGIN)
        README.write_text(before + BEGIN + "\n\n" + table(report) + "\n\n" + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
