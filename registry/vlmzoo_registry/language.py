"""The contract of a language model: embeddings in, hidden states out, and a head that turns those into logits."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import Cache, PreTrainedConfig, PreTrainedTokenizerBase

from vlmzoo_registry.config import ComponentConfig
from vlmzoo_registry.errors import AssemblyError
from vlmzoo_registry.tasks import Reading


class LanguageModel(nn.Module, ABC):
    """Implement this to bring a language model.

    The factory of a `language_model` component is a class derived from this one, constructed as `factory(config)`: with
    pretrained weights where the config names some, at random where it describes an architecture (then also under
    `torch.device("meta")`).
    """

    @classmethod
    @abstractmethod
    def resolve(cls, config: ComponentConfig) -> ComponentConfig:
        """The same config with the architecture written out; see `VisionEncoder.resolve`."""

    @property
    @abstractmethod
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer; it must give character offsets (a fast one does)."""

    @property
    @abstractmethod
    def text_config(self) -> PreTrainedConfig:
        """What generation reads: `num_hidden_layers`, `vocab_size`, sliding windows, special token ids."""

    @property
    @abstractmethod
    def width(self) -> int:
        """The size d of a hidden state, which is that of an embedding that can be inserted."""

    @property
    @abstractmethod
    def embedding(self) -> nn.Module:
        """The module that maps ids [B, S] to the vectors [B, S, d] that image tokens stand beside."""

    @property
    @abstractmethod
    def head(self) -> nn.Module:
        """The module that maps hidden states [..., d] to logits [..., V], soft caps and scales included."""

    @property
    @abstractmethod
    def decoder_layers(self) -> Sequence[nn.Module]:
        """The layers that one forward calls once each, in order, hidden states first in and first out.

        Raises `AssemblyError` where the model has no such list; only cross-attention needs it.
        """

    @property
    def layers_see_text(self) -> bool:
        """Whether `decoder_layers` see every position of the text; False where an encoder reads some of them instead.

        Cross-attention needs it: which images a block may see goes by the position in the text.
        """
        return True

    @property
    def idle_parameters(self) -> frozenset[str]:
        """Names of parameters that train, but may go many steps without a gradient (experts that no token chose).

        Training stops where another parameter has no gradient in the first steps.
        """
        return frozenset()

    @property
    def prefix(self) -> Literal["none", "optional", "required"]:
        """Whether the leading positions of a row may see each other in both directions (a prefix LM; PaliGemma).

        "none": the model is causal throughout. "optional": `decode` takes a `prefix_mask`. "required": it always needs one: the
        model was trained so, or it reads the prefix with an encoder (T5). Where nothing else is said the prefix of a row is all
        that stands before its answer. A model with an encoder gives at the last position of the prefix what its decoder says
        first.
        """
        return "none"

    @property
    def reads(self) -> frozenset[Reading]:
        """What some objectives ask for, and `decode` takes or the model has; default: nothing of it.

        "full_prefix": the prefix may be a whole row, and the hidden states there can be predicted from (masked LM).
        "segment_ids" and "span_positions": `decode` takes Int[B, S] of that name, as `TokenRow` describes them.
        "sentence_labels": there is a `sentence_head`. "row_lengths": `decode` takes Int[R] of that name, the lengths of rows
        that stand one after the other in a single row [1, S] without padding, and no row sees another. Positions come with it,
        which begin again in each row; a `prefix_mask` then marks the leading positions of each of them.
        """
        return frozenset()

    @property
    def sentence_head(self) -> nn.Module:
        """The module that maps the hidden state of a row's first token [..., d] to two logits [..., 2]: is next, is not.

        Raises `AssemblyError` where the model has none.
        """
        raise AssemblyError(
            f"`{type(self).__name__}` has no sentence head: leave next-sentence prediction out, or use a language model that "
            "has one (`transformers/masked-lm`)"
        )

    @abstractmethod
    def resize(self, rows: int) -> None:
        """Give the embedding (and a head that is tied to it or has fewer rows) at least `rows` rows; old rows are kept."""

    @abstractmethod
    def decode(
        self,
        embeddings: Float[Tensor, "B S d"],
        *,
        attention_mask: Int[Tensor, "B T"] | None = None,
        position_ids: Int[Tensor, "B S"] | None = None,
        cache: Cache | None = None,
        prefix_mask: Bool[Tensor, "B S"] | None = None,
    ) -> Float[Tensor, "B S d"]:
        """Causal hidden states, ready for the head.

        T is S plus what the cache holds; the cache, where given, is updated in place. `prefix_mask` marks the leading positions
        of each row that see each other in both directions; it comes only to a model whose `prefix` is not "none", and only
        where the cache holds nothing yet. What `reads` names is passed by its name, and to no other model.
        """

    def reference_logits(self, ids: Int[Tensor, "B S"]) -> Float[Tensor, "B S V"] | None:
        """The logits that the model gives for ids by a way of its own; None where it has none but `decode` and `head`.

        For the conformance kit: an adapter of another library's model proves by it that embeddings mean what ids mean.
        """
        return None
