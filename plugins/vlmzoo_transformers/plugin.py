"""What this plugin provides, as data: parts that any Hugging Face transformers model can be."""

from vlmzoo_registry import ComponentSpec, hookimpl


@hookimpl
def vlmzoo_components() -> list[ComponentSpec]:
    """Vision towers and language models of transformers."""
    return [
        ComponentSpec(
            kind="vision_encoder",
            name="vision",
            factory="vlmzoo_transformers.vision:TransformersVisionEncoder",
            config="vlmzoo_transformers.config:VisionConfig",
            summary="The vision tower of a transformers model: CLIP, SigLIP, DINOv2, ViT and others of that build.",
            license="as the weights",
            requires=("transformers>=5.17",),
            tiny={
                "config": {
                    "model_type": "clip_vision_model",
                    "hidden_size": 32,
                    "intermediate_size": 64,
                    "num_hidden_layers": 3,
                    "num_attention_heads": 4,
                    "image_size": 32,
                    "patch_size": 8,
                },
                "layers": [-2],
            },
        ),
        ComponentSpec(
            kind="vision_encoder",
            name="mllama-vision",
            factory="vlmzoo_transformers.mllama_vision:MllamaVisionEncoder",
            config="vlmzoo_transformers.config:MllamaVisionConfig",
            summary="The vision tower of Llama 3.2 Vision, on one tile or a canvas of several.",
            paper="arXiv:2407.21783",
            license="as the weights",
            requires=("transformers>=5.17",),
            tiny={
                "config": {
                    "model_type": "mllama_vision_model",
                    "hidden_size": 32,
                    "intermediate_size": 64,
                    "num_hidden_layers": 3,
                    "num_global_layers": 1,
                    "attention_heads": 4,
                    "image_size": 32,
                    "patch_size": 8,
                    "intermediate_layers_indices": [0, 2],
                    "max_num_tiles": 2,
                    "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
                    "vision_output_dim": 96,
                }
            },
        ),
        ComponentSpec(
            kind="language_model",
            name="causal-lm",
            factory="vlmzoo_transformers.causal_lm:TransformersCausalLM",
            config="vlmzoo_transformers.config:CausalLMConfig",
            summary="Any causal language model of transformers, found by running it once; no code per family.",
            license="as the weights",
            requires=("transformers>=5.17",),
            tiny={
                "config": {
                    "model_type": "llama",
                    "hidden_size": 32,
                    "intermediate_size": 64,
                    "num_hidden_layers": 4,
                    "num_attention_heads": 4,
                    "num_key_value_heads": 2,
                    "vocab_size": 320,
                    "max_position_embeddings": 512,
                }
            },
        ),
        ComponentSpec(
            kind="language_model",
            name="masked-lm",
            factory="vlmzoo_transformers.masked_lm:TransformersMaskedLM",
            config="vlmzoo_transformers.config:MaskedLMConfig",
            summary="A bidirectional model of transformers (BERT, RoBERTa), for masked, prefix and infilling objectives.",
            paper="arXiv:1810.04805",
            license="as the weights",
            requires=("transformers>=5.17",),
            tiny={
                "config": {
                    "model_type": "bert",
                    "hidden_size": 32,
                    "intermediate_size": 64,
                    "num_hidden_layers": 3,
                    "num_attention_heads": 4,
                    "vocab_size": 320,
                    "max_position_embeddings": 512,
                }
            },
        ),
        ComponentSpec(
            kind="language_model",
            name="seq2seq-lm",
            factory="vlmzoo_transformers.seq2seq_lm:TransformersSeq2SeqLM",
            config="vlmzoo_transformers.config:Seq2SeqLMConfig",
            summary="An encoder-decoder model of transformers (T5, BART): the encoder reads the prompt and its images.",
            paper="arXiv:1910.10683",
            license="as the weights",
            requires=("transformers>=5.17",),
            tiny={
                "config": {
                    "model_type": "t5",
                    "d_model": 32,
                    "d_kv": 8,
                    "d_ff": 64,
                    "num_layers": 2,
                    "num_decoder_layers": 3,
                    "num_heads": 4,
                    "feed_forward_proj": "gated-gelu",
                    "vocab_size": 320,
                    "decoder_start_token_id": 0,
                }
            },
        ),
    ]
