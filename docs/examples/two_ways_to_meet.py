"""One unified and one cross-attention model from the same parts: loss, step, generation, save, load.

Run it with `python docs/examples/two_ways_to_meet.py`; it takes seconds and downloads nothing.
"""

import tempfile
from pathlib import Path

import torch
from PIL import Image, ImageDraw

import vlmzoo

HERE = Path(__file__).parent


def red_square() -> Image.Image:
    """A red square on white."""
    image = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(image).rectangle((16, 16, 48, 48), fill="red")
    return image


def main() -> None:
    """Do the same with both models."""
    for recipe in ("unified.yaml", "cross_attention.yaml"):
        torch.manual_seed(0)
        model = vlmzoo.build(HERE / recipe)

        # An image and a sentence: the prompt is the image, and the sentence is what the model should say.
        prompt = model.processor(text="", images=red_square())
        sentence = model.processor.tokenizer("a red square", return_tensors="pt")["input_ids"]
        batch = {
            **prompt,
            "input_ids": torch.cat([prompt["input_ids"], sentence], dim=1),
            "attention_mask": torch.ones(1, prompt["input_ids"].shape[1] + sentence.shape[1], dtype=torch.long),
        }
        labels = batch["input_ids"].clone()
        labels[:, : prompt["input_ids"].shape[1]] = -100  # only the sentence is supervised

        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        losses = []
        for _ in range(30):
            loss = model(**batch, labels=labels).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())

        model.eval()
        ids = model.generate(**prompt, max_new_tokens=12, do_sample=False)
        says = model.processor.decode(ids, prompt_length=prompt["input_ids"].shape[1])[0]

        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(Path(folder) / "checkpoint")
            again = vlmzoo.load(Path(folder) / "checkpoint")
        with torch.no_grad():
            equal = torch.equal(model(**batch).logits, again(**batch).logits)

        print(type(model).__name__)
        print(f"  loss        {losses[0]:.3f} -> {losses[-1]:.3f}")
        print(f"  says        {says}")
        print(f"  loaded      {'equal outputs' if equal else 'OTHER OUTPUTS'}")


if __name__ == "__main__":
    main()
