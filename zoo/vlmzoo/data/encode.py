"""From a rendered text to ids and labels: tokenised once, labels from character spans, images in their places.

The field's most reported bug is a label mask that was counted instead of known; here every row proves its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vlmzoo_registry.errors import AssemblyError, DataError, PluginError
from vlmzoo_registry.layout import ImageText
from vlmzoo_registry.tasks import IMAGE, Rendered, Span, Turn, marker_positions
from vlmzoo_registry.token_row import IGNORE, TokenRow

IN_IMAGE, IN_NONE = -2, -1
"""What `spans_of_tokens` says of a token that lies in no span: it stands for an image, or is text like any other."""


@dataclass(frozen=True)
class ImageToken:
    """The tokenizer's own placeholder for an image.

    `slots` is how many ids stand for one image of the encoder's own size in the text: the number of image tokens where these
    are placed in the sequence (unified), 1 where the text only marks the place (cross-attention). What stands for an image
    that a layout cuts is said image by image.
    """

    text: str
    id: int
    slots: int


@dataclass(frozen=True)
class Encoded:
    """The tokens of a row, of which the first `least` may never be cut off.

    These are all up to its last image, with what a layout writes around it, and up to the first token of its last answer that
    says something.
    """

    row: TokenRow
    least: int


@dataclass(frozen=True)
class _Tokens:
    ids: list[int]
    offsets: list[tuple[int, int]]


def refuse_special_tokens(
    turns: Sequence[Turn], tokenizer: PreTrainedTokenizerBase, image_token: ImageToken, *, source: str
) -> None:
    """Raise `DataError` where the text of a turn contains a special token: data must not forge turns, ends or images."""
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    special |= {*tokenizer.all_special_tokens, image_token.text}
    reasons = [
        f"{source}: turn {number} ({turn.role}) contains `{token}`: take it out, or drop the row"
        for number, turn in enumerate(turns)
        for token in sorted(special - {IMAGE})
        if token in turn.text
    ]
    if reasons:
        raise DataError(f"{source}: text of the data is a special token of the tokenizer:", reasons)


def encode(
    rendered: Rendered,
    tokenizer: PreTrainedTokenizerBase,
    image_token: ImageToken,
    *,
    source: str,
    images: Sequence[ImageText] | None = None,
) -> TokenRow:
    """The ids of a text and which of them are supervised.

    `images` says what stands for each image; default: the slots of `image_token` for every one.
    The text is tokenised once. What is supervised begins at the first id behind those of the text before a span: that these
    stay the same when the answer follows is checked for every row, so training sees exactly what generation starts from.
    Ids of images with what a layout writes around them, and the very first id, which nothing predicts, are never supervised.
    The tokenizer's own leading tokens (BOS) come once; of its trailing ones none, as `rendered.end` decides about the end.

    Raises `DataError` naming `source` where a marker is out of place, where the ids before a span change with what follows,
    and where nothing is supervised.
    """
    return encode_with_least(rendered, tokenizer, image_token, source=source, images=images).row


def encode_with_least(
    rendered: Rendered,
    tokenizer: PreTrainedTokenizerBase,
    image_token: ImageToken,
    *,
    source: str,
    images: Sequence[ImageText] | None = None,
    answers: Sequence[Span] | None = None,
) -> Encoded:
    """As `encode`, with how much of the row must stay where it is cut.

    `answers` are the spans of what the assistant says; default: what is supervised, which may be the questions too.
    """
    shown = _shown(rendered, image_token, images)
    text, spans, pictures = _with_own_token(rendered, image_token, shown, source)
    tokens, *before = _tokenise([text, *(text[:start] for start, _, _ in spans)], tokenizer)
    of_images = _of_images(tokens, pictures)
    labels = [IGNORE] * len(tokens.ids)
    weights = [1.0] * len(tokens.ids)
    for (start, end, weight), prompt in zip(spans, before, strict=True):
        first = len(prompt.ids)
        if tokens.ids[:first] != prompt.ids:
            raise DataError(_border_message(text, start, tokens.ids, prompt.ids, tokenizer, source))
        for position in range(max(first, 1), len(tokens.ids)):
            token_start, token_end = tokens.offsets[position]
            # Byte-level tokenizers trim the spaces of a token off its offsets: a lone space may end where the span ends.
            if token_start >= end and not token_start == token_end == end:
                break
            if of_images[position]:
                continue
            labels[position], weights[position] = tokens.ids[position], weight
    images_end = max((place + 1 for place, found in enumerate(of_images) if found), default=0)
    said = rendered.spans if answers is None else answers
    answer = _first_word_end(replace(rendered, spans=tuple(said[-1:])), tokens, of_images, image_token, shown, source)
    slots_more = sum(piece - 1 for image in shown for piece in image if isinstance(piece, int))
    ids, labels, weights = _expand(tokens.ids, labels, weights, shown, image_token, source)
    if rendered.end:
        if tokenizer.eos_token_id is None:
            raise AssemblyError("the tokenizer has no end token (`eos_token`), so no model could learn to stop: name one")
        ids, labels, weights = [*ids, tokenizer.eos_token_id], [*labels, tokenizer.eos_token_id], [*weights, 1.0]
    if all(label == IGNORE for label in labels):
        raise DataError(
            f"{source}: none of its {len(ids)} tokens is supervised: the answer is empty, or the objective skips it"
        )
    row = TokenRow(
        input_ids=torch.tensor(ids),
        labels=torch.tensor(labels),
        weights=None if all(weight == 1.0 for weight in weights) else torch.tensor(weights),
    )
    return Encoded(row, least=max(answer, images_end) + slots_more)


def _first_word_end(
    rendered: Rendered,
    tokens: _Tokens,
    of_images: Sequence[bool],
    image_token: ImageToken,
    shown: Sequence[ImageText],
    source: str,
) -> int:
    """How many tokens there are up to the first one of the span that says something; where none does, up to its last."""
    text, spans, _ = _with_own_token(rendered, image_token, shown, source)
    end_of_word = 0
    for start, end, _ in spans:
        for position in range(1, len(tokens.ids)):  # nothing predicts the very first
            token_start, token_end = tokens.offsets[position]
            if token_start >= end and not token_start == token_end == end:
                break
            if token_end <= start or of_images[position]:
                continue
            end_of_word = position + 1
            if text[max(token_start, start) : token_end].strip():
                break
    return end_of_word


def encode_prompt(
    rendered: Rendered,
    tokenizer: PreTrainedTokenizerBase,
    image_token: ImageToken,
    *,
    source: str,
    images: Sequence[ImageText] | None = None,
) -> Int[Tensor, " S"]:
    """The ids from which generation starts; those of the same text in training up to its answer. `images` as for `encode`.

    Raises `DataError` naming `source` where a marker is out of place, or where there is nothing to start from.
    """
    shown = _shown(rendered, image_token, images)
    text, _, _ = _with_own_token(rendered, image_token, shown, source)
    (tokens,) = _tokenise([text], tokenizer)
    ids, _, _ = _expand(tokens.ids, tokens.ids, tokens.ids, shown, image_token, source)
    if not ids:
        raise DataError(f"{source}: the prompt has no token to start from: give it an image or some words")
    return torch.tensor(ids)


def spans_of_tokens(
    rendered: Rendered,
    tokenizer: PreTrainedTokenizerBase,
    image_token: ImageToken,
    *,
    source: str,
    images: Sequence[ImageText] | None = None,
) -> list[int]:
    """For each id that `encode` gives for this text, without its end token, the first span that it shares a character with.

    `IN_IMAGE` for what stands for an image, `IN_NONE` for an id in no span. For people who want to see who says what: what is
    learnt never hangs on it. Errors and `images` as for `encode`.
    """
    shown = _shown(rendered, image_token, images)
    text, spans, pictures = _with_own_token(rendered, image_token, shown, source)
    (tokens,) = _tokenise([text], tokenizer)
    numbers = []
    for (start, end), pictured in zip(tokens.offsets, _of_images(tokens, pictures), strict=True):
        shared = (number for number, (first, last, _) in enumerate(spans) if first < end and start < last)
        numbers.append(IN_IMAGE if pictured else next(shared, IN_NONE))
    ids, numbers, _ = _expand(tokens.ids, numbers, [1.0] * len(numbers), shown, image_token, source)
    return [IN_IMAGE if token == image_token.id else number for token, number in zip(ids, numbers, strict=True)]


def _shown(rendered: Rendered, image_token: ImageToken, images: Sequence[ImageText] | None) -> Sequence[ImageText]:
    """What stands for each image of the text."""
    return [(image_token.slots,)] * len(rendered.images) if images is None else images


def _with_own_token(
    rendered: Rendered, image_token: ImageToken, shown: Sequence[ImageText], source: str
) -> tuple[str, list[tuple[int, int, float]], list[range]]:
    """The text with what stands for each `<image>`, a run of slots as one placeholder; where its spans and images lie then."""
    if rendered.images != marker_positions(rendered.text):
        raise PluginError(
            f"{source}: the template says images stand at {rendered.images}, but its text has `{IMAGE}` at "
            f"{marker_positions(rendered.text)}"
        )
    if len(shown) != len(rendered.images):
        raise PluginError(f"{source}: {len(rendered.images)} `{IMAGE}` in the text, but {len(shown)} images are described")
    written = ["".join(piece if isinstance(piece, str) else image_token.text for piece in image) for image in shown]
    longer = [len(text) - len(IMAGE) for text in written]

    places = dict(zip(rendered.images, longer, strict=True))
    spans = [(_moved(span.start, places), _moved(span.end, places), span.weight) for span in rendered.spans]
    borders = [border for span in rendered.spans for border in (span.start, span.end)]
    ordered = all(a <= b for a, b in pairwise(borders)) and all(span.start < span.end for span in rendered.spans)
    if not ordered or (borders and not 0 <= borders[0] <= borders[-1] <= len(rendered.text)):
        raise PluginError(
            f"{source}: the spans {[(s.start, s.end) for s in rendered.spans]} must be ascending, apart, not empty, and within "
            f"the {len(rendered.text)} characters of the text"
        )
    between = rendered.text.split(IMAGE)
    text = between[0] + "".join(image + text for image, text in zip(written, between[1:], strict=True))
    starts = [_moved(position, places) for position in rendered.images]
    return text, spans, [range(start, start + len(image)) for start, image in zip(starts, written, strict=True)]


def _moved(character: int, longer: Mapping[int, int]) -> int:
    """Where a character stands once what stands at the places before it has become longer by so much."""
    return character + sum(more for place, more in longer.items() if place < character)


def _of_images(tokens: _Tokens, pictures: Sequence[range]) -> list[bool]:
    """Which tokens are of what is written for an image.

    Byte-level tokenizers trim the spaces of a token off its offsets: a lone space has none, and lies before where they are.
    """
    if not pictures:
        return [False] * len(tokens.ids)
    firsts = (start if start < end else start - 1 for start, end in tokens.offsets)
    return [any(first in picture for picture in pictures) for first in firsts]


def _tokenise(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[_Tokens]:
    """Ids and character offsets, with the tokenizer's leading special tokens and without its trailing ones."""
    if not tokenizer.is_fast:
        raise AssemblyError(f"the tokenizer {type(tokenizer).__name__} gives no character offsets: use its fast version")
    # A template that writes BOS itself gets no second one.
    written = tokenizer.bos_token is not None and texts[0].startswith(tokenizer.bos_token)
    batch = tokenizer(
        texts,
        add_special_tokens=not written,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        return_attention_mask=False,
        truncation=False,
        padding=False,
        verbose=False,
    )
    rows = []
    for text, ids, offsets, added in zip(
        texts, batch["input_ids"], batch["offset_mapping"], batch["special_tokens_mask"], strict=True
    ):
        end = len(ids)
        # Without text there is nothing between the leading and the trailing ones: keep BOS alone.
        first = 0 if text else (1 if ids and ids[0] == tokenizer.bos_token_id else 0)
        while end > first and added[end - 1]:
            end -= 1
        rows.append(_Tokens(ids[:end], offsets[:end]))
    return rows


def _expand(
    ids: list[int],
    labels: list[int],
    weights: Sequence[float],
    shown: Sequence[ImageText],
    image_token: ImageToken,
    source: str,
) -> tuple[list[int], list[int], list[float]]:
    """Each run of slots in full, never supervised."""
    runs = [piece for image in shown for piece in image if isinstance(piece, int)]
    found = ids.count(image_token.id)
    if found != len(runs):
        raise DataError(
            f"{source}: {len(runs)} image markers in the text, but the tokenizer gives its image token `{image_token.text}` "
            f"(id {image_token.id}) {found} times: the text forges the token, or it is not in the tokenizer"
        )
    slots = iter(runs)
    out_ids: list[int] = []
    out_labels: list[int] = []
    out_weights: list[float] = []
    for token, label, weight in zip(ids, labels, weights, strict=True):
        image = token == image_token.id
        times = next(slots) if image else 1
        out_ids += [token] * times
        out_labels += [IGNORE if image else label] * times
        out_weights += [1.0 if image else weight] * times
    return out_ids, out_labels, out_weights


def _border_message(
    text: str, start: int, ids: list[int], prompt: list[int], tokenizer: PreTrainedTokenizerBase, source: str
) -> str:
    differs = next((i for i, (a, b) in enumerate(zip(ids, prompt, strict=False)) if a != b), len(ids))
    alone = tokenizer.convert_ids_to_tokens(prompt[differs:])
    followed = tokenizer.convert_ids_to_tokens(ids[differs : len(prompt) + 1])
    return (
        f"{source}: what comes before the answer at character {start} (`{text[max(0, start - 20) : start]}`) has other ids "
        f"when `{text[start : start + 20]}` follows: from token {differs}, {alone} alone, {followed} with the answer. "
        "Generation would start from what training never saw: let the template end its prompts where a token ends (a line "
        "break, a special token, no space)"
    )
