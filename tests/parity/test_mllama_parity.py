"""Llama 3.2 Vision: the zoo's cross-attention model against `MllamaForConditionalGeneration` with the same weights."""

import pytest
import torch
from reference import copy_by_order, greedy, randomise, zoo_model
from transformers import MllamaConfig, MllamaForConditionalGeneration
from transformers.models.mllama.configuration_mllama import MllamaTextConfig, MllamaVisionConfig

from vlmzoo.model.cross_attention import CrossAttentionVLM

ROWS = 300  # of the head; the embedding has eight more, the first of which is the image token
CROSS = (1, 3)  # of the five published layers; between the three that are left, blocks stand before layers 1 and 2
BLOCK = {
    "attention_norm": "input_layernorm",
    "query": "cross_attn.q_proj",
    "key": "cross_attn.k_proj",
    "value": "cross_attn.v_proj",
    "output": "cross_attn.o_proj",
    "query_norm": "cross_attn.q_norm",
    "key_norm": "cross_attn.k_norm",
    "feedforward_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


def pair(tiles: int, masked_rows: str) -> tuple[MllamaForConditionalGeneration, CrossAttentionVLM]:
    """A random Mllama and the zoo model that should be the same."""
    ratios = [[1, 1]] if tiles == 1 else [[1, 1], [1, 2], [2, 1]]
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_global_layers": 1,
        "attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
        "intermediate_layers_indices": [0, 2],
        "max_num_tiles": tiles,
        "supported_aspect_ratios": ratios,
        "vision_output_dim": 96,
    }
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    text = {
        "vocab_size": ROWS,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "rope_parameters": rope,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    theirs = MllamaForConditionalGeneration(
        MllamaConfig(
            vision_config=MllamaVisionConfig(**vision),
            text_config=MllamaTextConfig(**text, num_hidden_layers=5, cross_attention_layers=list(CROSS)),
            image_token_index=ROWS,
        )
    ).eval()
    randomise(theirs)
    ours = zoo_model(
        {
            "architecture": "cross_attention",
            "vision": {"name": "transformers/mllama-vision", "config": {"model_type": "mllama_vision_model", **vision}},
            "connector": [
                {"name": "connectors/linear"},
                {
                    "name": "connectors/cross-attention",
                    "form": "llama",
                    "layers": [1, 2],
                    "heads": 4,
                    "key_value_heads": 2,
                    "feedforward_width": 96,
                    "masked_rows": masked_rows,
                },
            ],
            "language": {
                "name": "transformers/causal-lm",
                "config": {"model_type": "llama", "num_hidden_layers": 3, **text},
            },
        },
        ROWS,
        ROWS + 8,
    )
    assert isinstance(ours, CrossAttentionVLM)
    published = theirs.model.language_model
    llama = ours.language.model
    ours.vision.model.load_state_dict(theirs.model.vision_model.state_dict())
    copy_by_order(ours.connector[0], theirs.model.multi_modal_projector)
    for mine, other in zip(llama.model.layers, [published.layers[i] for i in range(5) if i not in CROSS], strict=True):
        mine.load_state_dict(other.state_dict())
    llama.model.norm.load_state_dict(published.norm.state_dict())
    with torch.no_grad():
        llama.get_input_embeddings().weight.copy_(published.embed_tokens.weight)
        llama.lm_head.weight[:ROWS].copy_(theirs.lm_head.weight)
    for block, index in zip(ours.layers.blocks, CROSS, strict=True):
        for mine, other in BLOCK.items():
            block.get_submodule(mine).load_state_dict(published.layers[index].get_submodule(other).state_dict())
        with torch.no_grad():
            block.attention_gate.copy_(published.layers[index].cross_attn_attn_gate)
            block.feedforward_gate.copy_(published.layers[index].cross_attn_mlp_gate)
    return theirs, ours


def inputs(ids: torch.Tensor, tiles: int, places: tuple[int, int]) -> tuple[dict, dict]:
    """One image per row at these places; the published model is told by a mask what ours reads from the placeholder."""
    ids = ids.clone()
    seen = torch.zeros(*ids.shape, 1, tiles, dtype=torch.long)
    for row, place in enumerate(places):
        ids[row, place] = ROWS
        seen[row, place:, 0, 0] = 1
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    tiled = torch.zeros(2, 1, tiles, 3, 32, 32)
    tiled[:, 0, 0] = pixels
    filled = torch.zeros(2, 1, tiles, dtype=torch.long)
    filled[..., 0] = 1
    mask = torch.ones_like(ids)
    reference = {
        "input_ids": ids,
        "pixel_values": tiled,
        "aspect_ratio_ids": torch.ones(2, 1, dtype=torch.long),
        "aspect_ratio_mask": filled,
        "cross_attention_mask": seen,
        "attention_mask": mask,
    }
    return reference, {"input_ids": ids, "pixel_values": pixels[:, None], "attention_mask": mask}


@pytest.mark.parametrize(
    ("tiles", "masked_rows", "places"),
    [(1, "zero", (0, 0)), (2, "zero", (0, 0)), (1, "hf_mllama", (0, 0)), (1, "hf_mllama", (0, 7))],
)
def test_logits_and_greedy_ids_are_those_of_mllama(
    ids: torch.Tensor, tiles: int, masked_rows: str, places: tuple[int, int]
) -> None:
    theirs, ours = pair(tiles, masked_rows)
    reference, batch = inputs(ids, tiles, places)
    with torch.no_grad():
        expected, logits = theirs(**reference).logits, ours(**batch).logits[..., :ROWS]
        text_only = ours(input_ids=ids).logits[..., :ROWS]
    assert (text_only - logits).abs().max() > 0.1  # the image counts
    assert (logits - expected).abs().max() <= 1e-5
    added = list(range(ROWS, ROWS + 8))  # rows of ours that the published head does not have
    assert torch.equal(greedy(ours, batch, suppress_tokens=added), greedy(theirs, reference))


def test_changing_an_image_moves_no_earlier_token_here_but_does_there(ids: torch.Tensor) -> None:
    """transformers' Mllama lets tokens before the image attend to it; ours does only where that is asked for."""
    moved = {}
    for masked_rows in ("zero", "hf_mllama"):
        theirs, ours = pair(1, masked_rows)
        reference, batch = inputs(ids, 1, (4, 7))
        other = torch.randn(2, 1, 3, 32, 32)
        with torch.no_grad():
            change = (ours(**batch).logits - ours(**{**batch, "pixel_values": other}).logits).abs()
            there = (theirs(**reference).logits - theirs(**{**reference, "pixel_values": other[:, :, None]}).logits).abs()
        assert change[0, 4:].max() > 1e-3 and change[1, 7:].max() > 1e-3
        moved[masked_rows] = max(change[0, :4].max().item(), change[1, :7].max().item())
        assert max(there[0, :4].max().item(), there[1, :7].max().item()) > 1e-4
    assert moved["zero"] == 0.0
    assert moved["hf_mllama"] > 1e-4
