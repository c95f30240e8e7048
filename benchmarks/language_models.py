"""The survey of language models: every decoder family of transformers, tiny and at random, through the checks of the kit.

`python benchmarks/language_models.py` runs all families and writes `results/language_models.json`, from which the page
`reference/language-models.md` is made; names on the command line run these alone and print what is found.
"""

import json
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from language_families import VARIANTS, WHY, families, not_a_decoder, tiny
from transformers import AutoConfig

import vlmzoo
from vlmzoo.model.cross_attention import CrossAttentionVLM
from vlmzoo_registry import AssemblyError, Component, EmbeddingScales, default_catalogue, measure_embedding_scales
from vlmzoo_registry.testing import language_checks
from vlmzoo_registry.testing.check import Check, CheckFunction, require
from vlmzoo_registry.testing.language_harness import LanguageHarness
from vlmzoo_transformers.causal_lm import TransformersCausalLM
from vlmzoo_transformers.config import CausalLMConfig

RESULT = Path(__file__).parent / "results" / "language_models.json"


def has_scales(component: Component) -> None:
    """What becomes of a vector that no id has, from the sequence to the first layer, can be told (`measure_embedding_scales`).

    Why: image tokens are such vectors; a connector that does not know their scale starts far from the text.

    If it fails: name decoder layers, and let `embedding` be a multiple of its table.
    """
    measure_embedding_scales(LanguageHarness(component).build())


def gates_at_zero_change_nothing(component: Component) -> None:
    """With cross-attention before every layer and gates at 0, the logits are those of the text-only model, bit for bit.

    Why: training starts from the language model as it was.

    If it fails: see `decoder_layers_run_once_in_order`.
    """
    assert component.spec.tiny is not None
    section = {
        "architecture": "cross_attention",
        "vision": {"name": "toy/vision"},
        "connector": [{"name": "connectors/cross-attention", "every": 1, "heads": 2, "head_width": 8}],
        "language": {"name": component.full_name, **component.spec.tiny},
        "template": "plain",
    }
    model = vlmzoo.build(section)
    assert isinstance(model, CrossAttentionVLM)
    batch = model.processor(text=["a red cat", "what"], images=[[_picture()], [_picture()]])
    ids, mask = batch["input_ids"], batch["attention_mask"]
    ran: list[int] = []
    for number, block in enumerate(model.blocks):
        block.register_forward_hook(lambda module, args, output, number=number: ran.append(number))
    with torch.no_grad():
        positions = model.positions(mask, None, ids, None)
        hidden = model.language.decode(model.language.embedding(ids), attention_mask=mask, position_ids=positions)
        alone = model.language.head(hidden)
        require(not ran, "the text-only model runs the blocks")
        closed = model(**batch).logits
        require(ran == list(range(len(model.blocks))), f"the blocks 0 to {len(model.blocks) - 1} ran in the order {ran}")
        require(torch.equal(closed, alone), f"with gates at 0 the logits move by {float((closed - alone).abs().max()):.2g}")
        for number, block in enumerate(model.blocks):
            for gate in (gate for gate in model.layers.gates if any(gate is own for own in block.parameters())):
                gate.fill_(0.5)
            opened = model(**batch).logits
            require(not torch.equal(opened, closed), f"the gate of block {number} opens, and the logits do not move")
            closed = opened


CHECKS: dict[str, CheckFunction] = {
    "ids": language_checks.ids_and_embeddings_agree,
    "scales": has_scales,
    "layers": language_checks.decoder_layers_run_once_in_order,
    "gates": gates_at_zero_change_nothing,
    "cache": language_checks.cache_changes_nothing,
    "padding": language_checks.padding_changes_nothing,
    "causal": language_checks.is_causal,
    "resize": language_checks.resize_keeps_old_rows,
}
"""The checks of the survey by the names of their columns."""


@dataclass(frozen=True)
class Row:
    """What was found of one family.

    `model` is the class; `layers` where its decoder layers are; `checks` has for each check "passed", or what was measured, and
    `why` says in words what is behind a failure.
    `skipped` says why a family is none that could be asked; then the rest is empty.
    """

    family: str
    model: str = ""
    layers: str = ""
    scales: EmbeddingScales | None = None
    checks: dict[str, str] | None = None
    skipped: str = ""
    why: str = ""

    @property
    def passed(self) -> bool:
        """Whether every check is."""
        return self.checks is not None and all(result == "passed" for result in self.checks.values())


def survey(family: str) -> Row:
    """Build the tiny model of a family and apply every check to it."""
    reason = not_a_decoder(family)
    if reason:
        return Row(family, skipped=reason)
    config = tiny(family)
    try:
        language = TransformersCausalLM(CausalLMConfig(config=config))
    except Exception as error:
        model = _class_of(config)
        return Row(family, model, checks={"build": f"{type(error).__name__}: {_line(error)}"}, why=WHY.get(family, ""))
    checks = {}
    for name, function in CHECKS.items():
        result = Check(_component(config), function).examine()
        checks[name] = result.status if result.status == "passed" else _line(result.reason)
    return Row(family, type(language.model).__name__, _layers(language), _scales(language), checks, why=WHY.get(family, ""))


def _component(config: dict[str, Any]) -> Component:
    """`transformers/causal-lm` as if this architecture were its tiny one."""
    base = default_catalogue().get("language_model", "transformers/causal-lm")
    spec = base.spec.model_copy(update={"tiny": {"config": config}})
    return Component(base.plugin, spec, base.distribution, base.version, base.file)


def main() -> None:
    """Survey the families named on the command line, or all of them into the result file."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    named = sys.argv[1:]
    rows = []
    for family in named or [*families(), *VARIANTS]:
        rows.append(survey(family))
        failures = {} if rows[-1].checks is None else {key: text for key, text in rows[-1].checks.items() if text != "passed"}
        print(family, rows[-1].skipped or failures or "passed", flush=True)
    print(f"{sum(row.passed for row in rows)} of {len(rows)} pass, {sum(bool(row.skipped) for row in rows)} are no decoders")
    if not named:
        found = {
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "checks": {name: Check(_component({}), function).rule for name, function in CHECKS.items()},
            "rows": [asdict(row) for row in rows],
        }
        RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _class_of(config: dict[str, Any]) -> str:
    return _try(
        lambda: (
            transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING[type(AutoConfig.for_model(**config))].__name__
        )
    )


def _layers(language: TransformersCausalLM) -> str:
    def found() -> str:
        layers = language.decoder_layers
        name = next(name for name, module in language.model.named_modules() if module is layers[0])
        return f"{name.rpartition('.')[0]} ({len(layers)})"

    return _try(found)


def _scales(language: TransformersCausalLM) -> EmbeddingScales | None:
    try:
        return measure_embedding_scales(language)
    except AssemblyError:
        return None


def _try(ask: Callable[[], str]) -> str:
    try:
        return ask()
    except Exception:
        return ""


def _line(error: object) -> str:
    """The first line of a reason, without the path of the file that raised it."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return text.partition(" (/")[0]


def _picture() -> Any:
    from PIL import Image

    return Image.new("RGB", (40, 40), (200, 30, 90))


if __name__ == "__main__":
    main()
