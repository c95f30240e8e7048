"""What holds for every image layout: what it says of an image is what it cuts, writes and arranges, and nothing is lost."""

import re
from collections.abc import Sequence
from itertools import pairwise

import torch

from vlmzoo_registry.component import Component
from vlmzoo_registry.errors import AssemblyError, DataError
from vlmzoo_registry.layout import Arrangement, ImageLayout, ImageSize
from vlmzoo_registry.report import failure
from vlmzoo_registry.tasks import IMAGE
from vlmzoo_registry.testing.chat_tokenizer import chat_tokenizer
from vlmzoo_registry.testing.check import CheckFunction, NotApplicable, require
from vlmzoo_registry.testing.layout_harness import SIZES, LayoutHarness, contexts
from vlmzoo_registry.testing.tiny import tiny_config

CONTROL = re.compile(r"<[^<>\s]+>|\[[A-Z_]+\]")
"""Words that look like the special tokens of published layouts."""

SEEN = 0.15
"""How far from 0 and 1, the ends of its colours, a view may begin and end that shows a whole image."""


def refuses_with_an_assembly_error(component: Component) -> None:
    """Neighbours that the layout cannot stand between are refused with an `AssemblyError` when it is built; some are not.

    Why: the assembler collects these refusals and shows all of them with the numbers, before a weight is downloaded.

    If it fails: look at `context.shape_at` in the constructor (a grid of None, a prefix, a size that the encoder does not
    take), and raise `AssemblyError` with the numbers and what to do.
    """
    harness = LayoutHarness(component)
    assert harness.context  # some neighbours it agrees with
    reasons = []
    for context in contexts():
        view = context.view_size
        try:
            layout = harness.make_in(tiny_config(component), context)
        except AssemblyError:
            continue
        except Exception as error:
            reasons.append(f"built behind views of {view[0]}x{view[1]} pixels, {context.shape_at(view)}: {failure(error)}")
            continue
        try:
            for _, cut in harness.arrangements(layout):
                layout.text(cut)
        except Exception as error:
            reasons.append(
                f"asked for text behind views of {view[0]}x{view[1]} pixels, {context.shape_at(view)}: {failure(error)}"
            )
    require(not reasons, "it ends with another error than `AssemblyError`", reasons)


def arranges_or_refuses(component: Component) -> None:
    """An image of any size is arranged, the same every time, or refused with a `DataError`; `fixed` is the arrangement of all.

    Why: the text is written from one call and the views are cut by another; and the error is shown with the row it came from,
    while anything else is a crash in the middle of a data set.

    If it fails: compute the arrangement from the size alone, and raise `DataError` with the size and what to do.
    """
    layout = LayoutHarness(component).build()
    reasons = []
    for size in SIZES:
        try:
            once, twice = layout.arrangement(size), layout.arrangement(size)
        except DataError:
            continue
        except Exception as error:
            reasons.append(f"{_of(size)}: {failure(error)}")
            continue
        if once != twice:
            reasons.append(f"{_of(size)}: {once}, and then {twice}")
        if layout.fixed is not None and once != layout.fixed:
            reasons.append(f"{_of(size)}: {once}, but `fixed` is {layout.fixed}")
    require(not reasons, "images are neither arranged nor refused as they should", reasons)
    LayoutHarness(component).arrangements(layout)


def cuts_what_it_says(component: Component) -> None:
    """`cut` gives `views` views of `view_size`, of all channels, the same every time, and leaves the image as it was.

    Why: the model splits the pixels of a batch by these numbers; a view too many is encoded as another image's.

    If it fails: let `cut` begin with `arrangement` of the image's own size, and mind which of Pillow's numbers is the width.
    """
    harness = LayoutHarness(component)
    layout = harness.build()
    for size, cut in harness.arrangements(layout):
        image = harness.image(size)
        before = image.tobytes()
        once = layout.cut(image, harness.transform)
        require(image.tobytes() == before, f"{_of(size)}: cutting changes the image itself")
        twice = layout.cut(image, harness.transform)
        said = [(3, *layout.view_size(cut))] * layout.views(cut)
        came = [tuple(view.shape) for view in once]
        require(came == said, f"{_of(size)}: it says {_counted(said)}, and cuts {_counted(came)}")
        require(all(view.dtype == torch.float32 for view in once), f"{_of(size)}: views are not all of the type float32")
        same = len(once) == len(twice) and all(torch.equal(a, b) for a, b in zip(once, twice, strict=False))
        require(same, f"{_of(size)}: cut twice, the pixels differ")


def slots_are_its_tokens(component: Component) -> None:
    """The numbers in `text` add up to the tokens that `forward` gives, and their width is that of the tokens that came in.

    Why: each slot takes one token; with one too many or too few every later image stands in the wrong place.

    If it fails: compute both from the same numbers, and mind what is cut off, and what is added at the end of rows.
    """
    harness = LayoutHarness(component)
    layout = harness.build()
    for size, cut in harness.arrangements(layout):
        text = layout.text(cut)
        wrong = [piece for piece in text if (not isinstance(piece, str) or not piece) and not _is_number(piece)]
        require(not wrong, f"{_of(size)}: `text` has pieces that are no text and no number of slots: {wrong}")
        views, count, width = harness.token_shape(layout, cut)
        with torch.no_grad():
            tokens = layout(harness.features(layout, torch.randn(views, count, width), cut), cut)
        said = (_slots(layout, cut), width)
        require(tuple(tokens.shape) == said, f"{_of(size)}: `text` has {said[0]} slots, `forward` gives {tuple(tokens.shape)}")


def declares_its_control_tokens(component: Component) -> None:
    """Each of `control_tokens` is one token, and what looks like one in the text is among them; the image's marker is nowhere.

    Why: a special token that the tokenizer was not told of falls apart into bytes, and the model has never seen those.

    If it fails: name every word in `control_tokens` that `text` may write for any image. A layout whose words are ordinary text
    (NVLM's) declares none at all.
    """
    harness = LayoutHarness(component)
    layout = harness.build()
    declared = layout.control_tokens
    repeated = sorted({token for token in declared if declared.count(token) > 1})
    require(not repeated, f"`control_tokens` has some twice: {repeated}")
    tokenizer = chat_tokenizer(declared)
    split = {token: len(tokenizer(token, add_special_tokens=False)["input_ids"]) for token in declared}
    require(set(split.values()) <= {1}, f"some of `control_tokens` are not one token each: {split}")
    for size, cut in harness.arrangements(layout):
        written = "".join(piece if isinstance(piece, str) else "\n" for piece in layout.text(cut))
        require(IMAGE not in written, f"{_of(size)}: `text` writes `{IMAGE}`, which marks the place of a whole image")
        strangers = [word for word in dict.fromkeys(CONTROL.findall(written)) if word not in declared]
        require(not (declared and strangers), f"{_of(size)}: `text` writes what `control_tokens` does not name: {strangers}")


def thumbnail_shows_everything(component: Component) -> None:
    """The view that `thumbnail` names shows the image from edge to edge, both ways.

    Why: a hybrid model reads that view in the text; if it is a tile, the model never sees the whole.

    If it fails: count the views in the order in which `cut` gives them, from 0; return None where no view shows the whole.
    """
    harness = LayoutHarness(component)
    layout = harness.build()
    found = 0
    for size, cut in _large(harness, layout):
        thumbnail = layout.thumbnail(cut)
        if thumbnail is None:
            continue
        views = layout.views(cut)
        require(0 <= thumbnail < views, f"{_of(size)}: `thumbnail` is view {thumbnail}, and there are {views}")
        for name, colour in zip(("left to right", "top to bottom"), _cut(harness, layout, size)[thumbnail][:2], strict=True):
            least, most = float(colour.min()), float(colour.max())
            whole = least < SEEN and most > 1 - SEEN
            require(whole, f"{_of(size)}: view {thumbnail} shows it from {least:.2f} to {most:.2f} of the way from {name}")
        found += 1
    if not found:
        raise NotApplicable("it has no thumbnail")


def tiles_stand_row_by_row(component: Component) -> None:
    """The views beside the thumbnail, where there are `rows` x `columns` of them, show the image row by row from its top left.

    Why: their tokens are arranged and named by this order; transposed, the model reads the right of an image below its left.

    If it fails: cut with the row in the outer loop and the column in the inner one, and keep the thumbnail first or last.
    """
    harness = LayoutHarness(component)
    layout = harness.build()
    found = 0
    for size, cut in _large(harness, layout):
        thumbnail = layout.thumbnail(cut)
        tiles = [view for number, view in enumerate(_cut(harness, layout, size)) if number != thumbnail]
        if len(tiles) != cut.rows * cut.columns or len(tiles) < 2:
            continue
        # How far to the right, and how far down, each tile reaches.
        across, down = ([float(tile[colour].max()) for tile in tiles] for colour in (0, 1))
        for number in range(len(tiles)):
            row, column = divmod(number, cut.columns)
            beside, below = number + 1, number + cut.columns
            if column + 1 < cut.columns:
                right = across[beside] > across[number]
                require(right, f"{_of(size)}, {cut.rows}x{cut.columns} tiles: tile {beside} is not to the right of {number}")
            if row + 1 < cut.rows:
                under = down[below] > down[number]
                require(under, f"{_of(size)}, {cut.rows}x{cut.columns} tiles: tile {below} is not below {number}")
        found += 1
    if not found:
        raise NotApplicable("it cuts no image into tiles")


def tokens_keep_their_order(component: Component) -> None:
    """No token of a view stands twice, those of one view keep their order, and where `text` has a number for each view, the
    views stand in theirs.

    Why: a model reads places by order; two tokens exchanged are two parts of the image exchanged, and no shape shows it.

    If it fails: send features through in which each token is its own number, and read the order that comes out.
    """
    harness = LayoutHarness(component)
    layout = harness.build()
    for size, cut in harness.arrangements(layout):
        views, count, width = harness.token_shape(layout, cut)
        numbers = torch.arange(views * count, dtype=torch.float32)
        with torch.no_grad():
            tokens = layout(harness.features(layout, numbers.view(views, count, 1).repeat(1, 1, width), cut), cut)
        # What the layout adds of its own (the end of a row), or mixes, is no number that went in.
        whole = (tokens == tokens[:, :1].round()).all(dim=1) & (tokens[:, 0] >= 0) & (tokens[:, 0] < views * count)
        order = [int(number) for number in tokens[whole, 0]]
        require(len(set(order)) == len(order), f"{_of(size)}: {len(order) - len(set(order))} tokens stand twice")
        for view in range(views):
            own = [number % count for number in order if number // count == view]
            back = next((later for earlier, later in pairwise(own) if later < earlier), None)
            require(back is None, f"{_of(size)}: token {back} of view {view} stands behind a later one")
        slots = [piece for piece in layout.text(cut) if not isinstance(piece, str)]
        in_turn = slots != [count] * views or order == list(range(views * count))
        require(in_turn, f"{_of(size)}: `text` has a number for each of {views} views, and they stand in another order")


CHECKS: tuple[CheckFunction, ...] = (
    refuses_with_an_assembly_error,
    arranges_or_refuses,
    cuts_what_it_says,
    slots_are_its_tokens,
    declares_its_control_tokens,
    thumbnail_shows_everything,
    tiles_stand_row_by_row,
    tokens_keep_their_order,
)


def _large(harness: LayoutHarness, layout: ImageLayout) -> list[tuple[ImageSize, Arrangement]]:
    """Images in which a place can be told by its colour."""
    return [(size, cut) for size, cut in harness.arrangements(layout) if min(size) >= 40]


def _cut(harness: LayoutHarness, layout: ImageLayout, size: ImageSize) -> list[torch.Tensor]:
    return list(layout.cut(harness.image(size), harness.transform))


def _slots(layout: ImageLayout, cut: Arrangement) -> int:
    return sum(piece for piece in layout.text(cut) if not isinstance(piece, str))


def _is_number(piece: object) -> bool:
    return isinstance(piece, int) and not isinstance(piece, bool) and piece > 0


def _of(size: ImageSize) -> str:
    return f"an image of {size[0]}x{size[1]} pixels"


def _counted(shapes: Sequence[tuple[int, ...]]) -> str:
    kinds = [f"{shapes.count(shape)} of {'x'.join(map(str, shape))}" for shape in dict.fromkeys(shapes)]
    return f"{len(shapes)} views ({', '.join(kinds)})"
