"""Before the first step of a stage: every image it will draw is encoded once, unless that was done before."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal, cast

import torch
from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from vlmzoo.data import BatchStream
from vlmzoo.data.reader import ImageReader, Opener
from vlmzoo.feature_cache.content import content
from vlmzoo.feature_cache.key import feature_key, key_sha256
from vlmzoo.feature_cache.read_ahead import read_ahead
from vlmzoo.feature_cache.reader import FeatureReader
from vlmzoo.feature_cache.store import Features, FeatureStore
from vlmzoo.model.vlm import VLM
from vlmzoo.passing_bar import passing_bar
from vlmzoo.training.foreign_errors import foreign_errors_named
from vlmzoo.training.interruption import Interruption
from vlmzoo.training.samples import Samples
from vlmzoo_registry import Arrangement, AssemblyError, DataError, ImageSize
from vlmzoo_registry.scan_cache import cache_folder

SHARD_BYTES = 2**27
"""Features come to about so many bytes per file: what a crash loses at most."""

_AHEAD = 64  # images whose bytes are read ahead


@dataclass(frozen=True, slots=True)
class Wanted:
    """An image that has no features yet: what it is known by, and where it stands, as it may hold its bytes itself."""

    content: str
    row: int
    place: int


@dataclass(frozen=True)
class Shown:
    """An image of a row: where it stands, what opens it, and where it comes from."""

    row: int
    place: int
    image: Opener
    source: str


@dataclass(frozen=True)
class Opened:
    """An image that is to be encoded, opened: its size, how it is cut, and the pixels of its views."""

    content: str
    size: ImageSize
    arrangement: Arrangement
    views: Float[Tensor, "V C H W"]


def features_folder() -> Path:
    """Where features are kept, a folder for each key: in `VLMZOO_CACHE`, or the user's cache folder of this system."""
    return cache_folder() / "features"


def prepare_features(
    vlm: VLM,
    samples: Samples,
    drawn: Iterable[int],
    *,
    stage: str,
    precision: Literal["float32", "bf16"],
    batch_size: int,
    threads: int,
    share: tuple[int, int],
    exchange: Callable[[list[Wanted]], list[list[Wanted]]],
    wait: Callable[[], None],
    console: Console | None,
) -> FeatureReader:
    """What reads the features of the images of these samples, once those that are not kept are computed, and written.

    The encoder runs as in training: in evaluation mode, without gradients, in the stage's precision, `batch_size` images at a
    time; so many `threads` read images ahead of it. A signal ends it after the images that are under way, which are written.

    `share` is which one this is of how many processes that do the work together on one disk; `exchange` gives, in one order for
    all, what each of them brings; `wait` returns when all have called it.

    Raises `AssemblyError` where the encoder trains, `DataError` naming an image that cannot be read, `ResourceError` where the
    disk is full or the cache folder cannot be used.
    """
    if any(parameter.requires_grad for parameter in vlm.vision.parameters()):
        raise AssemblyError(
            f"stage `{stage}`: `cache_features` keeps what a frozen encoder makes of images, and this one trains: leave it out"
        )
    reader: ImageReader = vlm.processor.images
    key = feature_key(vlm, precision)
    store = FeatureStore(features_folder() / key_sha256(key)[:32], key)
    rank, ranks = share
    own = sorted(set(drawn))[rank::ranks]
    found, wanted = _missing(samples, own, reader, store, stage=stage, threads=threads, console=console)
    for reason in store.removed:
        _say(console, f"Stage `{stage}`: {reason}; it is removed, and its images are encoded again.")
    # An image that rows of several processes show is encoded by one of them, and all of them have about the same to do.
    everything = sorted({one.content: one for part in exchange(wanted) for one in part}.values(), key=lambda one: one.content)
    wanted = sorted(everything[rank::ranks], key=lambda one: (one.row, one.place))
    if wanted:
        _encode_all(
            vlm,
            samples,
            reader,
            store,
            wanted,
            together=len(everything),
            stage=stage,
            precision=precision,
            batch_size=batch_size,
            threads=threads,
            console=console,
        )
    wait()
    store.refresh()
    count, new = found + len(wanted), len(wanted)
    whose = "" if ranks == 1 else f", the share of one of {ranks} processes,"
    _say(console, f"Stage `{stage}`: features of {count} images{whose} are read from {store.folder}, {new} were encoded now")
    return FeatureReader(reader, store)


def drawn_indexes(stream: BatchStream, steps: int) -> set[int]:
    """Which samples the next steps draw; the stream stays where it is."""
    ahead = deepcopy(stream)
    return {draw.index for _ in range(steps) for piece in ahead.next_batch() for draw in piece}


def encode_views(
    vlm: VLM, views: Sequence[Float[Tensor, "_ C _ _"]], precision: Literal["float32", "bf16"]
) -> list[Float[Tensor, "_ _ D"]]:
    """The tokens of the views of several images on the CPU; views of one size go through the encoder together."""
    tokens: list[Tensor | None] = [None] * len(views)
    for size in dict.fromkeys(image.shape[2:] for image in views):
        these = [number for number, image in enumerate(views) if image.shape[2:] == size]
        pixels = torch.cat([views[number] for number in these]).to(vlm.device)  # [views of this size, C, H, W]
        with torch.no_grad(), torch.autocast(vlm.device.type, torch.bfloat16, enabled=precision == "bf16"):
            features = vlm.see(pixels).tokens.cpu()  # [views of this size, N, D]
        for number, part in zip(these, features.split([len(views[number]) for number in these]), strict=True):
            tokens[number] = part
    return cast(list[Tensor], tokens)


def _missing(
    samples: Samples,
    indexes: Sequence[int],
    reader: ImageReader,
    store: FeatureStore,
    *,
    stage: str,
    threads: int,
    console: Console | None,
) -> tuple[int, list[Wanted]]:
    """How many different images of these samples are kept, and those that are not."""
    seen: set[str] = set()
    found, wanted = 0, []
    with (
        _progress(console, f"{stage}: looking at images", len(indexes), "rows") as advance,
        closing(read_ahead(_known, _images(samples, indexes, advance), threads=threads, most=_AHEAD)) as images,
    ):
        for shown, known in images:
            if known in seen:
                continue
            seen.add(known)
            if _is_kept(known, reader, store):
                found += 1
            else:
                wanted.append(Wanted(known, shown.row, shown.place))
    return found, wanted


def _images(samples: Samples, indexes: Sequence[int], advance: Callable[[int], None]) -> Iterator[Shown]:
    """The images of these samples, one after the other."""
    for index in indexes:
        yield from _shown(samples, index)
        advance(1)


def _shown(samples: Samples, row: int) -> list[Shown]:
    """The images of a sample."""
    with foreign_errors_named(f"row {row} (from 0) of the stage's data cannot be read"):
        sample = samples[row]
    return [Shown(row, place, image, f"{sample.source}, image {place}") for place, image in enumerate(sample.images)]


def _known(shown: Shown) -> tuple[Shown, str]:
    with foreign_errors_named(f"{shown.source} cannot be read"):
        return shown, content(shown.image)


def _is_kept(known: str, reader: ImageReader, store: FeatureStore) -> bool:
    """Whether there are features of an image as it is cut now."""
    size = store.size(known)
    try:
        return size is not None and (known, reader.layout.fixed or reader.layout.arrangement(size)) in store
    except DataError:  # this layout cannot cut it: the row is refused where it is read
        return False


def _encode_all(
    vlm: VLM,
    samples: Samples,
    reader: ImageReader,
    store: FeatureStore,
    wanted: Sequence[Wanted],
    *,
    together: int,
    stage: str,
    precision: Literal["float32", "bf16"],
    batch_size: int,
    threads: int,
    console: Console | None,
) -> None:
    """Encode these images and write what comes out, shard by shard; all processes on this disk write `together` so many."""
    pending: list[Features] = []
    done = 0
    read = partial(_read, reader)
    again = ((one.content, _shown(samples, one.row)[one.place]) for one in wanted)
    with (
        Interruption() as interruption,
        _progress(console, f"{stage}: encoding", len(wanted), "images") as advance,
        closing(read_ahead(read, again, threads=threads, most=2 * batch_size)) as images,
    ):
        while batch := list(islice(images, batch_size)):
            tokens = encode_views(vlm, [image.views for image in batch], precision)
            pending += [
                Features(image.content, image.size, image.arrangement, own) for image, own in zip(batch, tokens, strict=True)
            ]
            held = sum(one.tokens.nbytes for one in pending)
            if done == 0:  # images that are cut by their size differ: then it is an estimate, and each shard asks again
                store.require_space(held * together // len(batch))
            done += len(batch)
            if interruption.number or held >= SHARD_BYTES:
                store.write(pending)
                pending = []
            advance(len(batch))
            if interruption.number:
                interruption.leave(interruption.number)
        if pending:
            store.write(pending)


def _read(reader: ImageReader, wanted: tuple[str, Shown]) -> Opened:
    """An image, cut. Raises `DataError` where it cannot be read, or is another one meanwhile."""
    known, shown = wanted
    with foreign_errors_named(f"{shown.source} cannot be used"):
        image = shown.image()
        if content(shown.image) != known:
            raise DataError(f"{shown.source} changed while it was read: let it be, and start the same command again")
        size = (image.height, image.width)
        views = torch.stack(reader.views(image, shown.source))
        return Opened(known, size, reader.layout.fixed or reader.layout.arrangement(size), views)


@contextmanager
def _progress(console: Console | None, title: str, count: int, unit: str) -> Iterator[Callable[[int], None]]:
    """What is called with how many more are done; shows a bar meanwhile, where there is a console."""
    with passing_bar(console, unit) as bar:
        task = bar.add_task(title, total=count)
        yield lambda more: bar.advance(task, more)


def _say(console: Console | None, line: str) -> None:
    if console is not None:
        console.print(line, soft_wrap=True, highlight=False)
