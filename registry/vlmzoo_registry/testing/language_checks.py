"""What holds for every language model: embeddings mean what ids mean, and caching, padding and resizing change nothing."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from vlmzoo_registry.component import Component
from vlmzoo_registry.testing.check import CheckFailure, CheckFunction, NotApplicable, require
from vlmzoo_registry.testing.harness import TOLERANCE, difference
from vlmzoo_registry.testing.language_harness import TEXT, LanguageHarness, depth_of, prefix_of, rows_of_head

ROWS = 2


def returns_what_it_declares(component: Component) -> None:
    """Embedding, hidden states and logits have the declared `width` and the head's rows; `text_config` has the true depth.

    Why: connectors are built for `width`, and generation lays out its cache by `text_config.num_hidden_layers`.

    If it fails: `width` is the size of a vector that can be inserted beside the embedding's; `decode` returns what the head
    takes, after the last norm and before the logits.
    """
    harness = LanguageHarness(component)
    model = harness.build()
    ids = harness.ids(model, ROWS)
    with torch.no_grad():
        embeddings = model.embedding(ids)
        hidden = model.decode(embeddings, **prefix_of(model, torch.ones_like(ids)))
        logits = model.head(hidden)
    wanted = (ROWS, TEXT, model.width)
    require(tuple(embeddings.shape) == wanted, f"`embedding` gives {tuple(embeddings.shape)}, declared {wanted}")
    require(tuple(hidden.shape) == wanted, f"`decode` gives {tuple(hidden.shape)}, declared {wanted}")
    require(tuple(logits.shape[:2]) == wanted[:2], f"`head` gives {tuple(logits.shape)} for hidden states {wanted}")
    require(bool(torch.isfinite(logits).all()), "the logits are not finite")
    depth, found = model.text_config.num_hidden_layers, depth_of(model)
    require(found in (None, depth), f"`text_config.num_hidden_layers` is {depth}, and `decoder_layers` finds {found} layers")


def ids_and_embeddings_agree(component: Component) -> None:
    """`head(decode(embedding(ids)))` gives the logits that the model gives for ids by its own way (`reference_logits`).

    Why: image tokens are inserted beside the embeddings; a scale, norm or soft cap that one way has and the other has not
    (Gemma, Granite, BLOOM) makes the assembled model another model.

    If it fails: put what the model does to embeddings into `embedding` or `decode`, and what it does to logits into `head`.
    """
    harness = LanguageHarness(component)
    model = harness.build_open()
    ids = harness.ids(model, ROWS)
    with torch.no_grad():
        wanted = model.reference_logits(ids)
        if wanted is None:
            raise NotApplicable("the model has no way of its own from ids to logits")
        found = harness.logits(model, ids)
    require(found.shape == wanted.shape, f"{tuple(found.shape)} logits through the embeddings, {tuple(wanted.shape)} from ids")
    distance = difference(found, wanted)
    require(distance <= TOLERANCE, f"logits through the embeddings differ from those of the ids by {distance:.2g}")


def is_causal(component: Component) -> None:
    """A token changes the logits at its place and after it, and none before.

    Why: training on all positions at once and generation from a cache both rest on it.

    If it fails: apply the causal mask in `decode` also where an `attention_mask` of padding is given.
    """
    harness = LanguageHarness(component)
    model = harness.build_open()
    ids = harness.ids(model, ROWS)
    other = ids.clone()
    place = TEXT // 2
    for row in range(ROWS):
        other[row, place] = next(token for token in harness.ids(model, 1, 100)[0] if token != ids[row, place])
    for mask in (None, torch.ones_like(ids)):
        with torch.no_grad():
            one, two = (harness.continued(model, row, mask=mask) for row in (ids, other))
        given = "without" if mask is None else "with"
        distance = difference(two[:, :place], one[:, :place])
        require(distance <= TOLERANCE, f"{given} `attention_mask`, token {place} moves the logits before it by {distance:.2g}")
        moved = difference(two[:, place:], one[:, place:])
        require(moved > TOLERANCE, f"{given} `attention_mask`, token {place} changes nothing from its place on")
        last = difference(two[:, -1:], one[:, -1:])
        require(last > 0, f"{given} `attention_mask`, the last token does not see token {place}")


def cache_changes_nothing(component: Component) -> None:
    """Read in pieces with a cache (a prompt, then token by token), a text has the logits that it has read at once, to 1e-5.

    Why: generation reads with a cache, training without; else the model that speaks is not the one that was trained.

    If it fails: update the cache that is passed in, count positions from its length (or take `position_ids`), and let the
    mask cover the cache and the text.
    """
    harness = LanguageHarness(component)
    model = harness.build_open()
    ids = harness.ids(model, ROWS)
    with torch.no_grad():
        whole = harness.logits(model, ids)
        for masked in (False, True):
            cache = DynamicCache(config=model.text_config)
            pieces, read = [], 0
            for piece in ids.split([TEXT - 4, 2, 1, 1], dim=1):
                read += piece.shape[1]
                mask = torch.ones(ROWS, read, dtype=torch.long) if masked else None
                positions = None if mask is None else _positions(mask)[:, -piece.shape[1] :]
                pieces.append(harness.continued(model, piece, mask=mask, positions=positions, cache=cache))
            kept = cache.get_seq_length()
            given = "with" if masked else "without"
            require(kept == TEXT, f"after {TEXT} tokens, {given} `attention_mask`, the cache holds {kept}")
            distance = difference(torch.cat(pieces, dim=1), whole)
            require(distance <= TOLERANCE, f"{given} `attention_mask`, the cache moves the logits by {distance:.2g}")


def padding_changes_nothing(component: Component) -> None:
    """A text padded on the left or on the right has, at its own tokens, the logits that it has alone, to 1e-5.

    Why: batches are padded on the left to generate and on the right to train.

    If it fails: hide padding in the attention by `attention_mask`, and let positions come from `position_ids` (or be counted
    from the mask), not from the place in the tensor.
    """
    harness = LanguageHarness(component)
    model = harness.build_open()
    short, length = harness.ids(model, 1, TEXT - 4), TEXT - 4
    long, filler = harness.ids(model, 1), harness.ids(model, 1, 4)
    with torch.no_grad():
        alone = harness.logits(model, short)
        for side in ("left", "right"):
            pieces = [filler, short] if side == "left" else [short, filler]
            ids = torch.cat([torch.cat(pieces, dim=1), long])
            mask = torch.ones_like(ids)
            start = TEXT - length if side == "left" else 0
            mask[0] = 0
            mask[0, start : start + length] = 1
            logits = harness.continued(model, ids, mask=mask, positions=_positions(mask))
            padded = logits[:1, start : start + length]
            require(bool(torch.isfinite(padded).all()), f"with padding on the {side} the logits are not finite")
            distance = difference(padded, alone)
            require(distance <= TOLERANCE, f"padding on the {side} moves the logits by {distance:.2g}")


def head_matches_the_embedding(component: Component) -> None:
    """Grown to its tokenizer, the model can embed every id that its head can give, and `text_config.vocab_size` counts them.

    Why: a generated id is embedded in the next step; one row too few is an index error, or on a GPU a crash far from its cause.

    If it fails: `resize` must grow embedding and head together and set `text_config.vocab_size`.
    """
    model = LanguageHarness(component).build()
    model.resize(len(model.tokenizer))
    rows = rows_of_head(model)
    require(rows >= len(model.tokenizer), f"the head gives {rows} logits, and the tokenizer has {len(model.tokenizer)} tokens")
    counted = model.text_config.vocab_size
    require(counted == rows, f"`text_config.vocab_size` is {counted}, and the head gives {rows} logits")
    try:
        with torch.no_grad():
            model.embedding(torch.arange(rows)[None])
    except IndexError as error:
        raise CheckFailure(f"the head gives {rows} logits, and not every one of these ids can be embedded: {error}") from error


def resize_keeps_old_rows(component: Component) -> None:
    """`resize` adds rows to embedding and head, keeps the old ones and what is tied, trains what trained, never shrinks.

    Why: the image placeholder gets a row of its own in a pretrained vocabulary, and nothing else may move.

    If it fails: copy the old rows before the new ones are filled, tie the head again where it was tied, and do nothing for
    fewer rows than there are.
    """
    harness = LanguageHarness(component)
    model = harness.build()
    model.resize(len(model.tokenizer))
    ids, rows = harness.ids(model, ROWS), rows_of_head(model)
    names = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    with torch.no_grad():
        every = model.embedding(torch.arange(rows)[None])
        hidden = model.decode(model.embedding(ids), **prefix_of(model, torch.ones_like(ids)))
        logits = model.head(hidden)
        model.resize(rows + 5)
        grown = rows_of_head(model)
        require(grown >= rows + 5, f"`resize({rows + 5})` leaves the head at {grown} rows")
        require(
            model.text_config.vocab_size == grown,
            f"after `resize({rows + 5})`, `text_config.vocab_size` is {model.text_config.vocab_size} and the head has {grown}",
        )
        now = model.embedding(torch.arange(grown)[None])
        require(bool(torch.isfinite(now).all()), "new embedding rows are not finite")
        changed = int((now[:, :rows] != every).any(dim=2).sum())
        require(changed == 0, f"{changed} of {rows} old embedding rows changed")
        distance = difference(model.head(hidden)[..., :rows], logits)
        require(distance <= TOLERANCE, f"the logits of old ids move by {distance:.2g}")
        after = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
        require(after == names, f"the parameters are no longer the same: {_changes(names, after)}")
        model.resize(rows)
        require(rows_of_head(model) == grown, f"`resize({rows})` shrinks the head from {grown} to {rows_of_head(model)} rows")


def decoder_layers_run_once_in_order(component: Component) -> None:
    """One forward calls each of `decoder_layers` once, in order, hidden states [B, S, d] first in and first out.

    Why: cross-attention blocks run from hooks on these layers; one that is bypassed never sees an image, one that runs twice
    sees it twice. (Where `layers_see_text` is False they may see fewer positions than S: an encoder read the others.)

    If it fails: list the layers that `decode` calls, not copies or wrappers of them, and call them as modules, not by
    `.forward`. A model without such a list raises `AssemblyError` when asked; the check then does not apply.
    """
    harness = LanguageHarness(component)
    model = harness.build()
    if depth_of(model) is None:
        raise NotApplicable("the model names no decoder layers, so cross-attention is not for it")
    layers = list(model.decoder_layers)
    calls: list[int] = []
    wrong: list[str] = []
    wanted = (ROWS, TEXT, model.width)
    free = not model.layers_see_text
    inputs = harness.inputs(model, ROWS)
    with torch.no_grad():
        harness.outputs(model, inputs)  # what a model finds out about itself, it finds out the first time

    def enters(number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append(number)
        hidden = args[0] if args else kwargs.get("hidden_states")
        if not isinstance(hidden, Tensor) or not _fits(hidden, wanted, free):
            wrong.append(f"into layer {number} goes {_shape(hidden)} first, not hidden states {wanted}")

    def leaves(number: int, output: object) -> None:
        hidden = output[0] if isinstance(output, tuple) and output else output
        if not isinstance(hidden, Tensor) or not _fits(hidden, wanted, free):
            wrong.append(f"out of layer {number} comes {_shape(hidden)} first, not hidden states {wanted}")

    for number, layer in enumerate(layers):
        _watch(layer, number, enters, leaves)
    with torch.no_grad():
        harness.outputs(model, inputs)
    require(calls == list(range(len(layers))), f"the layers 0 to {len(layers) - 1} were called in the order {calls}")
    require(not wrong, "the layers do not pass on hidden states", wrong)


def tokenizer_knows_places(component: Component) -> None:
    """The tokenizer gives the characters of every token, and has an end token.

    Why: labels come from character spans, never from counting; and generation stops at the end token.

    If it fails: bring a fast tokenizer (`PreTrainedTokenizerFast`), with `eos_token` set.
    """
    tokenizer = LanguageHarness(component).build().tokenizer
    require(tokenizer.is_fast, f"{type(tokenizer).__name__} is no fast tokenizer, so it knows no character offsets")
    require(tokenizer.eos_token_id is not None, "the tokenizer has no `eos_token`")
    text = "A small, red bird: é!"
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    covered = {place for start, end in offsets for place in range(start, end)}
    missing = [text[place] for place in range(len(text)) if place not in covered and not text[place].isspace()]
    require(not missing, f"no token says that it holds the characters {missing} of {text!r}")


CHECKS: tuple[CheckFunction, ...] = (
    returns_what_it_declares,
    ids_and_embeddings_agree,
    is_causal,
    cache_changes_nothing,
    padding_changes_nothing,
    head_matches_the_embedding,
    resize_keeps_old_rows,
    decoder_layers_run_once_in_order,
    tokenizer_knows_places,
)


def _positions(mask: Tensor) -> Tensor:
    """Counted from the mask, as the zoo does."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


def _fits(hidden: Tensor, wanted: tuple[int, int, int], free: bool) -> bool:
    """Whether hidden states have this shape; `free`: any number of positions up to that."""
    found = tuple(hidden.shape)
    return found == wanted or (free and len(found) == 3 and found[::2] == wanted[::2] and 0 < found[1] <= wanted[1])


def _shape(value: object) -> str:
    return f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _changes(before: dict[str, bool], after: dict[str, bool]) -> list[str]:
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def _watch(layer: nn.Module, number: int, enters: Any, leaves: Any) -> None:
    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        enters(number, args, kwargs)

    def after(module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        leaves(number, output)

    layer.register_forward_pre_hook(before, with_kwargs=True)
    layer.register_forward_hook(after)
