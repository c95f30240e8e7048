"""The chat styles of the LLaVA family and of the language models it is built on, as a table of data and their factories.

Each writes what its models were trained on; where the published code asks otherwise than it trains, the factory says so.
"""

from dataclasses import replace

from vlmzoo_tasks.config import (
    AnswerConfig,
    HumanConfig,
    Llama2Config,
    LlavaLlama2Config,
    MmtagConfig,
    MptConfig,
    QwenConfig,
    SystemConfig,
    VicunaConfig,
)
from vlmzoo_tasks.style import Answer, Around, ChatStyle, StyledTemplate

IMAGE_TAGS = Around("<Image>", "</Image>")

V0 = ChatStyle(
    name="v0",
    system=Around("", "\n\n"),
    start="###",
    user=Around(" Human: ", "\n"),
    assistant=Answer("### Assistant:", lead=" ", stop_words="\n###"),
    marks=("\n###",),
)
VICUNA_V1 = ChatStyle(
    name="vicuna_v1",
    system=Around("", " "),
    user=Around("USER: ", " "),
    assistant=Answer("ASSISTANT:", lead=" "),
)
LLAMA_2 = ChatStyle(
    name="llama_2",
    system=Around("<<SYS>>\n", "\n<</SYS>>\n\n"),
    system_in_user=True,
    opening=None,
    user=Around("[INST] ", " [/INST]"),
    assistant=Answer("", lead=" ", tail=" "),
    marks=("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),
)
CHATML_DIRECT = ChatStyle(
    name="chatml_direct",
    system=Around("<|im_start|>system\n", "<|im_end|>"),
    user=Around("<|im_start|>user\n", "<|im_end|>"),
    assistant=Answer("<|im_start|>assistant\n", stop="<|im_end|>"),
    control=("<|im_start|>", "<|im_end|>"),
)
QWEN = ChatStyle(
    name="qwen",
    system=Around("<|im_start|>system\n", "<|im_end|>\n"),
    user=Around("<|im_start|>user\n", "<|im_end|>\n"),
    assistant=Answer("<|im_start|>assistant\n", stop="<|im_end|>", after="\n"),
    control=("<|im_start|>", "<|im_end|>"),
)
LLAMA_3 = ChatStyle(
    name="llama_3",
    system=Around("<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"),
    user=Around("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),
    assistant=Answer("<|start_header_id|>assistant<|end_header_id|>\n\n", stop="<|eot_id|>"),
    control=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
)
GEMMA = ChatStyle(
    name="gemma",
    system=Around("", "\n\n"),
    system_in_user=True,
    user=Around("<start_of_turn>user\n", "<end_of_turn>\n"),
    assistant=Answer("<start_of_turn>model\n", stop="<end_of_turn>", after="\n"),
    control=("<start_of_turn>", "<end_of_turn>"),
)
PHI_3 = ChatStyle(
    name="phi_3",
    system=Around("<|system|>\n", "<|end|>\n"),
    user=Around("<|user|>\n", "<|end|>\n"),
    assistant=Answer("<|assistant|>\n", stop="<|end|>", after="\n"),
    control=("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
)


def v0(config: HumanConfig) -> StyledTemplate:
    """Vicuna 0's and the first LLaVA's, `### Human:` and `### Assistant:`, as LLaVA's `preprocess` trains it.

    A line break and `###` end an answer: words, no token. LLaVA's `get_prompt` asks without the line breaks and spaces between
    turns, and shows an exchange about energy first where its name is `default` or `v0`; neither was trained. LLaVA learns the
    words `### Assistant:` too; here they belong to the prompt.
    """
    return StyledTemplate(V0, config.system)


def default(config: HumanConfig) -> StyledTemplate:
    """`v0` by LLaVA's other name for it."""
    return StyledTemplate(replace(V0, name="default"), config.system)


def llava_v0(config: HumanConfig) -> StyledTemplate:
    """`v0` by the name under which LLaVA asks without the example; the training is the same."""
    return StyledTemplate(replace(V0, name="llava_v0"), config.system)


def v0_mmtag(config: MmtagConfig) -> StyledTemplate:
    """`v0` with tags around images, where they stand in what the user says, as LLaVA trains it.

    LLaVA's `get_prompt` gives the image an exchange of its own, answered with `Received.`; this was not trained.
    """
    return StyledTemplate(replace(V0, name="v0_mmtag", image=IMAGE_TAGS), config.system)


def vicuna_v1(config: VicunaConfig) -> StyledTemplate:
    """Vicuna 1.1's and 1.5's, and LLaVA-1.5's; answers end with the tokenizer's own end token, which is `</s>` for Vicuna."""
    return StyledTemplate(VICUNA_V1, config.system)


def v1(config: VicunaConfig) -> StyledTemplate:
    """`vicuna_v1` by LLaVA's shorter name for it."""
    return StyledTemplate(replace(VICUNA_V1, name="v1"), config.system)


def llava_v1(config: HumanConfig) -> StyledTemplate:
    """`vicuna_v1` with the system's words of `v0`."""
    return StyledTemplate(replace(VICUNA_V1, name="llava_v1"), config.system)


def v1_mmtag(config: MmtagConfig) -> StyledTemplate:
    """`vicuna_v1` with tags around images, where they stand in what the user says; see `v0_mmtag`."""
    return StyledTemplate(replace(VICUNA_V1, name="v1_mmtag", image=IMAGE_TAGS), config.system)


def llama_2(config: Llama2Config) -> StyledTemplate:
    """Llama 2's (arXiv:2307.09288): each exchange is a text of its own, from the begin token to the end token.

    LLaVA's `get_prompt` takes the first begin token off again and leaves it to the tokenizer; here it is written, so that it
    stands there once whatever the tokenizer adds.
    """
    return StyledTemplate(LLAMA_2, config.system)


def llava_llama_2(config: LlavaLlama2Config) -> StyledTemplate:
    """`llama_2` with other words of the system, about images."""
    return StyledTemplate(replace(LLAMA_2, name="llava_llama_2"), config.system)


def mistral_instruct(config: SystemConfig) -> StyledTemplate:
    """LLaVA-1.6 Mistral's: `llama_2` with one begin token before all exchanges, the tokenizer's, and no system.

    Mistral's own template puts no space between an answer and its end token; LLaVA's has one.
    """
    return StyledTemplate(replace(LLAMA_2, name="mistral_instruct", opening=""), config.system)


def chatml_direct(config: AnswerConfig) -> StyledTemplate:
    """ChatML without line breaks between its turns, LLaVA-1.6 34B's; a tokenizer without both tokens is refused when bound."""
    return StyledTemplate(CHATML_DIRECT, config.system)


def mistral_direct(config: AnswerConfig) -> StyledTemplate:
    """`chatml_direct` by LLaVA's other name for it."""
    return StyledTemplate(replace(CHATML_DIRECT, name="mistral_direct"), config.system)


def mpt(config: MptConfig) -> StyledTemplate:
    """LLaVA-MPT's: `chatml_direct` with other words of the system. MPT's own has line breaks between turns; LLaVA has none."""
    return StyledTemplate(replace(CHATML_DIRECT, name="mpt"), config.system)


def qwen(config: QwenConfig) -> StyledTemplate:
    """Qwen's ChatML, line breaks between its turns, with the system's words of Qwen 1.5 and 2."""
    return StyledTemplate(QWEN, config.system)


def llama_3(config: SystemConfig) -> StyledTemplate:
    """Llama 3's (arXiv:2407.21783), without a system as in its own template; the begin token is the tokenizer's to add."""
    return StyledTemplate(LLAMA_3, config.system)


def gemma(config: SystemConfig) -> StyledTemplate:
    """Gemma's (arXiv:2403.08295), which knows no system: its words open what the user says, as in Gemma 3's own template."""
    return StyledTemplate(GEMMA, config.system)


def phi_3(config: SystemConfig) -> StyledTemplate:
    """Phi-3's (arXiv:2404.14219), without a system as in its own template."""
    return StyledTemplate(PHI_3, config.system)
