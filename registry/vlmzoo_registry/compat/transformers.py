"""What vlmzoo needs of transformers beyond its public names; holds for 5.17 to 5.24."""

import inspect
from typing import Any

from transformers import Cache, GenerationMixin

CACHE_KEYWORD = (
    "cache" if "cache" in inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters else "past_key_values"
)
"""The name of the cache in every forward, output class, mask helper and step of generation.

`past_key_values` up to 5.23; `cache` since 5.24, where generation reads and passes no other name. Can go, with
`cache_argument` and `output_cache`, when the lower bound is 5.24.
"""


def cache_argument(cache: Cache | None) -> dict[str, Any]:
    """The cache as a keyword argument of transformers' forwards, output classes and mask helpers."""
    return {CACHE_KEYWORD: cache}


def output_cache(output: Any) -> Cache | None:
    """The cache of an output of transformers, or of the inputs of a generation step."""
    return output.get(CACHE_KEYWORD)
