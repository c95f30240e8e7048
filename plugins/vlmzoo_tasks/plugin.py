"""What this plugin provides: the conversation styles, objectives, data sources and metrics of the main job.

Imports nothing but `vlmzoo_registry`, so that discovery stays light.
"""

from pathlib import Path

from vlmzoo_registry import ComponentSpec, hookimpl

TINY = Path(__file__).parent / "tiny"
"""Rows and pictures of a few bytes, which the conformance kit reads."""

LLAVA, LLAVA_1_5 = "https://arxiv.org/abs/2304.08485", "https://arxiv.org/abs/2310.03744"
CHAT_STYLES = [
    ComponentSpec(
        kind="template",
        name=name,
        factory=f"vlmzoo_tasks.styles:{name}",
        config=f"vlmzoo_tasks.config:{config}",
        summary=summary,
        paper=paper,
        license="Apache-2.0",
        tiny={},
    )
    for name, config, paper, summary in (
        (
            "v0",
            "HumanConfig",
            LLAVA,
            "### Human: and ### Assistant:, an answer ends with a line break and ###; Vicuna 0, LLaVA",
        ),
        ("default", "HumanConfig", LLAVA, "The same as v0, by LLaVA's other name"),
        ("llava_v0", "HumanConfig", LLAVA, "The same as v0, by the name under which LLaVA asks"),
        ("v0_mmtag", "MmtagConfig", LLAVA, "v0 with <Image> and </Image> around each image"),
        (
            "vicuna_v1",
            "VicunaConfig",
            LLAVA_1_5,
            "USER: and ASSISTANT:, each answer ended by the tokenizer's end token; Vicuna 1.1, LLaVA-1.5",
        ),
        ("v1", "VicunaConfig", LLAVA_1_5, "The same as vicuna_v1, by LLaVA's shorter name"),
        ("llava_v1", "HumanConfig", LLAVA, "vicuna_v1 with the system's words of v0"),
        ("v1_mmtag", "MmtagConfig", LLAVA, "vicuna_v1 with <Image> and </Image> around each image"),
        (
            "llama_2",
            "Llama2Config",
            "https://arxiv.org/abs/2307.09288",
            "[INST] and [/INST], each exchange between the tokenizer's begin and end tokens; Llama 2",
        ),
        ("llava_llama_2", "LlavaLlama2Config", LLAVA, "llama_2 with LLaVA's words of the system"),
        ("mistral_instruct", "SystemConfig", None, "llama_2 with one begin token and no system; LLaVA-1.6 Mistral"),
        (
            "chatml_direct",
            "AnswerConfig",
            None,
            "ChatML with nothing between its turns; LLaVA-1.6 34B, and tokenizers that have <|im_start|>",
        ),
        ("mistral_direct", "AnswerConfig", None, "The same as chatml_direct, by LLaVA's other name"),
        ("mpt", "MptConfig", LLAVA, "chatml_direct with other words of the system; LLaVA-MPT"),
        ("qwen", "QwenConfig", "https://arxiv.org/abs/2407.10671", "ChatML with line breaks between its turns; Qwen 1.5 and 2"),
        ("llama_3", "SystemConfig", "https://arxiv.org/abs/2407.21783", "Headers and <|eot_id|>; Llama 3"),
        ("gemma", "SystemConfig", "https://arxiv.org/abs/2403.08295", "<start_of_turn> and <end_of_turn>; Gemma"),
        ("phi_3", "SystemConfig", "https://arxiv.org/abs/2404.14219", "<|user|>, <|assistant|> and <|end|>; Phi-3"),
    )
]
"""Every style that `vlmzoo_tasks.styles` describes: name, options, where it is published, in a few words."""


@hookimpl
def vlmzoo_components() -> list[ComponentSpec]:
    """Describe the tasks."""
    return [
        ComponentSpec(
            kind="template",
            name="plain",
            factory="vlmzoo_tasks.plain:PlainTemplate",
            summary="Images, the user's words if there are any, then the caption; no roles",
            paper="https://arxiv.org/abs/2304.08485",
            license="Apache-2.0",
            tiny={},
        ),
        ComponentSpec(
            kind="template",
            name="v0_plain",
            factory="vlmzoo_tasks.v0_plain:V0PlainTemplate",
            summary="LLaVA's `plain` to the letter: images, the caption and a line break; the user's words are left out",
            paper="https://arxiv.org/abs/2310.03744",
            license="Apache-2.0",
            tiny={},
        ),
        *CHAT_STYLES,
        ComponentSpec(
            kind="template",
            name="tokenizer",
            factory="vlmzoo_tasks.own_chat:OwnChatTemplate",
            config="vlmzoo_tasks.config:OwnChatConfig",
            summary="The tokenizer's own chat template, refused where answers cannot be found exactly",
            license="Apache-2.0",
            tiny={},
        ),
        ComponentSpec(
            kind="objective",
            name="caption",
            factory="vlmzoo_tasks.caption:CaptionObjective",
            summary="Predict every token of what the assistant says, and that it ends there",
            paper="https://arxiv.org/abs/2304.08485",
            license="Apache-2.0",
            tiny={},
        ),
        ComponentSpec(
            kind="objective",
            name="instruct",
            factory="vlmzoo_tasks.instruct:InstructObjective",
            summary="Predict every token of each answer, and its end; nothing of what the user says",
            paper="https://arxiv.org/abs/2304.08485",
            license="Apache-2.0",
            tiny={},
        ),
        ComponentSpec(
            kind="dataset",
            name="captions",
            factory="vlmzoo_tasks.captions:CaptionsDataset",
            config="vlmzoo_tasks.config:CaptionsConfig",
            summary="A folder of images with a caption each, in JSON lines",
            license="Apache-2.0",
            tiny={"path": str(TINY / "captions.jsonl"), "images": str(TINY)},
        ),
        ComponentSpec(
            kind="dataset",
            name="llava",
            factory="vlmzoo_tasks.llava:LlavaDataset",
            config="vlmzoo_tasks.config:LlavaConfig",
            summary="Conversations about images in LLaVA's JSON",
            paper="https://arxiv.org/abs/2304.08485",
            license="Apache-2.0",
            tiny={"path": str(TINY / "llava.json"), "images": str(TINY)},
        ),
        ComponentSpec(
            kind="dataset",
            name="coco_captions",
            factory="vlmzoo_tasks.coco_captions:CocoCaptionsDataset",
            config="vlmzoo_tasks.config:CocoCaptionsConfig",
            summary="COCO's captions, one sample for each",
            paper="https://arxiv.org/abs/1504.00325",
            license="Apache-2.0",
            tiny={"path": str(TINY / "coco.json"), "images": str(TINY), "prompts": ["Describe it.", "What is this?"]},
        ),
        ComponentSpec(
            kind="dataset",
            name="flickr30k",
            factory="vlmzoo_tasks.flickr30k:Flickr30kDataset",
            config="vlmzoo_tasks.config:Flickr30kConfig",
            summary="Flickr30k's captions, one sample for each, from its token file or the mirror's table",
            paper="https://aclanthology.org/Q14-1006",
            license="Apache-2.0",
            tiny={"path": str(TINY / "flickr30k.token"), "images": str(TINY)},
        ),
        ComponentSpec(
            kind="dataset",
            name="chat",
            factory="vlmzoo_tasks.chat:ChatDataset",
            config="vlmzoo_tasks.config:ChatConfig",
            summary="Conversations in the `messages` of Hugging Face and OpenAI, with images",
            license="Apache-2.0",
            tiny={"path": str(TINY / "chat.jsonl"), "images": str(TINY)},
        ),
        ComponentSpec(
            kind="dataset",
            name="sheet",
            factory="vlmzoo_tasks.sheet:SheetDataset",
            config="vlmzoo_tasks.config:SheetConfig",
            summary="Many small pictures in one image, with a label each",
            license="Apache-2.0",
            tiny={"sheet": str(TINY / "sheet.png"), "labels": str(TINY / "labels.jsonl"), "columns": 2, "cell": 8},
        ),
        ComponentSpec(
            kind="metric",
            name="exact",
            factory="vlmzoo_tasks.exact:ExactMetric",
            summary="Whether the answer is the true one, but for case, spaces and a final full stop",
            license="Apache-2.0",
            tiny={},
        ),
        ComponentSpec(
            kind="metric",
            name="words",
            factory="vlmzoo_tasks.words:WordsMetric",
            summary="How many words the answer shares with the true one, as F1",
            paper="https://arxiv.org/abs/1606.05250",
            license="Apache-2.0",
            tiny={},
        ),
    ]
