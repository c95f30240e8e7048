"""What vlmzoo needs of timm beyond `timm`, `timm.models` and `timm.data`; holds for 1.0.22 to 1.0.31."""

from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer

__all__ = ["Eva", "VisionTransformer"]
# `Eva`, `VisionTransformer`: the two classes that take `dynamic_img_size`; `timm.models` exports functions; since 0.9. Stays.
