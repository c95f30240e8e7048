"""Published classes of transformers taken apart into zoo parts: how far logits, gradients and generated ids are from theirs.

Every model is tiny and at random; the figures say whether the arithmetic is the same, and do not depend on the weights.
"""

import argparse
import inspect
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from torch import Tensor
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    CLIPVisionConfig,
    Gemma2Config,
    GemmaConfig,
    GPTNeoXConfig,
    Idefics2Config,
    Idefics2ForConditionalGeneration,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaForConditionalGeneration,
    LlavaNextForConditionalGeneration,
    MistralConfig,
    MllamaConfig,
    MllamaForConditionalGeneration,
    OPTConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    SiglipVisionConfig,
)
from transformers.models.idefics2.configuration_idefics2 import Idefics2PerceiverConfig, Idefics2VisionConfig
from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig
from transformers.models.mllama.configuration_mllama import MllamaTextConfig, MllamaVisionConfig

from vlmzoo import from_transformers
from vlmzoo.exchange.classes import exchange_of
from vlmzoo.exchange.trial import trial_batch
from vlmzoo.model.vlm import VLM

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "parity.json"
README, PROJECT = HERE / "README.md", HERE.parent / "README.md"
BEGIN, END = "<!-- parity: written by benchmarks/parity.py -->", "<!-- parity: end -->"

IMAGE = 299
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GENERATED = 8


@dataclass(frozen=True)
class Case:
    """One published model: its class, what is special about it, and how it is made.

    `images` are those of each row of the batch, `side` is where shorter rows are padded, `words_first` whether they begin with
    words. `first_position` is the number that the class gives to the first position; None: it takes no positions.
    `prefix`: all up to the last image is read in both directions.
    """

    name: str
    what: str
    make: Callable[[], PreTrainedModel]
    images: tuple[int, ...] = (1, 2)
    side: Literal["left", "right"] = "left"
    first_position: int | None = 0
    words_first: bool = True
    prefix: bool = False


@dataclass(frozen=True)
class Result:
    """Largest differences; `gradients` counts the tensors whose gradients were compared, `ids` those that were generated."""

    name: str
    what: str
    logits: float
    loss: float
    gradient: float
    gradients: int
    ids: int
    same_ids: bool


@torch.no_grad()
def shaken(model: PreTrainedModel) -> PreTrainedModel:
    """Weights far from their start: gates open, norms uneven, nothing small enough for an error to hide in."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.copy_(0.08 * noise if parameter.ndim > 1 else parameter + 0.5 * noise)
    return model.eval()


def llava(
    layers: int | list[int],
    strategy: str,
    tower: Any = CLIPVisionConfig,
    text: PreTrainedConfig | None = None,
    model: Any = LlavaForConditionalGeneration,
    **options: Any,
) -> Callable[[], PreTrainedModel]:
    """A LLaVA, or one of its kind."""
    return lambda: shaken(
        model(
            model.config_class(
                vision_config=tower(**TOWER),
                text_config=LlamaConfig(**TEXT) if text is None else text,
                image_token_index=IMAGE,
                vision_feature_layer=layers,
                vision_feature_select_strategy=strategy,
                **options,
            )
        )
    )


def internvl(layer: int = -1, **tower: Any) -> Callable[[], PreTrainedModel]:
    """An InternVL."""
    sides = {"image_size": [32, 32], "patch_size": [8, 8]}
    return lambda: shaken(
        InternVLForConditionalGeneration(
            InternVLConfig(
                vision_config=InternVLVisionConfig(**{**TOWER, **sides, **tower}),
                text_config=Qwen2Config(**TEXT),
                image_token_id=IMAGE,
                vision_feature_layer=layer,
                tie_word_embeddings=False,
            )
        )
    )


def idefics3(text: PreTrainedConfig) -> Callable[[], PreTrainedModel]:
    """An Idefics3."""
    return lambda: shaken(
        Idefics3ForConditionalGeneration(
            Idefics3Config(vision_config=Idefics3VisionConfig(**TOWER), text_config=text, image_token_id=IMAGE, scale_factor=2)
        )
    )


def idefics2() -> PreTrainedModel:
    """An Idefics2, whose keys and values are shared by two heads each."""
    perceiver = {
        "hidden_size": 48,
        "resampler_n_latents": 5,
        "resampler_depth": 2,
        "resampler_n_heads": 4,
        "resampler_head_dim": 8,
        "num_key_value_heads": 2,
    }
    return shaken(
        Idefics2ForConditionalGeneration(
            Idefics2Config(
                vision_config=Idefics2VisionConfig(**TOWER),
                perceiver_config=Idefics2PerceiverConfig(**perceiver),
                text_config=MistralConfig(**TEXT),
                image_token_id=IMAGE,
            )
        )
    )


def blip2() -> PreTrainedModel:
    """A BLIP-2 with OPT."""
    former = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 40, "vocab_size": 50}
    text = {"hidden_size": 48, "word_embed_proj_dim": 48, "ffn_dim": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
    return shaken(
        Blip2ForConditionalGeneration(
            Blip2Config(
                vision_config=Blip2VisionConfig(**TOWER),
                qformer_config=Blip2QFormerConfig(**former),
                text_config=OPTConfig(**text, vocab_size=300, pad_token_id=1, bos_token_id=2, eos_token_id=2),
                num_query_tokens=6,
                image_token_index=IMAGE,
            )
        )
    )


def paligemma(text: Any, **options: Any) -> Callable[[], PreTrainedModel]:
    """A PaliGemma; its embedding is tied to the head, as Gemma's is."""
    return lambda: shaken(
        PaliGemmaForConditionalGeneration(
            PaliGemmaConfig(
                vision_config=SiglipVisionConfig(**TOWER, vision_use_head=False),
                text_config=text(**TEXT, head_dim=12, **options),
                image_token_index=IMAGE,
                projection_dim=48,
                hidden_size=48,
            )
        )
    )


def mllama(cross: list[int], tiles: int, ratios: list[list[int]]) -> Callable[[], PreTrainedModel]:
    """A Llama 3.2 Vision; its embedding has eight rows more than its head, the first for the image."""
    tower = {key: value for key, value in TOWER.items() if key != "num_attention_heads"}
    vision = {
        "attention_heads": 4,
        "num_global_layers": 1,
        "intermediate_layers_indices": [0, 2],
        "vision_output_dim": 96,
        "max_num_tiles": tiles,
        "supported_aspect_ratios": ratios,
    }
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    return lambda: shaken(
        MllamaForConditionalGeneration(
            MllamaConfig(
                vision_config=MllamaVisionConfig(**tower, **vision),
                text_config=MllamaTextConfig(
                    **{**TEXT, "num_hidden_layers": 5}, rope_parameters=rope, cross_attention_layers=cross
                ),
                image_token_index=300,
            )
        )
    )


FOUR_TILES = [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]]
GRIDS = {"image_grid_pinpoints": [[32, 64], [64, 32], [64, 64]]}

# Up to 5.22 the class leaves Gemma 2's soft cap of the logits out, and `from_transformers` refuses such a model.
CAPPED = "softcapping" in inspect.getsource(PaliGemmaForConditionalGeneration.forward)
GEMMA2 = [
    Case("PaliGemma", "Gemma 2", paligemma(Gemma2Config, sliding_window=8), first_position=1, prefix=True, side="right"),
] * CAPPED

CASES = (
    Case("Llava", "CLIP, layer -2, class token cut", llava(-2, "default")),
    Case("Llava", "CLIP, layers -2 and -3", llava([-2, -3], "default"), side="right"),
    Case("Llava", "CLIP, last layer, class token kept", llava(-1, "full"), images=(1, 1)),
    Case("Llava", "SigLIP, last layer", llava(-1, "full", SiglipVisionConfig), images=(0, 3)),
    Case("Llava", "CLIP, Qwen2 with tied embeddings", llava(-2, "default", text=Qwen2Config(**TEXT, tie_word_embeddings=True))),
    Case(
        "Llava",
        "CLIP, GPT-NeoX",
        llava(-2, "default", text=GPTNeoXConfig(**{key: value for key, value in TEXT.items() if "key_value" not in key})),
    ),
    Case("LlavaNext", "CLIP, 1 x 2 tiles", llava(-2, "default", model=LlavaNextForConditionalGeneration, **GRIDS)),
    Case(
        "LlavaNext",
        "SigLIP, two layers",
        llava([-1, -2], "full", SiglipVisionConfig, model=LlavaNextForConditionalGeneration, **GRIDS),
        side="right",
    ),
    Case("InternVL", "last layer", internvl()),
    Case(
        "InternVL", "norm behind the last layer, RMSNorm in the tower", internvl(use_mean_pooling=False, norm_type="rms_norm")
    ),
    Case("InternVL", "layer -2", internvl(-2), images=(3, 0), side="right"),
    Case("Idefics3", "Llama", idefics3(LlamaConfig(**TEXT))),
    Case("Idefics3", "Llama with tied embeddings", idefics3(LlamaConfig(**TEXT, tie_word_embeddings=True)), side="right"),
    Case("Idefics2", "Mistral", idefics2),
    Case("Blip2", "OPT", blip2, first_position=None),
    Case("PaliGemma", "Gemma", paligemma(GemmaConfig), first_position=1, prefix=True),
    *GEMMA2,
    Case("Mllama", "one tile, words before the image", mllama([1, 3], 1, [[1, 1]]), images=(1, 1)),
    Case("Mllama", "1 x 2 tiles, words before the image", mllama([1, 3], 2, [[1, 1], [1, 2], [2, 1]]), images=(1, 1)),
    Case("Mllama", "2 x 2 tiles, several images", mllama([1], 4, FOUR_TILES), words_first=False),
    Case("Mllama", "one tile, several images", mllama([1, 3], 1, [[1, 1]]), words_first=False, side="right"),
)


def measure(case: Case) -> Result:
    """Both models on the same batch: logits at every real position, the loss, every gradient, and greedy ids."""
    published = case.make()
    zoo = from_transformers(published)
    exchange = exchange_of(published)
    batch = trial_batch(zoo, case.images, side=case.side, words_first=case.words_first)
    if case.prefix:
        last = (batch["input_ids"] == zoo.config.image_token_id).long().flip(1).cumsum(1).flip(1) > 0
        batch["prefix_mask"] = last & batch["attention_mask"].bool()
    labels = batch["input_ids"].masked_fill(batch["input_ids"] == zoo.config.image_token_id, -100)
    # At padding, and so at what would be learnt from it, both may give what they like.
    labels = labels.masked_fill(batch["attention_mask"].cumsum(1) <= 1, -100).masked_fill(batch["attention_mask"] == 0, -100)
    inputs = exchange.inputs(batch, published.config)
    if case.first_position is not None:
        # Counted from the mask, as generation does it; some classes count padding too where they are not told.
        inputs["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0) + case.first_position
    theirs = published(**inputs, labels=labels, use_cache=False)
    own = zoo(**batch, labels=labels, logits_to_keep=0)
    theirs.loss.backward()
    own.loss.backward()
    real = batch["attention_mask"].bool()
    vocabulary = theirs.logits.shape[-1]
    gradients = gradient_differences(published, zoo, exchange.names(published.config).to_zoo)
    padded = trial_batch(zoo, case.images, side="left", words_first=case.words_first)
    return Result(
        name=case.name,
        what=case.what,
        logits=(own.logits[..., :vocabulary] - theirs.logits)[real].abs().max().item(),
        loss=(own.loss - theirs.loss).abs().item(),
        gradient=max(gradients),
        gradients=len(gradients),
        ids=len(case.images) * GENERATED,
        same_ids=torch.equal(greedy(zoo, padded), greedy(published, exchange.inputs(padded, published.config))),
    )


def gradient_differences(published: PreTrainedModel, zoo: VLM, rename: Callable[[str], str | None]) -> list[float]:
    """The largest difference of each gradient, relative to the largest of all; a gradient on one side alone is infinite."""
    own = dict(zoo.named_parameters())
    pairs = [(parameter.grad, own[str(rename(name))].grad) for name, parameter in published.named_parameters()]
    largest = max(gradient.abs().max().item() for gradient, _ in pairs if gradient is not None)
    differences = []
    for theirs, mine in pairs:
        if theirs is None or mine is None:
            # A tensor that no output depends on: without a gradient on one side, with one of zeros on the other.
            left = theirs if mine is None else mine
            if left is not None and left.abs().max() > 0:
                differences.append(float("inf"))
            continue
        differences.append((theirs - mine).abs().max().item() / largest)
    return differences


def greedy(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """The ids that a model continues with, one at a time with its cache."""
    with torch.inference_mode():
        ids = model.generate(
            **inputs, max_new_tokens=GENERATED, min_new_tokens=GENERATED, do_sample=False, pad_token_id=0, suppress_tokens=None
        )
    return ids[:, -GENERATED:]


def table(results: list[Result]) -> str:
    """One row for each model."""
    lines = [
        "| class | model | logits | loss | gradients | generated ids |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    for one in results:
        ids = f"the same ({one.ids})" if one.same_ids else f"**others** ({one.ids})"
        lines.append(
            f"| {one.name} | {one.what} | {_figure(one.logits)} | {_figure(one.loss)} | {_figure(one.gradient)} "
            f"of {one.gradients} tensors | {ids} |"
        )
    return "\n".join(lines)


def by_class(results: list[Result]) -> str:
    """One row for each class: the largest differences of its models."""
    lines = [
        "| class | models compared | logits | loss | every gradient | greedy ids |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    for name in dict.fromkeys(one.name for one in results):
        own = [one for one in results if one.name == name]
        logits, loss, gradient = (max(getattr(one, field) for one in own) for field in ("logits", "loss", "gradient"))
        ids = "the same" if all(one.same_ids for one in own) else "**others**"
        models = "; ".join(one.what for one in own)
        lines.append(f"| {name} | {models} | {_figure(logits)} | {_figure(loss)} | {_figure(gradient)} | {ids} |")
    return "\n".join(lines)


def _figure(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}"


def main() -> None:
    """Print the table; with `--write`, write the results and the tables of both READMEs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write results/parity.json and the tables")
    write = parser.parse_args().write
    torch.set_num_threads(1)
    results = [measure(case) for case in CASES]
    print(table(results))
    if write:
        report = {"transformers": transformers.__version__, "cases": [asdict(result) for result in results]}
        RESULTS.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        for file, text in ((README, table(results)), (PROJECT, by_class(results))):
            before, _, rest = file.read_text(encoding="utf-8").partition(BEGIN)
            _, _, after = rest.partition(END)
            file.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
