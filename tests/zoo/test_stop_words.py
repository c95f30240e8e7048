"""Generation stops at the words that end an answer, where a style has no token for it, and the words are not shown."""

import torch
from small_models import picture, section
from transformers import GenerationMixin

import vlmzoo
from vlmzoo.model.vlm import VLM
from vlmzoo.say import say


class Recites(torch.nn.Module):
    """A head that says this text byte by byte and then begins again, whatever the model thinks."""

    def __init__(self, head: torch.nn.Module, ids: list[int]) -> None:
        super().__init__()
        self.head, self.ids, self.said = head, ids, 0

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = self.head(hidden)
        logits[..., self.ids[self.said % len(self.ids)]] = logits.max() + 1
        self.said += 1
        return logits


def reciting(template: str, text: str) -> VLM:
    model = vlmzoo.build({**section(), "template": template})
    head = Recites(model.language.head, model.processor.tokenizer(text, add_special_tokens=False)["input_ids"])
    model.language.__class__ = type("Reciting", (type(model.language),), {"head": property(lambda self: head)})
    return model


def said(model: VLM, words: str = "What?") -> tuple[int, list[str]]:
    batch = model.processor(text=words, images=[picture(1)])
    ids = model.generate(**batch, max_new_tokens=40, do_sample=False)
    length = batch["input_ids"].shape[1]
    return ids.shape[1] - length, model.processor.decode(ids, prompt_length=length)


def test_an_answer_ends_with_the_words_of_the_style() -> None:
    text = " a ### bird\n###"
    assert said(reciting("v0", text + " Human: Sure?")) == (len(text), ["a ### bird"])
    assert said(reciting("v0_plain", "a bird\na house")) == (len("a bird\n"), ["a bird"])
    # What no style ends with goes on, and is shown.
    length, (answer,) = said(reciting("vicuna_v1", text))
    assert length == 40 and answer.startswith("a ### bird\n### a ###")


def test_a_loaded_model_stops_there_too(tmp_path) -> None:
    model = vlmzoo.build({**section(), "template": "v0"})
    model.save_pretrained(tmp_path / "checkpoint")
    loaded = vlmzoo.load(tmp_path / "checkpoint")
    text = " a bird\n###"
    head = Recites(loaded.language.head, loaded.processor.tokenizer(text, add_special_tokens=False)["input_ids"])
    loaded.language.__class__ = type("Reciting", (type(loaded.language),), {"head": property(lambda self: head)})
    assert said(loaded) == (len(text), ["a bird"])
    head.said = 0
    assert say(loaded, loaded.processor(text="What?", images=[picture(1)]), 40) == ["a bird"]


def test_the_caller_may_name_others() -> None:
    model = reciting("v0", " a bird. a house\n###")
    batch = model.processor(text="What?", images=[picture(1)])
    ids = model.generate(**batch, max_new_tokens=40, do_sample=False, stop_strings=["."])
    assert model.processor.decode(ids, prompt_length=batch["input_ids"].shape[1]) == ["a bird."]


def test_without_them_it_would_go_on(monkeypatch) -> None:
    monkeypatch.setattr(VLM, "generate", GenerationMixin.generate)
    assert said(reciting("v0", " a bird\n###"))[0] == 40
