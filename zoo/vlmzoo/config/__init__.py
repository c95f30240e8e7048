"""The config language: recipes and models, read from YAML, JSON or mappings, checked as a whole.

`load_recipe` and `load_model` are what the rest of vlmzoo calls; nothing here imports torch or transformers.
"""

from vlmzoo.config.batching import BatchingConfig
from vlmzoo.config.choice import Choice, DataChoice
from vlmzoo.config.grid import BudgetConfig, EvaluateConfig, GridConfig
from vlmzoo.config.load import load_choice, load_either, load_grid, load_model, load_recipe
from vlmzoo.config.model import ModelConfig
from vlmzoo.config.recipe import Recipe
from vlmzoo.config.schema import recipe_schema
from vlmzoo.config.stage import StageConfig, TrainBias, TrainFull, TrainLast, TrainLora, TrainNorms, TrainPart

__all__ = [
    "BatchingConfig",
    "BudgetConfig",
    "Choice",
    "DataChoice",
    "EvaluateConfig",
    "GridConfig",
    "ModelConfig",
    "Recipe",
    "StageConfig",
    "TrainBias",
    "TrainFull",
    "TrainLast",
    "TrainLora",
    "TrainNorms",
    "TrainPart",
    "load_choice",
    "load_either",
    "load_grid",
    "load_model",
    "load_recipe",
    "recipe_schema",
]
