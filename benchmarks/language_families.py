"""A tiny architecture of every decoder family of transformers, made from the fields that the families share.

A field is set where the family's own config class has it; what a family needs besides stands in `BESIDES`.
"""

from typing import Any

from transformers import AutoConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

WIDTH, HEADS, LAYERS, ROWS = 32, 4, 3, 320

SHARED: dict[str, Any] = {
    # vocabulary: the bytes and three special tokens, as the byte tokenizer has them, and some more
    "vocab_size": ROWS,
    "vocab_size_per_layer_input": ROWS,
    "unpadded_vocab_size": ROWS,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    # widths
    "hidden_size": WIDTH,
    "n_embd": WIDTH,
    "d_model": WIDTH,
    "emb_dim": WIDTH,
    "embedding_size": WIDTH,
    "input_embedding_size": WIDTH,
    "output_embedding_size": WIDTH,
    "word_embed_proj_dim": WIDTH,
    "intermediate_size": 64,
    "ffn_dim": 64,
    "ffn_hidden_size": 64,
    "expert_ffn_hidden_size": 16,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "d_inner": 64,
    "dff": 64,
    "dim_ff": 64,
    "shared_intermediate_size": 16,
    "hidden_size_per_layer_input": 8,
    "laurel_rank": 8,
    "gated_norm_rank": 4,
    "router_hidden_size": 16,
    # depth
    "num_hidden_layers": LAYERS,
    "num_layers": LAYERS,
    "n_layer": LAYERS,
    "n_layers": LAYERS,
    "encoder_layers": LAYERS,
    "decoder_layers": LAYERS,
    "num_encoder_layers": LAYERS,
    "num_decoder_layers": LAYERS,
    # attention
    "num_attention_heads": HEADS,
    "n_head": HEADS,
    "n_heads": HEADS,
    "num_heads": HEADS,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
    "num_encoder_attention_heads": HEADS,
    "num_decoder_attention_heads": HEADS,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "dim_head": 8,
    "kv_channels": 8,
    "rotary_dim": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "o_lora_rank": 16,
    "o_groups": 2,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "index_head_dim": 16,
    "index_n_heads": 2,
    "index_topk": 64,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_head_dim": 8,
    "linear_num_heads": 4,
    "swa_num_attention_heads": HEADS,
    "swa_num_key_value_heads": 2,
    "swa_head_dim": 8,
    "d_rel": 4,
    "rel_extent": 64,
    # weights large enough that every position and layer is seen in the logits
    "initializer_range": 0.1,
    "init_std": 0.1,
    # shorter than the texts of the checks, so that windows are seen to slide
    "sliding_window": 6,
    "sliding_window_size": 6,
    "window_size": 6,
    # positions
    "n_positions": 128,
    "max_position_embeddings": 128,
    "max_target_positions": 128,
    "max_seq_len": 128,
    "context_length": 128,
    # experts
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_topk": 2,
    "zero_expert_num": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "num_dense_layers": 1,
    # state spaces
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_d_ssm": 64,
    "mamba_num_heads": 8,
    "mamba_head_dim": 8,
    "ssm_state_size": 8,
    "mamba_chunk_size": 8,
    "chunk_size": 8,
    "state_size": 8,
    # the decoder alone, of families that are both
    "is_decoder": True,
}
"""What the fields of the families are called, and their tiny values."""

ALL_HEADS = {"num_key_value_heads": HEADS}  # latent attention has no groups
BESIDES: dict[str, dict[str, Any]] = {
    "axk1": ALL_HEADS,
    "axk2": ALL_HEADS,
    "bailing_hybrid": ALL_HEADS | {"layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    "bamba": {"attn_layer_indices": [1]},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 10000.0} for kind in ("sliding_attention", "full_attention")
        },
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"hidden_size": WIDTH, "ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": ALL_HEADS,
    "deepseek_v3": ALL_HEADS,
    "deepseek_v32": ALL_HEADS,
    "deepseek_v4": {"num_key_value_heads": 1},
    "sarvam_mla": ALL_HEADS,
    "dots1": ALL_HEADS,
    "dots3_note_text": ALL_HEADS
    | {"shared_experts_intermediate_size": 16, "swa_num_attention_heads": HEADS, "swa_num_key_value_heads": HEADS}
    | {f"swa_{name}": 16 for name in ("q_lora_rank", "kv_lora_rank")}
    | {f"swa_{name}": 8 for name in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")}
    | {"swa_head_dim": 16},
    "gemma3n_text": {"num_hidden_layers": 5, "num_kv_shared_layers": 0},
    "gemma4_text": {"hidden_size_per_layer_input": 0},  # as in its larger models; see VARIANTS for the others
    "glm4_moe_lite": ALL_HEADS,
    "glm_moe_dsa": ALL_HEADS,
    "gpt_neo": {"attention_types": [[["global", "local", "global"], 1]]},
    "granite": {"embedding_multiplier": 12.0, "logits_scaling": 8.0},  # as published
    "granitemoehybrid": {"layer_types": ["mamba", "attention", "mamba"]},
    "hy_v4": ALL_HEADS,
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": ALL_HEADS | {"layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"]},
    "longcat_flash": ALL_HEADS,
    "mamba2": {"num_heads": 8},
    "minicpm3": ALL_HEADS,
    "qwen3_5_moe_text": {"layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    "qwen3_5_text": {"layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    "qwen4_exp_text": {
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 64,
        "indexer_compress_ratio": 1,
        "hc_lowrank": 8,
    },
    "reformer": {
        "attn_layers": ["local", "lsh", "local"],
        "axial_pos_shape": [8, 16],
        "axial_pos_embds_dim": [8, 24],
        "attention_head_size": 8,
        "num_buckets": 4,
    },
    "roc_bert": {
        "pronunciation_embed_dim": 8,
        "pronunciation_vocab_size": ROWS,
        "shape_embed_dim": 8,
        "shape_vocab_size": ROWS,
    },
    "xlm": {"causal": True},
    "xmod": {"default_language": "en_XX", "languages": ["en_XX"]},
    "youtu": ALL_HEADS,
    "zamba": {"num_hidden_layers": 6, "attn_layer_period": 3, "attn_layer_offset": 1, "n_mamba_heads": 2},
    "zamba2": {"layers_block_type": ["mamba", "hybrid", "mamba"]},
    "zaya": {"num_experts_per_tok": 1},
}
"""What a family needs besides: fields of no other family, or values that its own constraints ask for."""


VARIANTS: dict[str, dict[str, Any]] = {
    "gemma4_text with per-layer embeddings": {"model_type": "gemma4_text", "hidden_size_per_layer_input": 8},
}
"""Tiny architectures of a family besides the first, by the names of their rows."""

NO_DECODER: dict[str, str] = {
    "gemma4_assistant": "drafts for another model, from whose hidden states it reads",
    "gemma4_unified_assistant": "drafts for another model, from whose hidden states it reads",
    "git": "a vision-language model: its decoder is inside, not beside, its vision tower",
    "musicgen": "speaks audio codes",
    "musicgen_melody": "speaks audio codes",
    "moshi": "speaks audio codes beside text",
    "blt": "reads patches of bytes by a model of its own, not embeddings",
    "phi4_multimodal": "a model of images and speech with adapters for both; its text part is `phi3`",
}
"""What transformers lists as causal language models, and why no decoder can be had of it."""


_OWN_POSITIONS = (
    "the decoder half of an encoder-decoder model: it counts positions from the start of the tensor, so padding on the left "
    "moves it (`transformers/seq2seq-lm` takes the whole model)"
)
_OTHER_ENCODER = (
    "the decoder half of a model that reads images or speech: it counts positions from the start of the tensor, so padding on "
    "the left moves it"
)
_SEVERAL = (
    "reading several tokens behind a filled cache gives other logits than reading them one by one (transformers' own forward)"
)
_NO_LENGTH = "a state-space model without attention: transformers' cache then has no length, by which generation goes"
_STREAMS = (
    "several streams of hidden states, or layers that run more than once, so there is no place for cross-attention blocks"
)
WHY: dict[str, str] = {
    "bart": _OWN_POSITIONS,
    "bigbird_pegasus": _OWN_POSITIONS,
    "blenderbot": _OWN_POSITIONS,
    "blenderbot-small": _OWN_POSITIONS,
    "marian": _OWN_POSITIONS,
    "mbart": _OWN_POSITIONS,
    "mvp": _OWN_POSITIONS,
    "pegasus": _OWN_POSITIONS,
    "plbart": _OWN_POSITIONS,
    "trocr": _OTHER_ENCODER,
    "whisper": _OTHER_ENCODER,
    "falcon_mamba": _NO_LENGTH,
    "mamba": _NO_LENGTH,
    "mamba2": _NO_LENGTH,
    "gemma3n_text": "each layer has embeddings of ids of its own, which an image token does not have",
    "gemma4_text with per-layer embeddings": "each layer has embeddings of ids of its own; the model looks inserted vectors up "
    "in its table and refuses those of images",
    "cpmant": "reads ids and segments only",
    "deepseek_v4": "its first layers choose experts by id, which an image token does not have",
    "dory": "several layers run more than once, each time with a part of the cache of its own",
    "hrm_text": _STREAMS,
    "hy_v4": _STREAMS,
    "qwen4_exp_text": _STREAMS,
    "bamba": "transformers' own forward gives other logits with its cache than without",
    "jamba": _SEVERAL,
    "recurrent_gemma": _SEVERAL + "; padding on the left enters its state",
    "rwkv": "a recurrent state of its own instead of a cache; padding on the left enters it",
    "xlstm": "a recurrent state of its own instead of a cache; padding on the left enters it; its embedding cannot be "
    "exchanged",
    "minimax": "has a cache of its own class, which generation makes and a caller cannot",
    "zamba2": "its recurrence read in pieces and at once differ a little above the tolerance of 1e-5 (transformers' own)",
    "openai-gpt": "has no cache, and its layers give lists",
    "prophetnet": "predicts several tokens at once from several streams",
    "reformer": "has a cache of its own, and a bias that resizing replaces",
    "xlm": "gives its logits in tuples, and has no cache",
    "xlnet": "is no causal model: it permutes, and runs with the batch on the second axis",
    "zamba": _SEVERAL,
}
"""Why a family fails a check, in words; what is measured stands in the result file."""


def families() -> list[str]:
    """Every `model_type` that transformers lists as a causal language model."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def not_a_decoder(family: str) -> str:
    """Why an entry of that list is no decoder of text that could be taken; empty where it is one."""
    if family in NO_DECODER:
        return NO_DECODER[family]
    parts = {} if family in VARIANTS else CONFIG_MAPPING[family].sub_configs
    if "text_config" not in parts:
        return ""
    text = AutoConfig.for_model(family).text_config
    return "holds other models" if text is None else f"a model of several modalities; its text part is `{text.model_type}`"


def tiny(family: str) -> dict[str, Any]:
    """A tiny architecture of this family, as `config:` of `transformers/causal-lm`."""
    if family in VARIANTS:
        return tiny(VARIANTS[family]["model_type"]) | VARIANTS[family]
    cls = CONFIG_MAPPING[family]
    names = {name for base in cls.__mro__ for name in getattr(base, "__annotations__", {})}
    return {"model_type": family} | {key: value for key, value in SHARED.items() if key in names} | BESIDES.get(family, {})
