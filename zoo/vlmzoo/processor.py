"""From messages and images to a batch that the model takes."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, cast

from PIL import Image, ImageOps
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vlmzoo.data.encode import ImageToken, encode_prompt, refuse_special_tokens
from vlmzoo.data.instruction import Instructions
from vlmzoo.data.padding import pad_rows
from vlmzoo.data.reader import ImageReader
from vlmzoo_registry import DataError, Template, Turn
from vlmzoo_registry.images import to_rgb
from vlmzoo_registry.tasks import IMAGE, Rendered

Message = Mapping[str, Any]


class VLMProcessor:
    """Turns conversations (or plain texts) with images into what `forward` and `generate` take.

    That is `input_ids`, `attention_mask`, `pixel_values`, `image_mask`; `image_layout` where images are cut by their size;
    `instruction_ids`, `instruction_mask` for a connector that reads the instruction, made by `instructions`.
    """

    def __init__(
        self,
        *,
        tokenizer: PreTrainedTokenizerBase,
        images: ImageReader,
        template: Template,
        image_token: ImageToken,
        instructions: Instructions | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.images = images
        self.template = template
        self.image_token = image_token
        self.instructions = instructions

    def __call__(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]] | None = None,
        *,
        text: str | Sequence[str] | None = None,
        images: Image.Image | Sequence[Image.Image] | Sequence[Sequence[Image.Image]] | None = None,
        return_tensors: Literal["pt"] = "pt",
        padding_side: Literal["left", "right"] = "left",
    ) -> dict[str, Tensor]:
        """A batch to generate from: the text ends where the assistant begins to speak, padded on the left.

        Args:
            messages: one conversation or several; a message is `{"role": ..., "content": ...}`, its content a string in
                which `<image>` marks the images, or transformers' list of `{"type": "image"}` and `{"type": "text"}`.
            text: instead of messages, what the user says; images without a marker in it stand before it.
            images: those of one row, or a list for each row, in the order of their markers.
            return_tensors: "pt", the only form.
            padding_side: where shorter rows are filled.

        Raises `DataError` naming the row where images and markers do not match, the text contains a control token, a message
        is not understood, or an image cannot be read; `ValueError` for arguments of another form.
        """
        if return_tensors != "pt":
            raise ValueError(f"`return_tensors` (={return_tensors!r}) must be 'pt'")
        if padding_side not in ("left", "right"):
            raise ValueError(f"`padding_side` (={padding_side!r}) must be 'left' or 'right'")
        if (messages is None) == (text is None):
            raise ValueError("give either `messages` or `text`")
        if messages is not None:
            one = bool(messages) and isinstance(messages[0], Mapping)
            conversations = cast(list[Sequence[Message]], [messages] if one else list(messages))
            rows = [
                [_turn(message, f"row {number}") for message in conversation]
                for number, conversation in enumerate(conversations)
            ]
            pictures = _per_row(images, len(rows))
        else:
            texts = [text] if isinstance(text, str) else list(text or ())
            pictures = _per_row(images, len(texts))
            rows = [
                [Turn("user", line if IMAGE in line else IMAGE * len(picture) + line)]
                for line, picture in zip(texts, pictures, strict=True)
            ]
        if not rows:
            raise DataError("there is no row: give at least one conversation or text")
        sources = [f"row {number}" for number in range(len(rows))]
        pictures = [
            [_readable(image, f"{source}, image {place}") for place, image in enumerate(row)]
            for row, source in zip(pictures, sources, strict=True)
        ]
        ids = []
        for turns, picture, source in zip(rows, pictures, sources, strict=True):
            markers = sum(turn.text.count(IMAGE) for turn in turns)
            if markers != len(picture):
                raise DataError(f"{source}: {markers} `{IMAGE}` in the text, but {len(picture)} images: give one for each")
            refuse_special_tokens(turns, self.tokenizer, self.image_token, source=source)
            ids.append(self._ids(turns, picture, source))
        filler = self.tokenizer.pad_token_id
        batch = {
            "input_ids": pad_rows(ids, 0 if filler is None else filler, side=padding_side),
            "attention_mask": pad_rows([row.new_ones(len(row)) for row in ids], 0, side=padding_side),
            **self.images.batch(pictures, sources),
        }
        return batch if self.instructions is None else batch | self.instructions.batch(rows, sources)

    def _ids(self, turns: Sequence[Turn], pictures: Sequence[Image.Image], source: str) -> Tensor:
        arrangements = [
            self.images.arrangement(partial(_itself, image), f"{source}, image {place}") for place, image in enumerate(pictures)
        ]
        shown = [self.images.text(arrangement) for arrangement in arrangements]
        return encode_prompt(self._rendered(turns, source), self.tokenizer, self.image_token, source=source, images=shown)

    def _rendered(self, turns: Sequence[Turn], source: str) -> Rendered:
        try:
            return self.template.render(turns, prompt=True)
        except DataError as error:
            raise DataError(f"{source}: {error.message}", error.reasons) from error

    def decode(self, ids: Tensor, *, prompt_length: int = 0) -> list[str]:
        """The text of each row of generated ids, without control tokens, after the first `prompt_length` ids.

        It ends before the words that end an answer, where the style ends with words.
        """
        texts = self.tokenizer.batch_decode(ids[:, prompt_length:], skip_special_tokens=True)
        words = self.template.stop_words
        return [(text if words is None else text.split(words)[0]).strip() for text in texts]


def _itself(image: Image.Image) -> Image.Image:
    return image


def _readable(image: Image.Image, source: str) -> Image.Image:
    try:
        return to_rgb(ImageOps.exif_transpose(image))  # upright, as images of training are
    except Exception as error:  # cut off, of a mode without a known scale; decoders raise whatever they like
        raise DataError(f"{source} cannot be read: {error}") from error


def _turn(message: Any, source: str) -> Turn:
    if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
        found = sorted(map(str, message)) if isinstance(message, Mapping) else f"a {type(message).__name__}"
        raise DataError(f"{source}: a message has the keys `role` and `content`, not {found}")
    role, content = message["role"], message["content"]
    if role not in ("system", "user", "assistant"):
        raise DataError(f"{source}: `role` (={role!r}) must be system, user or assistant")
    if isinstance(content, str):
        return Turn(role, content)
    if not isinstance(content, Sequence):
        raise DataError(f"{source}: `content` must be a text or a list of pieces, not a {type(content).__name__}")
    return Turn(role, "".join(_piece(piece, source) for piece in content))


def _piece(piece: Any, source: str) -> str:
    """One piece of transformers' lists: an image's marker, or a text."""
    if isinstance(piece, Mapping):
        if piece.get("type") == "image" and set(piece) == {"type"}:
            return IMAGE
        if piece.get("type") == "text" and isinstance(piece.get("text"), str) and set(piece) == {"type", "text"}:
            return str(piece["text"])
    raise DataError(
        f"{source}: a piece of content is {{'type': 'text', 'text': ...}} or {{'type': 'image'}}, with the image itself in "
        f"`images=` (is {piece!r:.80})"
    )


def _per_row(images: Any, rows: int) -> list[list[Image.Image]]:
    """The images of each row."""
    if images is None:
        return [[] for _ in range(rows)]
    if isinstance(images, Image.Image):
        images = [images]
    if all(isinstance(image, Image.Image) for image in images):
        images = [list(images)] if rows == 1 else [[image] for image in images]
    if len(images) != rows:
        raise DataError(f"{len(images)} lists of images for {rows} rows: give one for each row, empty where it has none")
    for number, row in enumerate(images):
        for image in row if isinstance(row, list | tuple) else [row]:
            if not isinstance(image, Image.Image):
                raise DataError(
                    f"row {number}: an image must be a `PIL.Image.Image` (is a {type(image).__name__}): open it with Pillow"
                )
    return [list(row) for row in images]
