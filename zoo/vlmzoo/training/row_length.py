"""How many tokens a row of a stage may have: what the stage says, within what the language model has positions for."""

from vlmzoo.config import StageConfig
from vlmzoo.data.truncation import LengthRule
from vlmzoo_registry import AssemblyError, LanguageModel

_NO_LIMIT = 1_000_000


def positions(language: LanguageModel) -> int:
    """What a language model has positions for; one without a stated limit takes any length."""
    limit = getattr(language.text_config, "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else _NO_LIMIT


def row_length(stage: StageConfig, language: LanguageModel) -> LengthRule:
    """The rule of a stage's rows. Raises `AssemblyError` where they may be longer than the model has positions for."""
    limit = positions(language)
    most = stage.max_length or limit
    if most > limit:
        raise AssemblyError(
            f"stage `{stage.name}`: `max_length` (={most}) is more than the {limit} positions that the language model has: "
            "lower it, or take a language model with more"
        )
    return LengthRule(most, cuts=stage.too_long == "cut")


def note_of_length(stage: StageConfig, rule: LengthRule, slots: int) -> list[str]:
    """What to say of a stage whose rows have no room for an image of so many slots and a word; nothing where they have."""
    if slots < rule.most:
        return []
    return [
        f"stage `{stage.name}`: an image has {slots} tokens in the text, and a row may have {rule.most} (`max_length`): no row "
        "with such an image can be learnt"
    ]
