"""The published classes that can be exchanged, in the order in which an export tries them."""

from transformers import PreTrainedModel

from vlmzoo.exchange.blip2 import Blip2Exchange
from vlmzoo.exchange.exchange import Exchange
from vlmzoo.exchange.idefics2 import Idefics2Exchange
from vlmzoo.exchange.idefics3 import Idefics3Exchange
from vlmzoo.exchange.internvl import InternVLExchange
from vlmzoo.exchange.llava import LlavaExchange
from vlmzoo.exchange.llava_next import LlavaNextExchange
from vlmzoo.exchange.mllama import MllamaExchange
from vlmzoo.exchange.paligemma import PaliGemmaExchange
from vlmzoo_registry import ConfigError

EXCHANGES: tuple[Exchange, ...] = (
    LlavaExchange(),
    LlavaNextExchange(),
    PaliGemmaExchange(),
    InternVLExchange(),
    Idefics3Exchange(),
    Idefics2Exchange(),
    Blip2Exchange(),
    MllamaExchange(),
)


def exchange_of(model: PreTrainedModel) -> Exchange:
    """What the zoo knows of the class of `model`. Raises `ConfigError` where it knows nothing, with the classes it does."""
    for exchange in EXCHANGES:
        if type(model) is exchange.published:
            return exchange
    known = ", ".join(exchange.published.__name__ for exchange in EXCHANGES)
    raise ConfigError(f"`{type(model).__name__}` is none of the classes that can be taken apart: {known}")
