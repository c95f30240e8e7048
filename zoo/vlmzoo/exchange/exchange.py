"""What the zoo knows of one published class of transformers: which parts make it, under which names, and the way back."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from vlmzoo.exchange.image_processors import transform_options
from vlmzoo.exchange.names import Names
from vlmzoo.model.vlm import VLM
from vlmzoo_registry.tasks import IMAGE


@dataclass(frozen=True)
class Pattern:
    """The components that a published class consists of: full names, the connectors in the order of the chain.

    `layout` is None where an image is seen as a whole. Where the class does not compute with it, its options are the
    processor's alone, and `section` leaves it out.
    """

    architecture: str
    vision: str
    connector: tuple[str, ...]
    language: str
    layout: str | None = None


class Exchange(ABC):
    """One published class. A `section` is a zoo `model:` section without a template."""

    published: ClassVar[type[PreTrainedModel]]
    pattern: ClassVar[Pattern]

    @property
    def reads_words_first(self) -> bool:
        """Whether what the class computes for words before the first image depends on these words alone; it should."""
        return True

    @property
    def name(self) -> str:
        """What messages call the class."""
        return self.published.__name__.removesuffix("ForConditionalGeneration")

    @abstractmethod
    def section(self, config: PreTrainedConfig) -> dict[str, Any]:
        """The zoo model that computes what the class computes with this config.

        Raises `AssemblyError` with every reason why the zoo has no such parts.
        """

    def layout(self, config: PreTrainedConfig) -> dict[str, Any] | None:
        """How images are cut where the class does not say and no processor does. Default: as `pattern` has it."""
        return None if self.pattern.layout is None else {"name": self.pattern.layout}

    def preparation(self, processor: ProcessorMixin) -> dict[str, dict[str, Any]]:
        """Options of `vision` and `layout` that make of an image what `processor` makes of it.

        Default: the encoder's transform. Raises `AssemblyError` for steps that the zoo does not have.
        """
        return {"vision": transform_options(processor.image_processor)}

    @abstractmethod
    def names(self, config: PreTrainedConfig) -> Names:
        """Where the tensors stand."""

    @abstractmethod
    def config(self, model: VLM) -> PreTrainedConfig:
        """The config of the class that comes nearest to a zoo model of its `pattern`.

        What it cannot express is not looked at here: whoever asks compares `section` of the result with the model's own.
        """

    @abstractmethod
    def inputs(self, batch: Mapping[str, Tensor], config: PreTrainedConfig) -> dict[str, Tensor]:
        """A zoo batch in the form in which the class takes it."""

    def prompt(self, text: str, image_token: str, bos_token: str | None) -> dict[str, Any]:
        """How the processor is called for a prompt in which `<image>` marks the images. Default: with its own marker there."""
        return {"text": [text.replace(IMAGE, image_token)]}

    def seen(self, inputs: Mapping[str, Tensor], config: PreTrainedConfig) -> dict[str, Tensor]:
        """What the class sees of its inputs. Default: all."""
        return dict(inputs)

    @abstractmethod
    def processor(self, model: VLM, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> ProcessorMixin:
        """The class's processor that does what the zoo model's processor does; `tokenizer` is a copy of that one's."""
