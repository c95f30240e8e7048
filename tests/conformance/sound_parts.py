"""One part of each kind to which every check of its kind applies and that passes them all: the broken ones derive from it."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from PIL import Image
from torch import nn

from vlmzoo_connectors.cross_attention import CrossAttention
from vlmzoo_layouts.anyres import Anyres
from vlmzoo_registry import (
    DataError,
    Dataset,
    InstructedConnector,
    Metric,
    Objective,
    Rendered,
    Rule,
    Ruled,
    Sample,
    Span,
    Template,
    Turn,
    check_tokens,
)
from vlmzoo_registry.byte_tokenizer import byte_tokenizer
from vlmzoo_registry.component import Component
from vlmzoo_registry.spec import ComponentSpec
from vlmzoo_registry.tasks import IMAGE, marker_positions
from vlmzoo_toy.connector import ToyConnector
from vlmzoo_toy.language import ToyLanguage
from vlmzoo_toy.vision import ToyVision

KINDS = {
    "vision_encoder": ("vision_encoder", "part_options:VisionOptions", {}, frozenset()),
    "connector": ("connector", "part_options:NoOptions", {}, frozenset()),
    "connector with text": ("connector", "part_options:NoOptions", {}, frozenset({"text"})),
    "connector with layers": (
        "connector",
        "vlmzoo_connectors.config:CrossAttentionConfig",
        {"every": 1, "heads": 2, "head_width": 4},
        frozenset({"layers"}),
    ),
    "language_model": ("language_model", "part_options:LanguageOptions", {"width": 16, "heads": 2}, frozenset()),
    "layout": ("layout", "vlmzoo_layouts.config:AnyresConfig", {}, frozenset()),
    "template": ("template", "part_options:NoOptions", {}, frozenset()),
    "objective": ("objective", "part_options:NoOptions", {}, frozenset()),
    "dataset": ("dataset", "part_options:NoOptions", {}, frozenset()),
    "metric": ("metric", "part_options:NoOptions", {}, frozenset()),
    "rule": ("rule", "part_options:NoOptions", {}, frozenset()),
}
"""For each battery of checks: the kind, the options' class, the tiny options and the capabilities of its sound part."""


def described(battery: str, factory: str, **changes: object) -> Component:
    """A component of this battery, made by `"module:attribute"`, with the description of the sound one but for `changes`."""
    kind, config, tiny, capabilities = KINDS[battery]
    fields = {"kind": kind, "config": config, "tiny": tiny, "capabilities": capabilities, "name": "part", "summary": "A part."}
    return Component("dummy", ComponentSpec(**(fields | {"factory": factory} | changes)), "tests", "0")


class SoundVision(ToyVision):
    """The toy encoder with a pooler that nothing uses, and says so."""

    def __init__(self, config):
        super().__init__(config)
        self.pooler = nn.Linear(config.width, config.width)

    @property
    def unused_parameters(self):
        return frozenset({"pooler.weight", "pooler.bias"})


class SoundConnector(ToyConnector):
    """The toy connector."""


class SoundLayers(CrossAttention):
    """Flamingo's blocks."""


class SoundLanguage(ToyLanguage):
    """The toy language model, with a way of its own from ids to logits."""

    def reference_logits(self, ids):
        hidden, places = self.tokens(ids), torch.arange(ids.shape[1])
        visible = (places <= places[:, None]).expand(len(ids), 1, -1, -1)
        for layer in self.layers:
            hidden = layer(hidden, places.expand_as(ids), visible, None)
        return self.logits(self.norm(hidden))


class SoundReader(SoundLanguage):
    """The toy language model, told all that an objective may tell a model."""

    def __init__(self, config):
        super().__init__(config)
        self.segments, self.spans = nn.Embedding(2, config.width), nn.Embedding(8, config.width)
        self.sentences = nn.Linear(config.width, 2)

    prefix = "optional"
    reads = frozenset({"full_prefix", "segment_ids", "span_positions", "sentence_labels", "row_lengths"})

    @property
    def sentence_head(self):
        return self.sentences

    @property
    def embedding(self):
        return self.tokens

    def told(self, embeddings, segment_ids, span_positions):
        nothing = torch.zeros(embeddings.shape[:2], dtype=torch.long)
        segments = self.segments(nothing if segment_ids is None else segment_ids)
        return embeddings + segments + self.spans(nothing if span_positions is None else span_positions)

    def opened(self, prefix_mask):
        """Which positions see each other because they are of the prefix, [B, S, S]."""
        return prefix_mask[:, :, None] & prefix_mask[:, None]

    def apart(self, row_lengths):
        """Which positions are of one row, [S, S]."""
        rows = torch.arange(len(row_lengths)).repeat_interleave(row_lengths)
        return rows == rows[:, None]

    def decode(
        self,
        embeddings,
        *,
        attention_mask=None,
        position_ids=None,
        cache=None,
        prefix_mask=None,
        segment_ids=None,
        span_positions=None,
        row_lengths=None,
    ):
        check_tokens("dummy/part", "embeddings", embeddings, self.width)
        past = 0 if cache is None else cache.get_seq_length()
        total = past + embeddings.shape[1]
        mask = torch.ones(len(embeddings), total, dtype=torch.long) if attention_mask is None else attention_mask
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, past:] if position_ids is None else position_ids
        places = torch.arange(total)
        visible = (places <= places[past:, None]).expand(len(embeddings), -1, -1)
        if prefix_mask is not None:
            visible = visible | self.opened(prefix_mask)
        if row_lengths is not None:
            visible = visible & self.apart(row_lengths)
        visible = (visible & mask.bool()[:, None]) | (places == places[past:, None])
        hidden = self.told(embeddings, segment_ids, span_positions)
        for layer in self.layers:
            hidden = layer(hidden, positions, visible[:, None], cache)
        return self.norm(hidden)

    def reference_logits(self, ids):
        hidden, places = self.told(self.tokens(ids), None, None), torch.arange(ids.shape[1])
        visible = (places <= places[:, None]).expand(len(ids), 1, -1, -1)
        for layer in self.layers:
            hidden = layer(hidden, places.expand_as(ids), visible, None)
        return self.logits(self.norm(hidden))


class SoundInstructed(InstructedConnector):
    """The mean of the words beside each image token, mapped by one matrix."""

    def __init__(self, config, context):
        super().__init__()
        self.width, self._output_width = context.input.width, context.target_width
        self.words = nn.Embedding(len(self.tokenizer), self.width)
        self.map = nn.Linear(2 * self.width, self._output_width)

    @property
    def output_width(self):
        return self._output_width

    @property
    def tokenizer(self):
        return byte_tokenizer()

    def output_grid(self, grid):
        return grid

    def token_count(self, grid, count):
        return count

    def asked(self, ids, mask):
        """The mean of the words of each row, [B, D]; 0 for a row without words."""
        real = mask[:, :, None].float()
        return (self.words(ids) * real).sum(1) / real.sum(1).clamp(min=1)

    def forward(self, features, instruction_ids, instruction_mask):
        check_tokens("dummy/part", "tokens", features.tokens, self.width)
        asked = self.asked(instruction_ids, instruction_mask)[:, None].expand(-1, features.tokens.shape[1], -1)
        return replace(features, tokens=self.map(torch.cat([features.tokens, asked], 2)))


class SoundLayout(Anyres):
    """LLaVA-NeXT's tiles."""


class SoundTemplate(Template):
    """`role: text` on lines, with `<end>` behind what the assistant says."""

    control_tokens = ("<end>",)
    stop = "<end>"

    def __init__(self, config):
        pass

    def render(self, turns: Sequence[Turn], *, prompt: bool) -> Rendered:
        text, spans = "", []
        for number, turn in enumerate(turns):
            text += f"{turn.role}:"
            start = len(text)
            text += f" {turn.text}"
            if turn.role == "assistant":
                text += "<end>"
                spans.append(Span(start, len(text)))
            text += "\n" if number + 1 < len(turns) or prompt else ""
        text += "assistant:" if prompt else ""
        return Rendered(text, marker_positions(text), () if prompt else tuple(spans), end=False)


class SoundObjective(Objective):
    """What the template says."""

    def __init__(self, config):
        pass

    def render(self, sample: Sample, template: Template) -> Rendered:
        rendered = template.render(sample.turns, prompt=False)
        if not rendered.spans:
            raise DataError(f"{sample.source}: nothing is supervised")
        return rendered


class SoundDataset(Dataset):
    """Two rows."""

    def __init__(self, config):
        pass

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return Sample(f"row {index}", self.turns(index), self.images(index), f"memory:{index}")

    def turns(self, index):
        return (Turn("user", IMAGE * index + "What?"), Turn("assistant", f"Number {index}."))

    def images(self, index):
        return tuple(lambda: Image.new("RGB", (4, 3), "red") for _ in range(index))


class SoundMetric(Metric):
    """Whether both texts are equal."""

    def __init__(self, config):
        pass

    def score(self, truth: str, said: str) -> float:
        return float(truth == said)


class SoundRule(Rule):
    """Leaves every row as it is."""

    def __init__(self, config):
        pass

    def apply(self, rows):
        return Ruled(Changed(rows, self.change), f"{len(rows)} rows stay")

    def change(self, sample):
        return sample


class Changed(Dataset):
    """Rows with a change each."""

    def __init__(self, rows, change):
        self.rows, self.change = rows, change

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.change(self.rows[index])


SOUND = {
    battery: described(battery, f"sound_parts:{factory.__name__}")
    for battery, factory in {
        "vision_encoder": SoundVision,
        "connector": SoundConnector,
        "connector with text": SoundInstructed,
        "connector with layers": SoundLayers,
        "language_model": SoundReader,
        "layout": SoundLayout,
        "template": SoundTemplate,
        "objective": SoundObjective,
        "dataset": SoundDataset,
        "metric": SoundMetric,
        "rule": SoundRule,
    }.items()
}
