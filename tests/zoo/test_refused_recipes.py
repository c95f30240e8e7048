"""A combination that cannot work is refused by `plan`, with every reason at once, and nothing is built for it."""

import copy
from typing import Any

import pytest

import vlmzoo
from vlmzoo_registry import AssemblyError

SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 40,
    "patch_size": 8,
}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
}
SHUFFLE = {"name": "connectors/pixel-shuffle", "factor": 2}
TIMM = {"name": "timm/encoder", "config": {"architecture": "vit_base_patch16_siglip_224", "depth": 1}}
OPEN_CLIP = {
    "name": "open_clip/encoder",
    "config": {"embed_dim": 8, "vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "image_size": 32}},
}


def model(**changes: Any) -> dict[str, Any]:
    """A model that works but for these changes."""
    return {
        "architecture": "unified",
        "vision": {"name": "transformers/vision", "config": SIGLIP},
        "connector": ["connectors/linear"],
        "language": {"name": "transformers/causal-lm", "config": LLAMA},
        "template": "plain",
    } | copy.deepcopy(changes)


def reasons(config: dict[str, Any]) -> list[str]:
    with pytest.raises(AssemblyError, match="the parts do not fit together") as refused:
        vlmzoo.plan(config)
    return list(refused.value.reasons)


def blocks(**options: Any) -> dict[str, Any]:
    return {"name": "connectors/cross-attention", "heads": 2, **options}


DROP = "no prefix token to drop (leave `prefix` out)"
DIVIDE = "`connector.0` (connectors/pixel-shuffle): `factor` (=2) must divide both sides of the grid (5x5)"
PAST = "`connector.{}` (connectors/cross-attention): `layers` names [5, 9], and the decoder has 4 layers: the last is 3"


@pytest.mark.parametrize(
    "vision", [{"name": "transformers/vision", "config": SIGLIP}, TIMM, OPEN_CLIP], ids=lambda v: v["name"]
)
def test_where_nothing_stands_before_the_patches_there_is_nothing_to_drop(vision: dict[str, Any]) -> None:
    assert vlmzoo.plan(model(vision=vision)).image_tokens
    for asked in ("drop", "keep"):
        (reason,) = reasons(model(vision={**vision, "prefix": asked}))
        assert reason.startswith(f"`vision` ({vision['name']}): `prefix: {asked}`: ")
        assert reason.endswith(f"has no prefix token to {asked} (leave `prefix` out)")


def test_a_grid_that_a_shuffle_does_not_divide_is_refused() -> None:
    assert reasons(model(connector=[SHUFFLE, "connectors/linear"])) == [DIVIDE]


def test_blocks_past_the_last_layer_are_refused() -> None:
    chain = [blocks(layers=[0, 5, 9])]
    assert reasons(model(architecture="cross_attention", connector=chain)) == [PAST.format(0)]
    far = reasons(model(architecture="cross_attention", connector=[blocks(every=8, place="after")]))
    assert far == [
        "`connector.0` (connectors/cross-attention): `every` (=8) with `place: after` puts no block into a decoder of 4 layers"
    ]


def test_faults_of_several_parts_are_said_together() -> None:
    chain = [SHUFFLE, blocks(layers=[0, 5, 9])]
    assert reasons(model(architecture="cross_attention", connector=chain)) == [DIVIDE, PAST.format(1)]
    vision = {"name": "transformers/vision", "config": SIGLIP, "prefix": "drop", "layers": [-7]}
    found = reasons(model(architecture="cross_attention", vision=vision, connector=chain))
    assert (
        found[0] == "`vision` (transformers/vision): `layers` asks for block -7, but `siglip_vision_model` has 2 (use -2 to -1)"
    )
    assert found[1].endswith(DROP)
    assert found[2:] == [PAST.format(1)]  # the grid is not known then


def test_a_part_that_cannot_be_made_does_not_hide_the_blocks_behind_it() -> None:
    chain = [SHUFFLE, {"name": "connectors/adaptive-pool", "grid": [9, 9]}, blocks(layers=[0, 5, 9])]
    assert reasons(model(architecture="cross_attention", connector=chain)) == [DIVIDE, PAST.format(2)]


def test_blocks_that_stand_well_add_no_reason() -> None:
    chain = [SHUFFLE, blocks(layers=[0, 3])]
    assert reasons(model(architecture="cross_attention", connector=chain)) == [DIVIDE]
