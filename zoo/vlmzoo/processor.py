"""From messages and images to a batch that the model takes."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vlmzoo.data.collate import pad_images, pad_rows
from vlmzoo.data.encode import ImageToken, encode_prompt, refuse_special_tokens
from vlmzoo_registry import DataError, ImageTransform, Template, Turn
from vlmzoo_registry.images import to_rgb
from vlmzoo_registry.tasks import IMAGE

Message = Mapping[str, Any]


class VLMProcessor:
    """Turns conversations (or plain texts) with images into `input_ids`, `attention_mask`, `pixel_values`, `image_mask`."""

    def __init__(
        self,
        *,
        tokenizer: PreTrainedTokenizerBase,
        transform: ImageTransform,
        template: Template,
        image_token: ImageToken,
    ) -> None:
        self.tokenizer = tokenizer
        self.transform = transform
        self.template = template
        self.image_token = image_token

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

        Raises `DataError` naming the row where images and markers do not match or the text contains a control token.
        """
        if return_tensors != "pt":
            raise ValueError(f"`return_tensors` (={return_tensors!r}) must be 'pt'")
        if (messages is None) == (text is None):
            raise ValueError("give either `messages` or `text`")
        if messages is not None:
            one = bool(messages) and isinstance(messages[0], Mapping)
            conversations = cast(list[Sequence[Message]], [messages] if one else list(messages))
            rows = [[_turn(message) for message in conversation] for conversation in conversations]
            pictures = _per_row(images, len(rows))
        else:
            texts = [text] if isinstance(text, str) else list(text or ())
            pictures = _per_row(images, len(texts))
            rows = [
                [Turn("user", line if IMAGE in line else IMAGE * len(picture) + line)]
                for line, picture in zip(texts, pictures, strict=True)
            ]
        ids = []
        for number, (turns, picture) in enumerate(zip(rows, pictures, strict=True)):
            source = f"row {number}"
            markers = sum(turn.text.count(IMAGE) for turn in turns)
            if markers != len(picture):
                raise DataError(f"{source}: {markers} `{IMAGE}` in the text, but {len(picture)} images: give one for each")
            refuse_special_tokens(turns, self.tokenizer, self.image_token, source=source)
            ids.append(encode_prompt(self.template.render(turns, prompt=True), self.tokenizer, self.image_token, source=source))
        filler = self.tokenizer.pad_token_id
        batch = {
            "input_ids": pad_rows(ids, 0 if filler is None else filler, side=padding_side),
            "attention_mask": pad_rows([row.new_ones(len(row)) for row in ids], 0, side=padding_side),
        }
        pixels, mask = pad_images([[self.transform(to_rgb(image)) for image in picture] for picture in pictures])
        if pixels is not None and mask is not None:
            batch.update(pixel_values=pixels, image_mask=mask)
        return batch

    def decode(self, ids: Tensor, *, prompt_length: int = 0) -> list[str]:
        """The text of each row of generated ids, without control tokens, after the first `prompt_length` ids."""
        return [text.strip() for text in self.tokenizer.batch_decode(ids[:, prompt_length:], skip_special_tokens=True)]


def _turn(message: Message) -> Turn:
    unknown = set(message) - {"role", "content"}
    if unknown or "role" not in message or "content" not in message:
        raise DataError(f"a message has the keys `role` and `content`, not {sorted(message)}")
    if message["role"] not in ("system", "user", "assistant"):
        raise DataError(f"`role` (={message['role']!r}) must be system, user or assistant")
    content = message["content"]
    if isinstance(content, str):
        return Turn(message["role"], content)
    text = ""
    for piece in content:
        if piece.get("type") == "image":
            text += IMAGE
        elif piece.get("type") == "text":
            text += piece["text"]
        else:
            raise DataError(f"content of type {piece.get('type')!r} is not known: use `text` or `image`")
    return Turn(message["role"], text)


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
    return [list(row) for row in images]
