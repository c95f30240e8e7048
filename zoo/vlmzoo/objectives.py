"""Whether a language model can be trained with an objective: asked before any weight is loaded."""

from dataclasses import dataclass

from vlmzoo.config import StageConfig
from vlmzoo_registry import AssemblyError, LanguageModel, Objective

_NEEDED = {
    "full_prefix": "predict tokens that all others are seen from",
    "segment_ids": "tell a first text from a second (`segment_ids`)",
    "span_positions": "be told where in a span a token stands (`span_positions`)",
    "sentence_labels": "say whether a text follows another (`sentence_head`)",
}


def stage_objective(stage: StageConfig, language: LanguageModel, language_name: str) -> Objective:
    """The objective of a stage. Raises `AssemblyError` with every reason why this language model cannot be trained with it."""
    objective: Objective = stage.objective.make(Objective)
    name = stage.objective.component.full_name
    reasons = refusals(objective, language, name=name, language_name=language_name)
    if stage.loss_weights is not None and "sentence_labels" in objective.needs:
        reasons.append(f"`{name}` labels whole rows, for which there are no `loss_weights`: leave them out")
    if stage.batching.mode in ("flatten", "pack"):
        reasons += [
            f"`batching.mode: {stage.batching.mode}`: {why}" for why in _keeps_apart(objective, language, name, language_name)
        ]
    if stage.batching.max_tokens is not None and not objective.keeps_length:
        reasons.append(
            f"`{name}` makes rows of other lengths in every epoch, for which there is no `batching.max_tokens`: leave it out"
        )
    if reasons:
        raise AssemblyError(f"stage `{stage.name}` cannot train this language model", reasons)
    return objective


@dataclass(frozen=True)
class Standing:
    """How the rows of a forward stand: `flat`, one after the other, or padded; and in words, with the reason."""

    flat: bool
    said: str


def standing(stage: StageConfig, objective: Objective, language: LanguageModel, language_name: str) -> Standing:
    """How the rows of a stage stand that `stage_objective` did not refuse."""
    mode = stage.batching.mode
    if mode == "padded":
        return Standing(False, "rows are padded to the longest of their forward pass")
    if mode == "pack":
        return Standing(True, f"samples are packed into {stage.batching.max_tokens} tokens, and do not see each other")
    reasons = _keeps_apart(objective, language, stage.objective.component.full_name, language_name)
    if reasons:
        return Standing(False, f"rows are padded to the longest of their forward pass, as {' and '.join(reasons)}")
    return Standing(True, "rows stand one after the other without padding, and do not see each other")


def _keeps_apart(objective: Objective, language: LanguageModel, name: str, language_name: str) -> list[str]:
    """Every reason why rows cannot stand one after the other; none where they can."""
    reasons = []
    if "row_lengths" not in language.reads:
        reasons.append(f"`{language_name}` cannot tell rows apart that stand one after the other (`row_lengths`)")
    if "sentence_labels" in objective.needs:
        reasons.append(f"`{name}` labels whole rows")
    return reasons


def refusals(objective: Objective, language: LanguageModel, *, name: str, language_name: str) -> list[str]:
    """Every reason why they do not fit; none where they do."""
    reasons = []
    if objective.attention != "causal" and language.prefix == "none":
        reasons.append(
            f"`{name}` lets tokens see those behind them, and `{language_name}` is causal throughout: let it open its prefix "
            "(`prefix: required`), or take another objective"
        )
    elif objective.attention == "prefix" and objective.shift and language.prefix == "optional":
        reasons.append(
            f"`{name}` reads what stands before an answer in both directions, and `{language_name}` would generate from it "
            "read in one (`prefix: optional`): set `prefix: required`"
        )
    needs = set(objective.needs) | ({"full_prefix"} if objective.attention == "full" else set())
    reasons += [
        f"`{name}` needs a language model that can {_NEEDED[need]}, and `{language_name}` cannot"
        for need in sorted(needs - language.reads)
        if not (need == "full_prefix" and language.prefix == "none")
    ]
    return reasons
