"""One training step from images and from features that are kept: what a frozen encoder costs, and what is saved without it.

CPU seconds of one thread, variants interleaved in one process, medians. Quote the ratios: the seconds belong to the machine
that the result file describes.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image, ImageFilter

import vlmzoo
from vlmzoo.config import load_recipe
from vlmzoo.feature_cache.prepare import prepare_features
from vlmzoo.training.samples import make_collator, stage_samples
from vlmzoo.training.trainable import set_trainable

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "feature_cache.json"
README = HERE / "README.md"
BEGIN, END = "<!-- feature cache: written by benchmarks/feature_cache.py -->", "<!-- feature cache: end -->"

IMAGES, BATCH, ROUNDS = 8, 2, 3
WORDS = "a small house with a red roof beside a lake"

ENCODERS = {
    "ViT-S/16, 224": {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6},
    "ViT-B/16, 224": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
}
"""Of 12 layers, 196 patches and a class token that is dropped."""

LANGUAGE = {  # SmolLM2-135M's architecture (arXiv:2502.02737)
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
    "max_position_embeddings": 2048,
}
CONNECTORS: dict[str, list[Any]] = {
    "196": [{"name": "connectors/mlp"}],
    "49": [{"name": "connectors/pixel-shuffle"}, {"name": "connectors/mlp"}],
}
"""By the number of tokens that come out."""

STAGES: dict[str, dict[str, Any]] = {
    "connector": {"connector": {"lr": 1e-3}},
    "connector and language": {"connector": {"lr": 1e-3}, "language": {"lr": 1e-5}},
}

MEASURED = (
    ("ViT-S/16, 224", "196", "connector"),
    ("ViT-B/16, 224", "196", "connector"),
    ("ViT-B/16, 224", "49", "connector"),
    ("ViT-B/16, 224", "49", "connector and language"),
)
"""Encoder, tokens per image, and what trains."""


def recipe(encoder: str, tokens: str, trains: str, rows: Path) -> dict[str, Any]:
    """The stage that is measured."""
    vision = {
        "model_type": "vit",
        "image_size": 224,
        "patch_size": 16,
        "num_hidden_layers": 12,
        **ENCODERS[encoder],
    }
    return {
        "model": {
            "architecture": "unified",
            "vision": {"name": "transformers/vision", "config": vision},
            "connector": CONNECTORS[tokens],
            "language": {"name": "transformers/causal-lm", "config": LANGUAGE},
            "template": "plain",
        },
        "stages": [
            {
                "name": "align",
                "objective": "caption",
                "data": [{"name": "captions", "path": str(rows / "rows.jsonl"), "images": str(rows)}],
                "train": STAGES[trains],
                "batch_size": BATCH,
                "steps": 1,
            }
        ],
    }


def write_rows(folder: Path) -> None:
    """Photographs' stand-ins: smooth noise of 640 x 480 pixels, as JPEG files."""
    rows = []
    for number in range(IMAGES):
        noise = np.random.default_rng(number).integers(0, 256, (480, 640, 3), dtype=np.uint8)
        image = Image.fromarray(noise).filter(ImageFilter.GaussianBlur(3))
        image.save(folder / f"{number}.jpg", quality=90)
        rows.append({"image": f"{number}.jpg", "caption": WORDS})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of a call, and what it returns."""
    began = time.process_time()
    result = run()
    return time.process_time() - began, result


def measure(encoder: str, tokens: str, trains: str, folder: Path) -> dict[str, Any]:
    """The medians of one encoder and one stage."""
    config = load_recipe(recipe(encoder, tokens, trains, folder))
    stage = config.stages[0]
    torch.manual_seed(0)
    model = vlmzoo.build(config.model)
    set_trainable(model, {str(part): settings for part, settings in stage.train.items()})
    samples = stage_samples(stage)
    encoding, reader = seconds(
        lambda: prepare_features(
            model,
            samples,
            range(IMAGES),
            stage=stage.name,
            precision="float32",
            batch_size=BATCH,
            threads=0,
            share=(0, 1),
            exchange=lambda mine: [mine],
            wait=lambda: None,
            console=None,
        )
    )
    collators = {"images": make_collator(model, stage), "features": make_collator(model, stage, images=reader)}
    times: dict[str, list[float]] = {f"{name} {what}": [] for name in collators for what in ("data", "step")}
    losses: dict[str, list[float]] = {name: [] for name in collators}
    for number in range(ROUNDS + 1):
        batch_samples = [samples[(number * BATCH + place) % IMAGES] for place in range(BATCH)]
        for name, collate in collators.items():
            data, batch = seconds(lambda collate=collate, rows=batch_samples: collate(rows))
            model.zero_grad(set_to_none=True)

            def step(batch: dict[str, Any] = batch) -> float:
                loss = model(**batch).loss
                loss.backward()
                return float(loss.detach())

            spent, loss = seconds(step)
            losses[name].append(loss)
            if number:  # the first round warms up
                times[f"{name} data"].append(data)
                times[f"{name} step"].append(spent)
    difference = max(abs(a - b) for a, b in zip(losses["images"], losses["features"], strict=True))
    medians = {name: statistics.median(values) for name, values in times.items()}
    kept = reader.read([samples[0].images], ["row 0"])["vision_features"]
    told = {"encoder": encoder, "tokens": tokens, "trains": trains}
    return {**told, **medians, "encoding": encoding / IMAGES, "bytes": kept.nbytes, "loss": difference}


def machine() -> str:
    """What the figures were measured on, without its name."""
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    ]
    return (
        f"{names[0] if names else platform.processor()}, 1 thread of {os.cpu_count()} cores, torch {torch.__version__}, "
        f"transformers {transformers.__version__}, Python {platform.python_version()}; medians of {ROUNDS} rounds."
    )


def table(result: dict[str, Any]) -> str:
    """The rows of a result as Markdown."""
    lines = [
        "| encoder | tokens | trains | from images | from features | faster | data | loading | pays after | disk per image |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in result["rows"]:
        images, features = row["images data"] + row["images step"], row["features data"] + row["features step"]
        cells = (
            row["encoder"],
            row["tokens"],
            row["trains"],
            f"{images:.2f} s",
            f"{features:.2f} s",
            f"**{images / features:.2f}x**",
            f"{1000 * row['images data'] / BATCH:.1f} ms",
            f"{1000 * row['features data'] / BATCH:.1f} ms",
            f"{row['encoding'] * BATCH / (images - features):.1f} epochs",
            f"{row['bytes'] / 1e6:.2f} MB",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", result["machine"]])


def main() -> None:
    """Measure, print the table, and with `--write` put it into the result file and the README."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write results/feature_cache.json and the table in README.md")
    write = parser.parse_args().write
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VLMZOO_CACHE"] = str(Path(folder) / "cache")
        write_rows(Path(folder))
        rows = []
        for case in MEASURED:
            rows.append(measure(*case, Path(folder)))
            print(rows[-1], flush=True)
            for shard in Path(folder).glob("cache/features/*/*.safetensors"):
                shard.unlink()  # the next one encodes too, so that it is measured again
    result = {"machine": machine(), "rows": rows}
    print(table(result))
    if write:
        RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        text = README.read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        README.write_text(f"{before}{BEGIN}\n\n{table(result)}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
