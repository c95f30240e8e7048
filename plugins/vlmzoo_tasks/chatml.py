"""ChatML without anything between its turns, as LLaVA-1.6 34B was trained on it (`chatml_direct` in LLaVA's code)."""

from vlmzoo_tasks.config import ChatmlDirectConfig
from vlmzoo_tasks.style import Answer, Around, ChatStyle, StyledTemplate

CHATML_DIRECT = ChatStyle(
    name="chatml_direct",
    system=Around("<|im_start|>system\n", "<|im_end|>"),
    user=Around("<|im_start|>user\n", "<|im_end|>"),
    assistant=Answer("<|im_start|>assistant\n", lead="", stop="<|im_end|>", after=""),
    control=("<|im_start|>", "<|im_end|>"),
)


def chatml_direct(config: ChatmlDirectConfig) -> StyledTemplate:
    """The template; a tokenizer without both tokens is refused when it is bound."""
    return StyledTemplate(CHATML_DIRECT, config.system)
