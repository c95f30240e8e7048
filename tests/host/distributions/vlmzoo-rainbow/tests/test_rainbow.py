"""The connector computes equation 6 of arXiv:2002.05202, and is found by its names."""

import pytest
import torch

from vlmzoo_registry import AssemblyError, ConnectorContext, FeatureShape, VisionFeatures, default_catalogue

INPUT = FeatureShape(width=6, count=5, grid=(2, 2), prefix=1)


@pytest.fixture
def component():
    return default_catalogue().get("connector", "rainbow/rainbow")


@pytest.fixture
def build(component):
    def build(output_width=8, language_width=8, **options):
        torch.manual_seed(0)
        context = ConnectorContext(INPUT, output_width, language_width, language_depth=2)
        return component.load_factory()(component.load_config()(**options), context).double()

    return build


def test_it_is_found(component):
    assert component.distribution == "vlmzoo-rainbow"
    assert default_catalogue().get("connector", "rainbow") == component


@pytest.mark.parametrize("bias", [False, True])
def test_it_computes_the_formula(build, bias):
    connector = build(expansion=1.5, bias=bias)
    tokens = torch.randn(3, 5, 6, dtype=torch.float64)
    out = connector(VisionFeatures(tokens, INPUT.grid, INPUT.prefix))
    gate, up, down = connector.gate, connector.up, connector.down
    zero = torch.zeros((), dtype=torch.float64)
    before = tokens @ gate.weight.T + (zero if gate.bias is None else gate.bias)
    hidden = before / (1 + torch.exp(-before)) * (tokens @ up.weight.T + (zero if up.bias is None else up.bias))
    expected = hidden @ down.weight.T + (zero if down.bias is None else down.bias)
    assert gate.weight.shape == (12, 6)
    torch.testing.assert_close(out.tokens, expected, rtol=1e-12, atol=1e-12)


def test_what_it_says_before_is_what_comes_out(build):
    connector = build()
    features = VisionFeatures(torch.randn(2, 5, 6, dtype=torch.float64), INPUT.grid, INPUT.prefix)
    assert connector(features).shape == connector.output_shape(INPUT)


def test_it_takes_the_width_of_the_language_model(build):
    assert build(output_width=None, language_width=10).output_width == 10


def test_no_width_at_all_is_refused(build):
    with pytest.raises(AssemblyError, match=r"`output_width` \(=None\), `language_width` \(=0\)"):
        build(output_width=None, language_width=0)
