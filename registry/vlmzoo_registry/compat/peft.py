"""What vlmzoo needs of peft beyond the names that `peft` itself exports; holds for 0.18 to 0.21."""

from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer

__all__ = ["BaseTunerLayer", "LoraLayer"]
# `BaseTunerLayer`: the base of every layer that peft puts in the place of another; since 0.5. Stays.
# `LoraLayer`: the one that LoRA puts there, with `lora_A`, `lora_B` and `get_base_layer()`; since 0.2. Stays.
