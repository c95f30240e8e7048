"""One part of each kind to which every check of its kind applies and that passes them all: the broken ones derive from it."""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import nn

from vlmzoo_connectors.cross_attention import CrossAttention
from vlmzoo_layouts.anyres import Anyres
from vlmzoo_registry import DataError, Dataset, Metric, Objective, Rendered, Rule, Ruled, Sample, Span, Template, Turn
from vlmzoo_registry.component import Component
from vlmzoo_registry.spec import ComponentSpec
from vlmzoo_registry.tasks import IMAGE, marker_positions
from vlmzoo_toy.connector import ToyConnector
from vlmzoo_toy.language import ToyLanguage
from vlmzoo_toy.vision import ToyVision

KINDS = {
    "vision_encoder": ("vision_encoder", "part_options:VisionOptions", {}, frozenset()),
    "connector": ("connector", "part_options:NoOptions", {}, frozenset()),
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
        "connector with layers": SoundLayers,
        "language_model": SoundLanguage,
        "layout": SoundLayout,
        "template": SoundTemplate,
        "objective": SoundObjective,
        "dataset": SoundDataset,
        "metric": SoundMetric,
        "rule": SoundRule,
    }.items()
}
