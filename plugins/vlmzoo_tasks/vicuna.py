"""The style of Vicuna 1.1 and 1.5 (`USER: ... ASSISTANT: ...</s>`), LLaVA-1.5's (`vicuna_v1` in its code)."""

from vlmzoo_tasks.config import VicunaConfig
from vlmzoo_tasks.style import Answer, Around, ChatStyle, StyledTemplate

VICUNA_V1 = ChatStyle(
    name="vicuna_v1",
    system=Around("", " "),
    user=Around("USER: ", " "),
    assistant=Answer("ASSISTANT:", lead=" ", stop=None, after=""),
)


def vicuna_v1(config: VicunaConfig) -> StyledTemplate:
    """The template; answers end with the tokenizer's own end token, which is `</s>` for Vicuna."""
    return StyledTemplate(VICUNA_V1, config.system)
