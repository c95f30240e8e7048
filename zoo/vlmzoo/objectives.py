"""Whether a language model can be trained with an objective: asked before any weight is loaded."""

from vlmzoo_registry import LanguageModel, Objective

_NEEDED = {
    "full_prefix": "predict tokens that all others are seen from",
    "segment_ids": "tell a first text from a second (`segment_ids`)",
    "span_positions": "be told where in a span a token stands (`span_positions`)",
    "sentence_labels": "say whether a text follows another (`sentence_head`)",
}


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
