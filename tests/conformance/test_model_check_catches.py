"""The check that takes a whole model finds what saving and loading changes, and parts that fit into no model."""

from dataclasses import replace

import pytest
import torch
from sound_parts import SOUND, SoundLanguage, SoundLayout, SoundVision, described

from vlmzoo.conformance import PLACES, check_component, model_checks, survives_saving_in_a_model
from vlmzoo_registry import ImageTransform
from vlmzoo_registry.testing import Check, NotApplicable, run_checks

LOGITS = "the logits of the loaded model differ by up to "


class KeepsATensorToItself(SoundVision):
    """Adds random numbers that are drawn once and saved nowhere."""

    def __init__(self, config):
        super().__init__(config)
        self.shift = torch.randn(config.width)

    def forward(self, pixels):
        features = super().forward(pixels)
        return replace(features, tokens=features.tokens + self.shift.to(features.tokens.device))


class LeavesABufferOut(SoundVision):
    """Adds a buffer that is not saved, and is filled at random."""

    def __init__(self, config):
        super().__init__(config)
        self.register_buffer("shift", torch.randn(config.width), persistent=False)

    def forward(self, pixels):
        features = super().forward(pixels)
        return replace(features, tokens=features.tokens + self.shift)


class ForgetsItsHeads(SoundLanguage):
    """Resolves to another number of heads: the tensors are the same, what is made of them is not."""

    @classmethod
    def resolve(cls, config):
        return config.model_copy(update={"heads": 1})


class ForgetsItsPreprocessing(SoundVision):
    """Has the statistics of its pixels from where they are not written down."""

    def __init__(self, config):
        super().__init__(config)
        self.mean = 0.5 if config.layers == (-1,) else 0.4

    @classmethod
    def resolve(cls, config):
        return config.model_copy(update={"layers": (config.depth - 1,)})

    @property
    def transform(self):
        size = self.config.image_size
        return ImageTransform(size, size, mean=(self.mean,) * 3, std=(0.5, 0.5, 0.5))


class KeepsTheEndsOfRows(SoundLayout):
    """Ends its rows with random numbers that are saved nowhere."""

    def __init__(self, config, context):
        super().__init__(config, context)
        self.newline = None
        self.ends = torch.randn(context.width)

    def forward(self, features, arrangement):
        tokens = super().forward(features, arrangement)
        return tokens + self.ends.to(tokens.device)


@pytest.mark.parametrize(
    ("component", "says"),
    [
        (described("vision_encoder", "test_model_check_catches:KeepsATensorToItself"), LOGITS),
        (described("vision_encoder", "test_model_check_catches:LeavesABufferOut"), LOGITS),
        (described("language_model", "test_model_check_catches:ForgetsItsHeads"), LOGITS),
        (described("layout", "test_model_check_catches:KeepsTheEndsOfRows"), LOGITS),
        (
            described("vision_encoder", "test_model_check_catches:ForgetsItsPreprocessing"),
            "the processor of the loaded model makes other pixel_values of the same text and images",
        ),
        (
            described("connector with layers", "broken_parts:LayersOneTooFar"),
            "places a block at decoder layer 2, but the language model has 2 (0 to 1)",
        ),
    ],
    ids=lambda value: value.spec.factory.partition(":")[2] if not isinstance(value, str) else "",
)
def test_a_fault_is_found(component, says):
    report = check_component(component)
    reasons = {result.name: result.reason for result in report.failures}
    assert says in reasons["survives_saving_in_a_model"]


@pytest.mark.parametrize("battery", ["vision_encoder", "connector", "connector with layers", "language_model", "template"])
def test_a_sound_part_passes(battery):
    component = SOUND[battery]
    (check,) = model_checks(component)
    result = Check(component, check).examine()
    assert (result.status, result.reason) == ("passed", "")


def test_only_parts_of_models_are_put_into_one():
    assert {kind for kind in ("objective", "dataset") if model_checks(SOUND[kind])} == set()
    assert set(PLACES) == {"vision_encoder", "connector", "layout", "language_model", "template"}


def test_the_checks_of_the_kit_come_with_it():
    component = SOUND["connector"]
    kit = [result.name for result in run_checks(component).results]
    assert [result.name for result in check_component(component).results] == [*kit, "survives_saving_in_a_model"]


def test_without_its_partners_it_does_not_apply(monkeypatch):
    monkeypatch.setenv("VLMZOO_BLOCK", "toy")
    with pytest.raises(NotApplicable, match=r"a partner for the model is missing: .*toy/vision"):
        Check(SOUND["template"], survives_saving_in_a_model).run()
