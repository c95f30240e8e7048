"""Parts with one fault each, and the check that must find it: a check that finds nothing here would find nothing anywhere."""

import math
import random
import re
import socket
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from PIL import Image
from sound_parts import (
    SoundConnector,
    SoundDataset,
    SoundInstructed,
    SoundLanguage,
    SoundLayers,
    SoundLayout,
    SoundMetric,
    SoundObjective,
    SoundReader,
    SoundRule,
    SoundTemplate,
    SoundVision,
    described,
)
from torch import nn
from torch.nn import functional

from vlmzoo_connectors.flamingo_block import FlamingoBlock
from vlmzoo_layouts.dynamic_tiles import DynamicTiles
from vlmzoo_layouts.tagged_tiles import TaggedTiles
from vlmzoo_registry import (
    Arrangement,
    AssemblyError,
    Component,
    DataError,
    Rendered,
    Ruled,
    Span,
    VisionFeatures,
    check_pixels,
    check_tokens,
)
from vlmzoo_registry.tasks import IMAGE, Turn


@dataclass(frozen=True)
class Fault:
    """A component with a fault: the check that finds it, words of its reason, and checks that fail for the same cause."""

    battery: str
    check: str
    component: Component
    says: str
    also: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"{self.battery}-{self.check}-{self.component.spec.factory.partition(':')[2]}"


FAULTS: list[Fault] = []
EVERYTHING = frozenset({"*"})
"""For `also`: without an instance no other check can pass."""


def fault(battery: str, check: str, says: str, also: tuple[str, ...] | frozenset[str] = (), **changes: object):
    """Note the decorated class or function as a part with this fault."""

    def note(factory):
        component = described(battery, f"broken_parts:{factory.__name__}", **changes)
        FAULTS.append(Fault(battery, check, component, says, frozenset(also)))
        return factory

    return note


def fault_of_description(battery: str, check: str, says: str, also: tuple[str, ...] = (), **changes: object) -> None:
    """Note a fault that lies in the description of a sound part alone."""
    sound = described(battery, "sound_parts:SoundTemplate", **changes)
    FAULTS.append(Fault(battery, check, sound, says, frozenset(also)))


# Descriptions and options

fault_of_description(
    "template", "imports_no_framework", "module `heavy_options`: `torch` (", config="heavy_options:HeavyOptions"
)
fault_of_description(
    "template",
    "refuses_unknown_options",
    "TakesAnything takes the option `an_option_that_there_is_not`, which no field reads",
    config="part_options:TakesAnything",
)
fault_of_description("template", "refuses_unknown_options", "CanBeChanged is not frozen", config="part_options:CanBeChanged")
fault_of_description(
    "template",
    "options_survive_a_round_trip",
    "`queries`: 9 became 4",
    config="part_options:Forgets",
    tiny={"queries": 9},
)
fault_of_description(
    "template",
    "options_survive_a_round_trip",
    "`queries`: 18 became 36",
    config="part_options:Doubles",
    tiny={"queries": 9},
)


# Building: of each kind, one that is of another class

for _battery, _contract in {
    "vision_encoder": "VisionEncoder",
    "connector": "Connector",
    "connector with layers": "LayersConnector",
    "language_model": "LanguageModel",
    "layout": "ImageLayout",
    "template": "Template",
    "objective": "Objective",
    "dataset": "Dataset",
    "metric": "Metric",
    "rule": "Rule",
}.items():

    @fault(
        _battery,
        "builds_tiny_offline",
        f"the factory `broken_parts:nothing_of_the_kind` makes a list, which is no `vlmzoo_registry.{_contract}`",
        also=EVERYTHING,
    )
    def nothing_of_the_kind(*args):
        return list(args)


fault_of_description("template", "builds_tiny_offline", "the description has no `tiny`", tiny=None)


@fault("vision_encoder", "builds_tiny_offline", "look-up of host 'example.invalid'")
class AsksAround(SoundVision):
    """Looks for weights on the network, and makes do without them."""

    def __init__(self, config):
        super().__init__(config)
        with suppress(OSError):
            socket.create_connection(("example.invalid", 443))


@fault("language_model", "builds_tiny_offline", "connection to ('192.0.2.1', 443)")
class FetchesItsTokenizer(SoundLanguage):
    """Looks for its tokenizer on the network when it is first asked for it."""

    @property
    def tokenizer(self):
        with socket.socket() as connection:
            connection.settimeout(0.01)
            if connection.connect_ex(("192.0.2.1", 443)) == 0:
                raise RuntimeError("there is no such host")
        return super().tokenizer


# All parts


class NeedsValues:
    """A constructor that looks at values."""

    def __init__(self, *args):
        super().__init__(*args)
        self.norm_at_start = next(self.parameters()).norm().item()


class IsNoisy:
    """Output that differs each time."""

    def outcome(self, tensor):
        return tensor + 1e-4 * torch.randn(tensor.shape)


class DrawsAndForgets:
    """Draws from Python's global generator and does nothing with it."""

    def outcome(self, tensor):
        random.random()
        return tensor


class MixesRows:
    """Takes the mean of the batch away."""

    def outcome(self, tensor):
        return tensor - tensor.mean(dim=0, keepdim=True)


class Forgetful:
    """Has a parameter that nothing uses."""

    def __init__(self, *args):
        super().__init__(*args)
        self.forgotten = nn.Parameter(torch.ones(3))


class Cuts:
    """Cuts the graph in a place that no gradient can pass."""

    def outcome(self, tensor):
        return tensor.detach() + 0 * tensor


class VisionOutcome(SoundVision):
    def forward(self, pixels):
        features = super().forward(pixels)
        return replace(features, tokens=self.outcome(features.tokens))


class ConnectorOutcome(SoundConnector):
    def forward(self, features):
        came = super().forward(features)
        return replace(came, tokens=self.outcome(came.tokens))


class LanguageOutcome(SoundLanguage):
    def decode(self, embeddings, **options):
        return self.outcome(super().decode(embeddings, **options))


class OutcomeBlock(FlamingoBlock):
    """A block whose addition goes through `outcome`; gates and masked rows as they should be."""

    def forward(self, hidden, keys, values, visible):
        added = super().forward(hidden, keys, values, visible) - hidden
        closed = not self.attention_gate.any()
        return hidden if closed else torch.where(visible.any(dim=2, keepdim=True), hidden + self.outcome(added), hidden)


class LayersOutcome(SoundLayers):
    block = OutcomeBlock

    def __init__(self, config, context):
        super().__init__(config, context)
        for block in self.blocks:
            block.__class__ = self.block


@fault("vision_encoder", "builds_on_meta", "item()")
class VisionThatNeedsValues(NeedsValues, SoundVision): ...


@fault("connector", "builds_on_meta", "item()")
class ConnectorThatNeedsValues(NeedsValues, SoundConnector): ...


@fault("connector with layers", "builds_on_meta", "item()")
class LayersThatNeedValues(NeedsValues, SoundLayers): ...


@fault("language_model", "builds_on_meta", "item()")
class LanguageThatNeedsValues(NeedsValues, SoundLanguage): ...


@fault("vision_encoder", "builds_on_meta", "parameters that have values all the same\n  - scale", also=())
class VisionWithValues(VisionOutcome):
    """Makes a parameter on a device of its own choice."""

    def __init__(self, config):
        super().__init__(config)
        self.scale = nn.Parameter(torch.ones((), device="cpu"))

    def outcome(self, tensor):
        return tensor * self.scale


@fault("connector", "builds_on_meta", "`scale` is there with values only")
class ConnectorWithTwoForms(ConnectorOutcome):
    """Has a parameter more where there are values."""

    def __init__(self, config, context):
        super().__init__(config, context)
        if torch.get_default_device().type != "meta":
            self.scale = nn.Parameter(torch.ones(()))

    def outcome(self, tensor):
        return tensor * self.scale


NOISE = "outputs [0] differ between two forwards of the same input"


@fault("vision_encoder", "is_deterministic", NOISE, also=("rows_are_independent",))
class NoisyVision(IsNoisy, VisionOutcome): ...


@fault("connector", "is_deterministic", NOISE, also=("rows_are_independent",))
class NoisyConnector(IsNoisy, ConnectorOutcome): ...


@fault(
    "connector with layers",
    "is_deterministic",
    "differ between two forwards of the same input",
    also=("rows_are_independent", "sees_only_what_is_visible"),
)
class NoisyLayers(LayersOutcome):
    class block(IsNoisy, OutcomeBlock): ...


@fault(
    "language_model",
    "is_deterministic",
    NOISE,
    also=(
        "rows_are_independent",
        "ids_and_embeddings_agree",
        "is_causal",
        "cache_changes_nothing",
        "padding_changes_nothing",
    ),
)
class NoisyLanguage(IsNoisy, LanguageOutcome): ...


@fault("vision_encoder", "is_deterministic", "a forward draws from the global generator of random")
class VisionThatDraws(DrawsAndForgets, VisionOutcome): ...


@fault(
    "connector",
    "is_deterministic",
    "a forward leaves the gradient mode of torch changed",
    also=("gradients_reach_every_parameter", "gradients_pass_through"),
)
class ConnectorThatTurnsGradientsOff(SoundConnector):
    """Turns gradients off for the whole process."""

    def forward(self, features):
        came = super().forward(features)
        torch.set_grad_enabled(False)
        return came


@fault(
    "connector",
    "is_deterministic",
    "a forward changes torch's default dtype from torch.float32 to torch.float64",
    also=("refuses_with_an_assembly_error",),
)
class ConnectorThatChangesTheType(SoundConnector):
    """Changes the default dtype of the whole process."""

    def forward(self, features):
        came = super().forward(features)
        torch.set_default_dtype(torch.float64)
        return came


@fault("vision_encoder", "rows_are_independent", "row 0 alone and in a batch of 3: output 0 differs by")
class VisionThatMixesRows(MixesRows, VisionOutcome): ...


@fault("connector", "rows_are_independent", "row 0 alone and in a batch of 3: output 0 differs by")
class ConnectorThatMixesRows(MixesRows, ConnectorOutcome): ...


@fault("connector with layers", "rows_are_independent", "row 0 alone and in a batch of 3: output 0 differs by")
class LayersThatMixRows(LayersOutcome):
    class block(MixesRows, OutcomeBlock): ...


@fault(
    "language_model",
    "rows_are_independent",
    "row 0 alone and in a batch of 3: output 0 differs by",
    also=("ids_and_embeddings_agree", "padding_changes_nothing"),
)
class LanguageThatMixesRows(MixesRows, LanguageOutcome): ...


@fault("vision_encoder", "gradients_reach_every_parameter", "parameters get no gradient\n  - forgotten")
class ForgetfulVision(Forgetful, SoundVision): ...


@fault("connector", "gradients_reach_every_parameter", "1 of 3 parameters get no gradient\n  - forgotten")
class ForgetfulConnector(Forgetful, SoundConnector): ...


@fault("connector with layers", "gradients_reach_every_parameter", "parameters get no gradient\n  - forgotten")
class ForgetfulLayers(Forgetful, SoundLayers): ...


@fault("language_model", "gradients_reach_every_parameter", "parameters get no gradient\n  - forgotten")
class ForgetfulLanguage(Forgetful, SoundLanguage): ...


@fault("connector", "gradients_reach_every_parameter", "2 of 2 parameters get no gradient", also=("gradients_pass_through",))
class ConnectorThatCuts(Cuts, ConnectorOutcome): ...


NO_GRADIENT = "with the part frozen, no gradient reaches what goes in\n  - "


@fault("connector", "gradients_pass_through", NO_GRADIENT + "tokens, row 0")
class ConnectorThatCutsBefore(SoundConnector):
    """Trains itself, and nothing before it."""

    def forward(self, features):
        return super().forward(replace(features, tokens=features.tokens.detach()))


@fault("connector with layers", "gradients_pass_through", NO_GRADIENT + "image tokens, row 0\n  - image tokens, row 1")
class LayersThatCutBefore(LayersOutcome):
    class block(FlamingoBlock):
        def keys_values(self, tokens):
            return super().keys_values(tokens.detach())


@fault("language_model", "gradients_pass_through", NO_GRADIENT + "embeddings, row 0")
class LanguageThatNeedsNoGradient(SoundLanguage):
    """Runs without gradients where nothing of its own trains."""

    def decode(self, embeddings, **options):
        trains = any(parameter.requires_grad for parameter in self.parameters())
        return super().decode(embeddings if trains else embeddings.detach(), **options)


@fault("vision_encoder", "refuses_wrong_shapes", "pixels of another size (2, 3, 21, 16): taken without a word")
class VisionThatTakesAnySize(SoundVision):
    """Cuts what is too much off."""

    def forward(self, pixels):
        return super().forward(pixels[:, :, :16, :16])


@fault("connector", "refuses_wrong_shapes", "tokens of width 13 instead of 12: RuntimeError: ")
class ConnectorThatLeavesItToTorch(SoundConnector):
    """Multiplies matrices and sees what happens."""

    def forward(self, features):
        return VisionFeatures(self.projection(features.tokens), features.grid, features.prefix)


@fault("connector with layers", "refuses_wrong_shapes", "hidden states of width 17 instead of 16: taken without a word")
class LayersThatCutOff(LayersOutcome):
    class block(FlamingoBlock):
        def forward(self, hidden, keys, values, visible):
            return super().forward(hidden[..., :16], keys, values, visible)


@fault("language_model", "refuses_wrong_shapes", "embeddings of rank 2 (9, 16): taken without a word")
class LanguageThatAddsABatch(SoundLanguage):
    """Takes a text without a batch for a batch of one."""

    def decode(self, embeddings, **options):
        return super().decode(embeddings[None] if embeddings.ndim == 2 else embeddings, **options)


# Parts that resolve


@fault("vision_encoder", "resolves_to_the_same_architecture", "resolved twice, the config changes")
class VisionThatGrows(SoundVision):
    """Gains a block each time it is resolved."""

    @classmethod
    def resolve(cls, config):
        return config.model_copy(update={"depth": config.depth + 1})


@fault("vision_encoder", "resolves_to_the_same_architecture", "`blocks.1.")
class VisionThatForgetsItsDepth(SoundVision):
    """Resolves to the default depth, whatever it has... which is one block less."""

    @classmethod
    def resolve(cls, config):
        return config.model_copy(update={"depth": 1})


@fault("vision_encoder", "resolves_to_the_same_architecture", "`resolve` reaches for the network\n  - look-up of host")
class VisionThatAsksTheHub(SoundVision):
    """Looks its architecture up, and falls back on what it knows."""

    @classmethod
    def resolve(cls, config):
        with suppress(OSError):
            socket.getaddrinfo("example.invalid", 443)
        return config


@fault(
    "vision_encoder",
    "resolves_to_the_same_architecture",
    "`output_shape`: 16 tokens of width 16 (grid 4x4, prefix 0) instead of 16 tokens of width 8 (grid 4x4, prefix 0)",
    tiny={"patch": 4},
)
class VisionThatTapsTwice(SoundVision):
    """Resolves to the same tensors, used in another way."""

    @classmethod
    def resolve(cls, config):
        return config.model_copy(update={"layers": (-1, -1)})


@fault("language_model", "resolves_to_the_same_architecture", "`positions.weight` is there from the resolved config only")
class LanguageThatGainsPositions(SoundLanguage):
    """Resolves to learned positions, whatever it has."""

    @classmethod
    def resolve(cls, config):
        return config.model_copy(update={"learned_positions": 64})


# Vision encoders


@fault(
    "vision_encoder",
    "returns_what_it_declares",
    "`output_shape` declares 16 tokens of width 8 (grid 4x4, prefix 0), and `forward` returned 17 tokens",
    tiny={"patch": 4, "class_token": True, "prefix": "keep"},
)
class VisionThatForgetsItsPrefix(SoundVision):
    """Says nothing of its class token."""

    @property
    def output_shape(self):
        return replace(super().output_shape, count=16, prefix=0)

    def forward(self, pixels):
        check_pixels("dummy/part", pixels, 16, 16)
        shape = SoundVision.output_shape.fget(self)
        tokens = self.patches(pixels).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], dim=1) + self.positions
        for block in self.blocks:
            tokens = block(tokens)
        return VisionFeatures(tokens, shape.grid, shape.prefix)


@fault("vision_encoder", "unused_parameters_get_no_gradient", "depends on\n  - positions")
class VisionThatCallsAUsedOneUnused(SoundVision):
    @property
    def unused_parameters(self):
        return super().unused_parameters | {"positions"}


@fault("vision_encoder", "unused_parameters_get_no_gradient", "names what is no parameter\n  - poler.bias")
class VisionThatMisspells(SoundVision):
    @property
    def unused_parameters(self):
        return super().unused_parameters | {"poler.bias"}


# Connectors


@fault(
    "connector",
    "returns_what_it_declares",
    "for 3 rows of 15 tokens of width 12 (grid 3x5, prefix 0) it declares 6 tokens of width 20 (grid 2x3, prefix 0), and 3 "
    "rows of 2 tokens of width 20 (grid (1, 2), prefix 0) came out",
)
class ConnectorThatRounds(SoundConnector):
    """Says that it rounds odd sides up, and rounds them down."""

    def output_grid(self, grid):
        if grid is None or min(grid) < 2:
            raise AssemblyError("it needs a grid of at least 2 x 2")
        return -(-grid[0] // 2), -(-grid[1] // 2)

    def token_count(self, grid, count):
        rows, columns = self.output_grid(grid)
        if count != grid[0] * grid[1]:
            raise AssemblyError("it takes no prefix")
        return rows * columns

    def forward(self, features):
        came = super().forward(features)
        places = came.tokens.transpose(1, 2).unflatten(2, features.grid)
        pooled = functional.avg_pool2d(places, 2)
        return VisionFeatures(pooled.flatten(2).transpose(1, 2), tuple(pooled.shape[2:]))


@fault("connector", "returns_what_it_declares", "`output_width` 20 is asked for, and tokens of width 9 came out")
class ConnectorOfItsOwnWidth(SoundConnector):
    def __init__(self, config, context):
        super().__init__(config, replace(context, output_width=9))


@fault("connector", "refuses_with_an_assembly_error", "built for 15 tokens of width 12 (grid 3x5, prefix 0)")
class ConnectorThatRaisesAValueError(SoundConnector):
    def __init__(self, config, context):
        super().__init__(config, context)
        if context.input.grid is not None and context.input.grid[0] % 2:
            raise ValueError("an odd side")


@fault("connector", "refuses_with_an_assembly_error", "`output_shape` takes 7 tokens of width 12 (no grid, prefix 0), but")
class ConnectorThatRefusesTooLate(SoundConnector):
    def forward(self, features):
        if features.grid is None:
            raise AssemblyError("it needs a grid")
        return super().forward(features)


# Connectors with layers


@fault("connector with layers", "placement_fits_the_decoder", "a decoder of 1 layers (0 to 0): the placement names [1]")
class LayersOneTooFar(SoundLayers):
    @property
    def placement(self):
        return tuple(layer + 1 for layer in super().placement)


@fault("connector with layers", "placement_fits_the_decoder", "is not ascending")
class LayersThatDescend(SoundLayers):
    @property
    def placement(self):
        return super().placement[::-1]


@fault("connector with layers", "placement_fits_the_decoder", "a decoder of 3 layers: 3 blocks for the placement [0, 1]")
class LayersOneTooMany(SoundLayers):
    @property
    def placement(self):
        return super().placement[: max(1, len(self.blocks) - 1)]


@fault("connector with layers", "gates_start_closed", "gate 0 is [0.1")
class LayersThatStartOpen(SoundLayers):
    def __init__(self, config, context):
        super().__init__(config, context)
        for gate in self.gates:
            nn.init.constant_(gate, 0.1)


@fault(
    "connector with layers",
    "gates_start_closed",
    "block 0 changes the hidden states though its gates are 0",
    also=("blind_positions_stay",),
)
class LayersThatRound(LayersOutcome):
    class block(FlamingoBlock):
        def forward(self, hidden, keys, values, visible):
            return super().forward(hidden, keys, values, visible).bfloat16().float()


@fault("connector with layers", "gates_start_closed", "`gates` [0, 1, 2, 3, 4, 5] are not parameters of the connector")
class LayersWithOtherGates(SoundLayers):
    @property
    def gates(self):
        return tuple(nn.Parameter(torch.zeros(1)) for _ in super().gates)


@fault("connector with layers", "blind_positions_stay", "block 0 changes 7 of 7 positions that see no image token")
class LayersThatLeak(SoundLayers):
    """As transformers' Mllama does, and does not say so."""

    def __init__(self, config, context):
        super().__init__(config, context)
        for block in self.blocks:
            block.masked_rows = "hf_mllama"


@fault("connector with layers", "blind_positions_stay", "gradients are not finite where some positions see nothing")
class LayersWithAnEmptySoftmax(LayersOutcome):
    """Throws the NaN of an empty softmax away, but not that of its gradient."""

    class block(FlamingoBlock):
        def forward(self, hidden, keys, values, visible):
            check_tokens("dummy/part", "hidden states", hidden, 16)
            queries = self.query(self.norm(hidden)).unflatten(2, (self.heads, -1)).transpose(1, 2)
            scores = (queries @ keys.transpose(2, 3)).masked_fill(~visible[:, None], -torch.inf)
            gathered = (scores.softmax(dim=3) @ values).transpose(1, 2).flatten(2)
            attended = hidden + self.attention_gate.tanh() * self.output(gathered)
            attended = attended + self.feedforward_gate.tanh() * self.feedforward(attended)
            return torch.where(visible.any(dim=2, keepdim=True), attended, hidden)


@fault("connector with layers", "sees_only_what_is_visible", "with an image token that nobody may see")
class LayersThatSeeAll(LayersOutcome):
    class block(FlamingoBlock):
        def forward(self, hidden, keys, values, visible):
            return super().forward(hidden, keys, values, visible.any(dim=2, keepdim=True).expand_as(visible))


@fault(
    "connector with layers",
    "sees_only_what_is_visible",
    "block 0 does not change with an image token that is visible",
    also=("gradients_reach_every_parameter", "gradients_pass_through"),
)
class LayersThatAreBlind(LayersOutcome):
    class block(FlamingoBlock):
        def forward(self, hidden, keys, values, visible):
            return super().forward(hidden, 0 * keys, 0 * values, visible)


@fault("connector with layers", "keys_values_are_batch_first", "do not begin with 3 rows")
class LayersWithHeadsFirst(LayersOutcome):
    class block(FlamingoBlock):
        def keys_values(self, tokens):
            keys, values = super().keys_values(tokens)
            return keys.transpose(0, 1), values.transpose(0, 1)

        def forward(self, hidden, keys, values, visible):
            return super().forward(hidden, keys.transpose(0, 1), values.transpose(0, 1), visible)


# Language models


@fault(
    "language_model", "returns_what_it_declares", "`text_config.num_hidden_layers` is 3, and `decoder_layers` finds 2 layers"
)
class LanguageOfAnotherDepth(SoundLanguage):
    def __init__(self, config):
        super().__init__(config)
        self._text_config.num_hidden_layers = 3


@fault("language_model", "ids_and_embeddings_agree", "logits through the embeddings differ from those of the ids by")
class LanguageWithAScale(SoundLanguage):
    """Its own way scales the embeddings, as Gemma's once did."""

    def reference_logits(self, ids):
        weight = self.tokens.weight
        with torch.no_grad():
            self.tokens.weight = nn.Parameter(weight * 4)
            logits = super().reference_logits(ids)
            self.tokens.weight = weight
        return logits


@fault(
    "language_model",
    "is_causal",
    "moves the logits before it by",
    also=("ids_and_embeddings_agree", "cache_changes_nothing", "padding_changes_nothing"),
)
class LanguageThatLooksAhead(LanguageOutcome):
    def outcome(self, tensor):
        return tensor + tensor.mean(dim=1, keepdim=True)


@fault(
    "language_model",
    "is_causal",
    "changes nothing from its place on",
    also=("gradients_pass_through", "ids_and_embeddings_agree"),
)
class LanguageThatIgnoresItsText(SoundLanguage):
    def decode(self, embeddings, **options):
        return super().decode(torch.ones_like(embeddings), **options)


@fault("language_model", "cache_changes_nothing", "the cache moves the logits by")
class LanguageThatMiscounts(SoundLanguage):
    """Counts positions from 0 in every piece."""

    def decode(self, embeddings, *, attention_mask=None, position_ids=None, cache=None):
        places = torch.arange(embeddings.shape[1]).expand(len(embeddings), -1)
        positions = position_ids if cache is None or not cache.get_seq_length() else places
        return super().decode(embeddings, attention_mask=attention_mask, position_ids=positions, cache=cache)


@fault("language_model", "cache_changes_nothing", "after 9 tokens, without `attention_mask`, the cache holds 0")
class LanguageWithoutACache(SoundLanguage):
    """Leaves the cache empty."""

    def decode(self, embeddings, *, attention_mask=None, position_ids=None, cache=None):
        mask = None if attention_mask is None else attention_mask[:, -embeddings.shape[1] :]
        return super().decode(embeddings, attention_mask=mask, position_ids=position_ids)


@fault("language_model", "padding_changes_nothing", "padding on the left moves the logits by")
class LanguageThatReadsPadding(SoundLanguage):
    def decode(self, embeddings, *, attention_mask=None, position_ids=None, cache=None):
        return super().decode(embeddings, position_ids=position_ids, cache=cache)


@fault("language_model", "head_matches_the_embedding", "`text_config.vocab_size` is 9, and the head gives 259 logits")
class LanguageThatCountsWrong(SoundLanguage):
    def __init__(self, config):
        super().__init__(config)
        self._text_config.vocab_size = 9


@fault(
    "language_model",
    "head_matches_the_embedding",
    "the head gives 260 logits, and not every one of these ids can be embedded",
    also=("resize_keeps_old_rows",),
)
class LanguageWithALongHead(SoundLanguage):
    def __init__(self, config):
        super().__init__(config)
        self.long = nn.Linear(config.width, 260, bias=False)
        self._text_config.vocab_size = 260
        del self.logits

    @property
    def head(self):
        return self.long

    def reference_logits(self, ids):
        return None


@fault("language_model", "resize_keeps_old_rows", "259 of 259 old embedding rows changed")
class LanguageThatBeginsAgain(SoundLanguage):
    """Draws every row anew."""

    def resize(self, rows):
        if rows > len(self.tokens.weight):
            super().resize(rows)
            nn.init.normal_(self.tokens.weight)


@fault("language_model", "resize_keeps_old_rows", "the parameters are no longer the same: ['logits.weight']")
class LanguageThatUnties(SoundLanguage):
    """Gives the head a matrix of its own."""

    def resize(self, rows):
        if rows > len(self.tokens.weight):
            super().resize(rows)
            self.logits.weight = nn.Parameter(self.tokens.weight.detach().clone())


@fault("language_model", "resize_keeps_old_rows", "`resize(259)` shrinks the head from 264 to 259 rows")
class LanguageThatShrinks(SoundLanguage):
    def resize(self, rows):
        super().resize(rows)
        if rows < len(self.tokens.weight):
            self.tokens.weight = self.logits.weight = nn.Parameter(self.tokens.weight[:rows].detach())


@fault("language_model", "decoder_layers_run_once_in_order", "the layers 0 to 1 were called in the order [1, 0]")
class LanguageThatListsBackwards(SoundLanguage):
    @property
    def decoder_layers(self):
        return list(self.layers)[::-1]


@fault("language_model", "decoder_layers_run_once_in_order", "into layer 0 goes a tensor (2, 9) first, not hidden states")
class LanguageWithPositionsFirst(SoundLanguage):
    """Its layers take the positions first."""

    def __init__(self, config):
        super().__init__(config)
        self.layers = nn.ModuleList(PositionsFirst(layer) for layer in self.layers)

    def decode(self, embeddings, *, attention_mask=None, position_ids=None, cache=None):
        own = self.layers
        self.layers = nn.ModuleList(Swapped(layer) for layer in own)
        try:
            return super().decode(embeddings, attention_mask=attention_mask, position_ids=position_ids, cache=cache)
        finally:
            self.layers = own

    def reference_logits(self, ids):
        return self.logits(self.decode(self.tokens(ids)))


class PositionsFirst(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, positions, hidden, visible, cache):
        return self.layer(hidden, positions, visible, cache)


class Swapped(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, hidden, positions, visible, cache):
        return self.layer(positions, hidden, visible, cache)


@fault("language_model", "tokenizer_knows_places", "the tokenizer has no `eos_token`")
class LanguageWithoutAnEnd(SoundLanguage):
    def __init__(self, config):
        super().__init__(config)
        self._tokenizer.eos_token = None


# Language models that are told more than text

NOT_APART = "rows_in_one_sequence_stay_apart"


@fault("language_model", "reads_what_it_declares", "`segment_ids`: [1, 1, 1] for the last tokens instead of 0 changes nothing")
class LanguageThatForgetsSegments(SoundReader):
    """Takes them, and drops them."""

    def told(self, embeddings, segment_ids, span_positions):
        return super().told(embeddings, None, span_positions)


@fault(
    "language_model", "reads_what_it_declares", "`span_positions`: [1, 2, 3] for the last tokens instead of 0 changes nothing"
)
class LanguageThatForgetsSpans(SoundReader):
    def told(self, embeddings, segment_ids, span_positions):
        return super().told(embeddings, segment_ids, None)


@fault("language_model", "reads_what_it_declares", "`span_positions`: what is told of one row changes another")
class LanguageThatTellsAll(SoundReader):
    """Adds the places of the whole batch to every row."""

    def told(self, embeddings, segment_ids, span_positions):
        places = None if span_positions is None else span_positions.amax(0, keepdim=True).expand_as(span_positions)
        return super().told(embeddings, segment_ids, places)


@fault(
    "language_model",
    "reads_what_it_declares",
    "`full_prefix`: in a prefix of 9 tokens the first does not see token 8",
)
class LanguageThatStaysCausal(SoundReader):
    def opened(self, prefix_mask):
        return torch.zeros(1, 1, 1, dtype=torch.bool)


@fault(
    "language_model",
    "reads_what_it_declares",
    "`full_prefix`: behind a prefix of 4 tokens, token 4 moves what is said before it by",
)
class LanguageThatOpensAll(SoundReader):
    """Its prefix sees what is said behind it."""

    def opened(self, prefix_mask):
        return prefix_mask[:, :, None]


@fault(
    "language_model",
    "reads_what_it_declares",
    "`full_prefix`: padding behind a row that is a prefix moves its logits by",
)
class LanguageWhosePrefixSeesPadding(SoundReader):
    def decode(self, embeddings, *, attention_mask=None, prefix_mask=None, **told):
        if prefix_mask is not None:
            attention_mask = None
            prefix_mask = prefix_mask | prefix_mask.any(1, keepdim=True) & (torch.arange(prefix_mask.shape[1]) == 8)
        return super().decode(embeddings, attention_mask=attention_mask, prefix_mask=prefix_mask, **told)


@fault("language_model", "reads_what_it_declares", "`full_prefix`: it is read as a prefix, and `prefix` is none")
class LanguageWithoutAPrefix(SoundReader):
    prefix = "none"


@fault("language_model", "reads_what_it_declares", "`sentence_labels`: `sentence_head` gives (2, 3) for hidden states (2, 16)")
class LanguageWithThreeAnswers(SoundReader):
    def __init__(self, config):
        super().__init__(config)
        self.sentences = nn.Linear(config.width, 3)


@fault("language_model", "reads_what_it_declares", "`sentences` is nothing that an objective asks for")
class LanguageThatReadsAnythingAtAll(SoundReader):
    reads = SoundReader.reads | {"sentences"}


@fault(
    "language_model",
    "reads_what_it_declares",
    "`segment_ids`: TypeError",
    also=(NOT_APART,),
)
class LanguageThatTakesNoSegments(SoundReader):
    def decode(self, embeddings, *, attention_mask=None, position_ids=None, cache=None, prefix_mask=None, row_lengths=None):
        return super().decode(
            embeddings,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            prefix_mask=prefix_mask,
            row_lengths=row_lengths,
        )


@fault("language_model", NOT_APART, "rows of 4, 1, 3 tokens are not what they are alone\n  - row 1, of 1 tokens, differs by")
class LanguageThatSeesItsNeighbours(SoundReader):
    def apart(self, row_lengths):
        return torch.ones(1, 1, dtype=torch.bool)


@fault("language_model", NOT_APART, "row 2, of 3 tokens, differs by")
class LanguageThatSeesOneTokenTooMany(SoundReader):
    """Its borders lie one token too early: the last of a row is the first of the next."""

    def apart(self, row_lengths):
        apart = super().apart(row_lengths)
        return apart | apart.roll((1, 1), (0, 1))


@fault("language_model", NOT_APART, "row 1, of 1 tokens, differs by")
class LanguageThatCountsOn(SoundReader):
    """Learned positions that go on at the border."""

    def decode(self, embeddings, *, position_ids=None, row_lengths=None, segment_ids=None, span_positions=None, **told):
        if row_lengths is not None:
            span_positions = torch.arange(embeddings.shape[1])[None].clamp(max=7)
        return super().decode(
            embeddings,
            position_ids=position_ids,
            row_lengths=row_lengths,
            segment_ids=segment_ids,
            span_positions=span_positions,
            **told,
        )


@fault("language_model", NOT_APART, "row 2 with a prefix of 2, of 3 tokens, differs by")
class LanguageWhoseFirstRowAloneHasAPrefix(SoundReader):
    def decode(self, embeddings, *, prefix_mask=None, row_lengths=None, **told):
        if prefix_mask is not None and row_lengths is not None:
            prefix_mask = prefix_mask & (torch.arange(prefix_mask.shape[1]) < row_lengths[0])
        return super().decode(embeddings, prefix_mask=prefix_mask, row_lengths=row_lengths, **told)


# Connectors that read the instruction


@fault("connector with text", "reads_the_instruction", "instead of 'What is in this picture?' changes nothing of the row")
class InstructedThatDoesNotListen(SoundInstructed):
    def asked(self, ids, mask):
        return self.words.weight.mean(0).expand(len(ids), -1)


@fault(
    "connector with text",
    "reads_the_instruction",
    "another instruction of row 1 moves the tokens of row 0 by",
)
class InstructedThatMixesInstructions(SoundInstructed):
    def asked(self, ids, mask):
        return super().asked(ids, mask).mean(0, keepdim=True).expand(len(ids), -1)


@fault(
    "connector with text",
    "padding_of_the_instruction_changes_nothing",
    "for 'What is in this picture?', padding behind it moves the tokens by",
    also=("reads_the_instruction",),
)
class InstructedThatReadsPadding(SoundInstructed):
    def asked(self, ids, mask):
        return super().asked(ids, torch.ones_like(mask))


@fault(
    "connector with text",
    "padding_of_the_instruction_changes_nothing",
    "for no instruction with padding behind it the tokens are not finite",
)
class InstructedThatDividesByNoWords(SoundInstructed):
    def asked(self, ids, mask):
        return (self.words(ids) * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)


@fault(
    "connector with text",
    "takes_every_id_of_its_tokenizer",
    "ids, and not every one of them can be read: IndexError",
)
class InstructedWithFewWords(SoundInstructed):
    def __init__(self, config, context):
        super().__init__(config, context)
        self.words = nn.Embedding(len(self.tokenizer) - 1, self.width)


@fault(
    "connector",
    "returns_what_it_declares",
    "its description lacks the capability `text`, and it is an `InstructedConnector`",
)
class InstructedThatDoesNotSayIt(SoundInstructed): ...


@fault(
    "connector with text",
    "returns_what_it_declares",
    "its description has the capability `text`, and it is no `InstructedConnector`",
    also=(
        "reads_the_instruction",
        "padding_of_the_instruction_changes_nothing",
        "takes_every_id_of_its_tokenizer",
    ),
)
class ConnectorThatSaysItReads(SoundConnector): ...


# Templates

SPANS_AND_PROMPTS = (
    "spans_are_what_the_assistant_says",
    "answers_end_as_generation_does",
    "prompt_begins_the_text",
    "prompt_has_the_ids_of_the_text",
)


@fault(
    "template",
    "renders_or_refuses",
    "a system's turn first, prompt=False: ValueError: no system",
    also=("images_are_where_it_says", *SPANS_AND_PROMPTS),
)
class TemplateThatRaisesAValueError(SoundTemplate):
    def render(self, turns, *, prompt):
        if turns[0].role == "system":
            raise ValueError("no system")
        return super().render(turns, prompt=prompt)


@fault("template", "renders_or_refuses", "rendered twice, it is", also=SPANS_AND_PROMPTS[2:])
class TemplateThatRemembers(SoundTemplate):
    def __init__(self, config):
        self.seen = 0

    def render(self, turns, *, prompt):
        self.seen += 1
        rendered = super().render(turns, prompt=prompt)
        return replace(rendered, text=rendered.text + str(self.seen))


@fault(
    "template",
    "renders_or_refuses",
    "it refuses every conversation",
    also=("images_are_where_it_says", *SPANS_AND_PROMPTS),
)
class TemplateThatRefusesAll(SoundTemplate):
    def render(self, turns, *, prompt):
        raise DataError("never")


@fault("template", "images_are_where_it_says", "`images` is (0,), the text has markers at (6,)")
class TemplateThatLooksInTheTurn(SoundTemplate):
    def render(self, turns, *, prompt):
        rendered = super().render(turns, prompt=prompt)
        return replace(rendered, images=tuple(place - len("user: ") for place in rendered.images))


@fault("template", "images_are_where_it_says", "two images: the turns have 2 markers, the text 1")
class TemplateThatDropsAnImage(SoundTemplate):
    def render(self, turns, *, prompt):
        first = Turn(turns[0].role, turns[0].text.replace(f"{IMAGE} and {IMAGE}", IMAGE))
        return super().render((first, *turns[1:]), prompt=prompt)


@fault(
    "template",
    "spans_are_what_the_assistant_says",
    "the assistant says ['It is a bird.'], and the spans hold ['What is this?', ' It is a bird.<end>']",
    also=SPANS_AND_PROMPTS[1:],
)
class TemplateThatTrainsOnThePrompt(SoundTemplate):
    def render(self, turns, *, prompt):
        rendered = super().render(turns, prompt=prompt)
        asked = rendered.text.find("What is this?")
        more = (Span(asked, asked + len("What is this?")),) if asked >= 0 else ()
        return replace(rendered, spans=more + rendered.spans)


@fault(
    "template",
    "spans_are_what_the_assistant_says",
    "the assistant says ['a small red bird'], and the spans hold [' a small red bir']",
    also=("answers_end_as_generation_does",),
)
class TemplateThatIsOneShort(SoundTemplate):
    def render(self, turns, *, prompt):
        rendered = super().render(turns, prompt=prompt)
        shorter = len("d<end>")
        return replace(rendered, spans=tuple(Span(span.start, span.end - shorter) for span in rendered.spans))


@fault(
    "template",
    "spans_are_what_the_assistant_says",
    "the assistant says ['It is a bird.', 'It is red.'], and the spans hold [' It is red.<end>']",
    also=SPANS_AND_PROMPTS[2:],
)
class TemplateThatLearnsTheLastAnswer(SoundTemplate):
    def render(self, turns, *, prompt):
        rendered = super().render(turns, prompt=prompt)
        return replace(rendered, spans=rendered.spans[-1:])


@fault("template", "answers_end_as_generation_does", "answers that do not end with `<end>`: [Span(")
class TemplateThatNeverLearnsToStop(SoundTemplate):
    def render(self, turns, *, prompt):
        rendered = super().render(turns, prompt=prompt)
        return replace(rendered, spans=tuple(Span(span.start, span.end - len("<end>")) for span in rendered.spans))


@fault("template", "answers_end_as_generation_does", "`stop` (='<end>') is ")
class TemplateThatNamesNoControlToken(SoundTemplate):
    control_tokens = ()


@fault("template", "answers_end_as_generation_does", "the end token would follow `<end>`, which ends the answer already")
class TemplateThatEndsTwice(SoundTemplate):
    def render(self, turns, *, prompt):
        return replace(super().render(turns, prompt=prompt), end=not prompt)


@fault(
    "template",
    "answers_end_as_generation_does",
    "`stop` is None and `end` is False, so no end is learnt",
    also=("spans_are_what_the_assistant_says",),
)
class TemplateThatDoesNotSayHowItStops(SoundTemplate):
    stop = None


@fault(
    "template",
    "answers_end_as_generation_does",
    "two exchanges: 2 answers, but only the last one ends",
    also=("spans_are_what_the_assistant_says",),
)
class TemplateThatEndsTheLastAnswerOnly(SoundTemplate):
    stop = None

    def render(self, turns, *, prompt):
        return replace(super().render(turns, prompt=prompt), end=not prompt)


@fault("template", "answers_end_as_generation_does", "`stop` (='<end>') and `stop_words` (='<end>'): return one")
class TemplateThatEndsInTwoWays(SoundTemplate):
    stop_words = "<end>"


@fault("template", "answers_end_as_generation_does", "an answer that contains `stop_words` (='<end>') is not refused")
class TemplateWhoseEndCanBeForged(SoundTemplate):
    stop, stop_words = None, "<end>"


@fault("template", "prompt_begins_the_text", "after 1 turns the prompt has 20 characters, the answer starts at 24")
class TemplateWithoutACue(SoundTemplate):
    """Its prompt does not say that the assistant speaks next: one that the model never saw end there."""

    def render(self, turns, *, prompt):
        rendered = super().render(turns, prompt=prompt)
        return replace(rendered, text=rendered.text.removesuffix("ant:")) if prompt else rendered


@fault("template", "prompt_begins_the_text", "does not begin the text", also=("prompt_has_the_ids_of_the_text",))
class TemplateWithAnotherPrompt(SoundTemplate):
    def render(self, turns, *, prompt):
        rendered = super().render(turns, prompt=prompt)
        return replace(rendered, text=rendered.text.replace("user: ", "User: ")) if prompt else rendered


@fault(
    "template", "prompt_has_the_ids_of_the_text", "ends in ['\u0120'], but ['\u0120a', '\u0120small'] stands there in training"
)
class TemplateWhosePromptEndsWithASpace(SoundTemplate):
    """The fault of many a chat template: the space is a token of its own in the prompt, and one with the word in training."""

    def render(self, turns, *, prompt):
        rendered = super().render(turns, prompt=prompt)
        spans = tuple(Span(span.start + 1, span.end) for span in rendered.spans)
        return replace(rendered, text=rendered.text + (" " if prompt else ""), spans=spans)


# Objectives


@fault("objective", "supervises_within_the_text", "spans outside the text of")
class ObjectiveThatGoesTooFar(SoundObjective):
    def render(self, sample, template):
        rendered = super().render(sample, template)
        return replace(rendered, spans=(*rendered.spans[:-1], Span(rendered.spans[-1].start, len(rendered.text) + 1)))


@fault("objective", "supervises_within_the_text", "`images` is () for 1 images, the text has markers at (")
class ObjectiveThatForgetsImages(SoundObjective):
    def render(self, sample, template):
        return replace(super().render(sample, template), images=())


@fault("objective", "supervises_within_the_text", "nothing is supervised", also=("refuses_a_sample_without_a_target",))
class ObjectiveWithoutAim(SoundObjective):
    def render(self, sample, template):
        rendered = template.render(sample.turns, prompt=False)
        return Rendered(rendered.text, rendered.images, (), end=True)


@fault("objective", "refuses_a_sample_without_a_target", "is rendered with the spans ()")
class ObjectiveThatTakesSilence(SoundObjective):
    def render(self, sample, template):
        return template.render(sample.turns, prompt=False)


@fault("objective", "refuses_a_sample_without_a_target", "the refusal does not name the source kit.jsonl:silent: no target")
class ObjectiveThatNamesNoRow(SoundObjective):
    def render(self, sample, template):
        rendered = template.render(sample.turns, prompt=False)
        if not rendered.spans:
            raise DataError("no target")
        return rendered


# Datasets


@fault("dataset", "rows_are_samples", "row 1 (memory:1): 2 `<image>` for 1 images")
class DatasetWithAnImageTooFew(SoundDataset):
    def turns(self, index):
        return (Turn("user", IMAGE * 2 * index), Turn("assistant", "Two."))


@fault("dataset", "rows_are_samples", "row 1 (memory:1): images of the modes ['L'], not RGB")
class DatasetInGrey(SoundDataset):
    def images(self, index):
        return tuple(lambda: Image.new("L", (4, 3)) for _ in range(index))


@fault("dataset", "rows_are_samples", "row 0 (memory:0): the assistant says nothing")
class DatasetThatIsSilent(SoundDataset):
    def turns(self, index):
        return (Turn("user", IMAGE * index + "What?"), Turn("assistant", " "))


@fault("dataset", "rows_are_samples", "the tiny dataset has no rows", also=("rows_stay_the_same",))
class DatasetWithoutRows(SoundDataset):
    def __len__(self):
        return 0


@fault("dataset", "rows_stay_the_same", "row 0: Sample(")
class DatasetThatDraws(SoundDataset):
    def turns(self, index):
        return (Turn("user", IMAGE * index + "What?"), Turn("assistant", str(random.random())))


@fault("dataset", "rows_stay_the_same", "row 1 (memory:1): its images differ")
class DatasetThatDrawsPictures(SoundDataset):
    def images(self, index):
        return tuple(lambda: Image.new("RGB", (4, 3), (random.randrange(256), 0, 0)) for _ in range(index))


# Metrics


@fault("metric", "the_truth_scores_one", "'': 0.0")
class MetricThatFailsSilence(SoundMetric):
    def score(self, truth, said):
        return float(bool(truth) and truth == said)


@fault("metric", "every_pair_has_a_score", "truth '', said '( [ * + \\\\ {0} %s': ", also=("the_truth_scores_one",))
class MetricThatTakesPatterns(SoundMetric):
    def score(self, truth, said):
        return float(re.fullmatch(said, truth) is not None)


@fault("metric", "every_pair_has_a_score", "truth '', said ' ': nan", also=("tells_answers_apart",))
class MetricWithoutANumber(SoundMetric):
    def score(self, truth, said):
        return 1.0 if truth == said else math.nan


@fault("metric", "every_pair_has_a_score", "truth '', said ' ': -1.0")
class MetricBelowTheScale(SoundMetric):
    def score(self, truth, said):
        return 2 * super().score(truth, said) - 1


@fault("metric", "every_pair_has_a_score", "truth '', said ' ': 0.5 and then 0.25")
class MetricThatRemembers(SoundMetric):
    calls = 0

    def score(self, truth, said):
        self.calls += 1
        return 1.0 if truth == said else 0.5 if self.calls % 2 else 0.25


@fault("metric", "tells_answers_apart", "the answer 'no' scores 1.0, as the truth does")
class MetricThatIsKind(SoundMetric):
    def score(self, truth, said):
        return 1.0


# Rules


@fault("rule", "gives_whole_samples", "conversations: row 0: 2 `<image>` for 1 images")
class RuleThatMarksTwice(SoundRule):
    def change(self, sample):
        first = sample.turns[0]
        return replace(sample, turns=(replace(first, text=first.text.replace(IMAGE, IMAGE * 2)), *sample.turns[1:]))


@fault("rule", "gives_whole_samples", "choices: 2 samples have the ids ['the row']")
class RuleThatMixesIds(SoundRule):
    def change(self, sample):
        return replace(sample, id="the row")


@fault("rule", "gives_whole_samples", "conversations: row 0 has no source")
class RuleThatForgetsWhereFrom(SoundRule):
    def change(self, sample):
        return replace(sample, source="")


@fault("rule", "gives_whole_samples", "conversations: row 0: the assistant says nothing")
class RuleThatSilences(SoundRule):
    def change(self, sample):
        return replace(sample, turns=tuple(turn for turn in sample.turns if turn.role == "user"))


@fault("rule", "gives_whole_samples", "choices: the note is empty")
class RuleWithoutNote(SoundRule):
    def apply(self, rows):
        return Ruled(rows, " ")


@fault("rule", "gives_whole_samples", "the rule gives nothing of any rows")
class RuleThatRefusesAll(SoundRule):
    def apply(self, rows):
        raise DataError(f"{rows[0].source}: no")


@fault("rule", "gives_whole_samples", "choices: the refusal names no row: no")
class RuleThatNamesNoRow(SoundRule):
    def apply(self, rows):
        raise DataError("no")


@fault("rule", "gives_whole_samples", "the rule opened an image", also=("gives_the_same_every_time",))
class RuleThatLooks(SoundRule):
    def change(self, sample):
        return replace(sample, id=f"{sample.id} of {len([image() for image in sample.images])}")


@fault("rule", "gives_the_same_every_time", "instead of")
class RuleThatDraws(SoundRule):
    def change(self, sample):
        return replace(sample, id=f"{sample.id} {random.random()}")


# Image layouts

DYNAMIC = {"config": "vlmzoo_layouts.config:DynamicTilesConfig", "tiny": {"max_tiles": 6}}
TAGGED = {"config": "vlmzoo_layouts.config:TaggedTilesConfig"}


class LayoutOutcome(SoundLayout):
    def forward(self, features, arrangement):
        return self.outcome(super().forward(features, arrangement))


@fault("layout", "builds_on_meta", "item()")
class LayoutThatNeedsValues(NeedsValues, SoundLayout): ...


@fault("layout", "is_deterministic", NOISE)
class NoisyLayout(IsNoisy, LayoutOutcome): ...


@fault("layout", "gradients_reach_every_parameter", "1 of 2 parameters get no gradient\n  - forgotten")
class ForgetfulLayout(Forgetful, SoundLayout): ...


@fault("layout", "refuses_wrong_shapes", "the tokens of 6 views instead of 5: taken without a word")
class LayoutThatTakesWhatItNeeds(SoundLayout):
    """Leaves views over."""

    def forward(self, features, arrangement):
        return super().forward(replace(features, tokens=features.tokens[: self.views(arrangement)]), arrangement)


@fault("layout", "gradients_pass_through", NO_GRADIENT + "views, row 0\n  - views, row 1")
class LayoutThatCutsBefore(SoundLayout):
    """Trains the ends of rows, and nothing before it."""

    def forward(self, features, arrangement):
        return super().forward(replace(features, tokens=features.tokens.detach()), arrangement)


@fault(
    "layout", "refuses_with_an_assembly_error", "built behind views of 24x24 pixels, 9 tokens of width 12 (no grid, prefix 0)"
)
class LayoutThatRaisesAValueError(SoundLayout):
    def __init__(self, config, context):
        if context.shape_at(context.view_size).grid is None:
            raise ValueError("no grid")
        super().__init__(config, context)


@fault("layout", "refuses_with_an_assembly_error", "asked for text behind views of 24x36 pixels", **DYNAMIC)
class LayoutThatFailsLater(DynamicTiles):
    def text(self, arrangement):
        if self.size[0] != self.size[1]:
            raise ValueError("oblong")
        return super().text(arrangement)


@fault("layout", "arranges_or_refuses", "an image of 3x900 pixels: ZeroDivisionError", also=EVERYTHING)
class LayoutThatDividesByNothing(SoundLayout):
    def arrangement(self, size):
        return super().arrangement((size[0], size[1] // (size[0] * 100 // size[1])))


@fault("layout", "arranges_or_refuses", "but `fixed` is Arrangement(rows=1, columns=1, height=24, width=24)")
class LayoutThatSaysItIsFixed(SoundLayout):
    @property
    def fixed(self):
        return Arrangement(1, 1, 24, 24)


@fault("layout", "arranges_or_refuses", "and then Arrangement(rows=1, columns=2, height=48, width=48)", also=EVERYTHING)
class LayoutThatChangesItsMind(SoundLayout):
    """Arranges every other image as if it were wide."""

    wide = True

    def arrangement(self, size):
        self.wide = not self.wide
        return Arrangement(1, 2, *size) if self.wide else super().arrangement(size)


@fault("layout", "cuts_what_it_says", "it says 5 views (5 of 3x24x24), and cuts 6 views (6 of 3x24x24)")
class LayoutThatCutsOneTooMany(SoundLayout):
    def cut(self, image, transform):
        views = super().cut(image, transform)
        return [*views, views[0]]


@fault("layout", "cuts_what_it_says", "cut twice, the pixels differ")
class LayoutThatJitters(SoundLayout):
    """Augments where nobody asked it to."""

    def cut(self, image, transform):
        return [view + 1e-4 * torch.randn(()) for view in super().cut(image, transform)]


@fault("layout", "cuts_what_it_says", "cutting changes the image itself")
class LayoutThatDraws(SoundLayout):
    """Marks the corner of the image that it was given."""

    def cut(self, image, transform):
        views = super().cut(image, transform)
        image.putpixel((0, 0), (9, 9, 9))
        return views


@fault("layout", "slots_are_its_tokens", "an image of 48x48 pixels: `text` has 180 slots, `forward` gives (192, 12)")
class LayoutThatForgetsTheEnds(SoundLayout):
    """Counts the rows of tokens without what ends them."""

    def text(self, arrangement):
        return (super().text(arrangement)[0] - self._seen(arrangement)[2][0],)


@fault("layout", "slots_are_its_tokens", "pieces that are no text and no number of slots: ['', 0]")
class LayoutWithEmptyPieces(SoundLayout):
    def text(self, arrangement):
        return "", 0, *super().text(arrangement)


@fault("layout", "declares_its_control_tokens", "writes what `control_tokens` does not name: ['</img>']", **DYNAMIC)
class LayoutThatForgetsAToken(DynamicTiles):
    control_tokens = ("<img>",)


@fault("layout", "declares_its_control_tokens", "`control_tokens` has some twice: ['<img>']", **DYNAMIC)
class LayoutThatNamesOneTwice(DynamicTiles):
    control_tokens = ("<img>", "</img>", "<img>")


@fault("layout", "declares_its_control_tokens", "`text` writes `<image>`, which marks the place of a whole image")
class LayoutThatMarksThePlace(SoundLayout):
    def text(self, arrangement):
        return IMAGE, *super().text(arrangement)


@fault(
    "layout",
    "thumbnail_shows_everything",
    "an image of 48x48 pixels: view 1 shows it from 0.01 to 0.49 of the way from left to right",
    also=("tiles_stand_row_by_row",),
)
class LayoutThatTakesATileForTheWhole(SoundLayout):
    def thumbnail(self, arrangement):
        return 1


@fault("layout", "thumbnail_shows_everything", "`thumbnail` is view 5, and there are 5", also=())
class LayoutThatCountsFromOne(SoundLayout):
    def thumbnail(self, arrangement):
        return self.views(arrangement)


@fault("layout", "tiles_stand_row_by_row", "2x2 tiles: tile 1 is not to the right of 0")
class LayoutThatCutsByColumns(SoundLayout):
    """Cuts column by column."""

    def cut(self, image, transform):
        first, *rest = super().cut(image, transform)
        cut = self.arrangement((image.height, image.width))
        return [first, *(rest[row * cut.columns + column] for column in range(cut.columns) for row in range(cut.rows))]


@fault("layout", "tokens_keep_their_order", "an image of 48x48 pixels: token 34 of view 0 stands behind a later one", **DYNAMIC)
class LayoutThatReadsBackwards(DynamicTiles):
    def forward(self, features, arrangement):
        return super().forward(replace(features, tokens=features.tokens.flip(1)), arrangement)


@fault("layout", "tokens_keep_their_order", "an image of 48x48 pixels: 1 tokens stand twice", **DYNAMIC)
class LayoutThatRepeats(DynamicTiles):
    def forward(self, features, arrangement):
        tokens = super().forward(features, arrangement)
        return torch.cat([tokens[1:2], tokens[1:]])


@fault(
    "layout", "tokens_keep_their_order", "`text` has a number for each of 5 views, and they stand in another order", **TAGGED
)
class LayoutThatExchangesViews(TaggedTiles):
    def forward(self, features, arrangement):
        return super().forward(replace(features, tokens=features.tokens.flip(0)), arrangement)
