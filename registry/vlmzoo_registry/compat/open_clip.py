"""What vlmzoo needs of open_clip beyond the names that `open_clip` itself exports; holds for 3.0 to 3.3."""

from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transform import PreprocessCfg, merge_preprocess_dict
from open_clip.transformer import VisionTransformer

__all__ = ["ModifiedResNet", "PreprocessCfg", "TimmModel", "VisionTransformer", "merge_preprocess_dict"]
# `ModifiedResNet`, `TimmModel`, `VisionTransformer`: the three kinds of vision tower; exported nowhere, since 2.0. Stays.
# `PreprocessCfg`, `merge_preprocess_dict`: how open_clip reads the preprocessing it records with weights; since 2.24. Stays.
