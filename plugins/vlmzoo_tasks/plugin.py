"""What this plugin provides: the conversation styles, objectives, data sources and metrics of the main job.

Imports nothing but `vlmzoo_registry`, so that discovery stays light.
"""

from pathlib import Path

from vlmzoo_registry import ComponentSpec, hookimpl

TINY = Path(__file__).parent / "tiny"
"""Rows and pictures of a few bytes, which the conformance kit reads."""


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
            name="vicuna_v1",
            factory="vlmzoo_tasks.vicuna:vicuna_v1",
            config="vlmzoo_tasks.config:VicunaConfig",
            summary="USER: and ASSISTANT:, each answer ended by the tokenizer's end token; LLaVA-1.5",
            paper="https://arxiv.org/abs/2310.03744",
            license="Apache-2.0",
            tiny={},
        ),
        ComponentSpec(
            kind="template",
            name="chatml_direct",
            factory="vlmzoo_tasks.chatml:chatml_direct",
            config="vlmzoo_tasks.config:ChatmlDirectConfig",
            summary="ChatML with nothing between its turns; LLaVA-1.6 34B, and tokenizers that have <|im_start|>",
            license="Apache-2.0",
            tiny={},
        ),
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
