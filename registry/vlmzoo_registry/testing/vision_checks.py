"""What holds for every vision encoder: it tells the truth about its output, and about what it leaves unused."""

import torch

from vlmzoo_registry.component import Component
from vlmzoo_registry.testing.check import CheckFunction, NotApplicable, require
from vlmzoo_registry.testing.part_checks import ROWS, backward, has_gradient
from vlmzoo_registry.testing.vision_harness import VisionHarness


def returns_what_it_declares(component: Component) -> None:
    """Width, count, grid and prefix of the tokens are those of `output_shape`; the transform gives pixels of its size.

    Why: the assembler derives every width and the number of image slots in the text from `output_shape`, before anything runs.

    If it fails: compute `output_shape` from what the forward does (the tapped layers, the kept prefix tokens), for an image of
    the size of `transform`.
    """
    harness = VisionHarness(component)
    encoder = harness.build()
    for image in harness.images(ROWS):
        pixels = encoder.transform(image)
        wanted = (3, *encoder.transform.size)
        require(tuple(pixels.shape) == wanted, f"`transform` gives pixels of shape {tuple(pixels.shape)}, declared {wanted}")
    with torch.no_grad():
        features = encoder(*harness.inputs(encoder, ROWS))
    rows = features.tokens.shape[0]
    require(rows == ROWS, f"{ROWS} images went in, tokens of {rows} came out")
    declared = encoder.output_shape
    count, width = features.tokens.shape[1:]
    same = (width, count, features.grid, features.prefix) == (declared.width, declared.count, declared.grid, declared.prefix)
    came = f"{count} tokens of width {width} (grid {features.grid}, prefix {features.prefix})"
    require(same, f"`output_shape` declares {declared}, and `forward` returned {came}")
    require(bool(torch.isfinite(features.tokens).all()), "`forward` returned numbers that are not finite")


def unused_parameters_get_no_gradient(component: Component) -> None:
    """What `unused_parameters` names are parameters of the encoder, and no output depends on them.

    Why: they are left out of training and of the audit; a name that is wrong hides a tensor that should train.

    If it fails: name exactly the parameters behind the last tapped layer, with the full names of `named_parameters()`.
    """
    harness = VisionHarness(component)
    encoder = harness.build_open()
    parameters = dict(encoder.named_parameters())
    unused = encoder.unused_parameters
    if not unused:
        raise NotApplicable("it declares no unused parameters")
    strangers = sorted(unused - parameters.keys())
    require(not strangers, "`unused_parameters` names what is no parameter", strangers)
    backward(encoder, lambda: harness.outputs(encoder, harness.inputs(encoder, ROWS)))
    used = sorted(name for name in unused if has_gradient(parameters[name]))
    require(not used, "`unused_parameters` names parameters that an output depends on", used)


CHECKS: tuple[CheckFunction, ...] = (returns_what_it_declares, unused_parameters_get_no_gradient)
