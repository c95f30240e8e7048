"""The descriptions of the connectors: true, buildable, and light."""

import subprocess
import sys
from importlib import import_module

import pytest
import torch

from vlmzoo_connectors.plugin import vlmzoo_components
from vlmzoo_registry import Connector, ConnectorContext, FeatureShape, InstructedConnector, LayersConnector, VisionFeatures

SPECS = {spec.name: spec for spec in vlmzoo_components()}


def attribute(reference: str):
    module, name = reference.split(":")
    return getattr(import_module(module), name)


def test_names():
    assert sorted(SPECS) == [
        "adaptive-pool", "attention-pool", "average-pool", "c-abstractor", "cross-attention", "cross-attention-resampler",
        "identity", "instructed-q-former", "interpolate", "ldp", "ldp-v2", "linear", "mlp", "norm", "perceiver",
        "pixel-shuffle", "q-former", "resampler",
    ]  # fmt: skip


@pytest.mark.parametrize("name", SPECS)
def test_tiny_instance_keeps_its_word(name):
    spec = SPECS[name]
    factory, config = attribute(spec.factory), attribute(spec.config)(**spec.tiny)
    context = ConnectorContext(FeatureShape(24, 16, (4, 4)), None, 40, 3)
    connector = factory(config, context)
    assert isinstance(connector, LayersConnector if "layers" in spec.capabilities else Connector)
    if isinstance(connector, LayersConnector):
        assert connector.placement == (0, 1, 2)
    else:
        features = VisionFeatures(torch.randn(2, 16, 24), (4, 4))
        words = torch.ones(2, 3, dtype=torch.long)
        text = (words, words) if isinstance(connector, InstructedConnector) else ()
        assert isinstance(connector, InstructedConnector) == ("text" in spec.capabilities)
        assert connector(features, *text).shape == connector.output_shape(context.input)


def test_descriptions_and_options_are_read_without_torch():
    code = """
import sys
from importlib import import_module
from vlmzoo_connectors.plugin import vlmzoo_components
for spec in vlmzoo_components():
    module, name = spec.config.split(":")
    getattr(import_module(module), name).model_json_schema()
heavy = {"torch", "transformers", "timm", "open_clip", "peft"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)
