"""Questions about images in the two files of VQA v2 (arXiv:1612.00837); OK-VQA (arXiv:1906.00067) comes in the same ones."""

from collections import Counter
from typing import Any

from vlmzoo_registry.errors import DataError
from vlmzoo_registry.tasks import IMAGE, Dataset, Sample, Turn
from vlmzoo_tasks.coco import read_tables, whole_number
from vlmzoo_tasks.config import VqaConfig
from vlmzoo_tasks.rows import BadRows, image_opener, text_field


class VqaDataset(Dataset):
    """One sample for each question, in the order of the questions.

    The answer is `multiple_choice_answer`, the one that most people gave; where a file has none (OK-VQA), it is counted out
    of `answers`, and of equally many the first counts. A file is one line, so an error names the place in it, as in
    `questions.json:questions[17]`. Raises `DataError` with every bad row; an image is looked at when it is called.
    """

    def __init__(self, config: VqaConfig) -> None:
        self.config = config
        self.rows: list[tuple[int, str, int, str, str]] = []  # number, id, image, question, answer
        bad = BadRows(config.questions)
        answers = _answers(config, bad)
        seen: set[int] = set()
        for number, row in enumerate(read_tables(config.questions, ("questions",), "VQA's format of questions")["questions"]):
            place = f"questions[{number}]"
            if not isinstance(row, dict):
                bad.add(place, "row", f"must be an object of fields (is {type(row).__name__}): correct it, or drop it")
                continue
            question = text_field(row, "question", place, bad)
            identifier: Any = row.get("question_id")
            image: Any = row.get("image_id")
            if question is not None and IMAGE in question:
                bad.add(place, "question", f"contains `{IMAGE}`, which marks an image's place: take it out, or drop the row")
            elif not whole_number(identifier):
                bad.add(place, "question_id", f"must be a whole number (is {identifier!r:.40}): correct it")
            elif not whole_number(image) or image < 0:
                bad.add(place, "image_id", f"must be a whole number from 0 on (is {image!r:.40}): correct it")
            elif identifier in seen:
                bad.add(place, "question_id", f"{identifier} is the id of an earlier question too: make it unique")
            elif identifier not in answers:
                bad.add(place, "question_id", f"{identifier} has no answer in `{config.annotations}`: add it, or drop the row")
            elif question is not None and answers[identifier] is not None:
                self.rows.append((number, str(identifier), image, question.strip(), answers[identifier]))
            if whole_number(identifier):
                seen.add(identifier)
        bad.raise_any(self)
        if not self.rows:
            raise DataError(f"`{config.questions}` has no questions: name a file that has some")

    def __len__(self) -> int:
        """How many questions there are."""
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """An image, a question about it, and the answer."""
        number, identifier, image, question, answer = self.rows[index]
        source = f"{self.config.questions}:questions[{number}]"
        file = self.config.file.format(image_id=image)
        return Sample(
            id=identifier,
            turns=(Turn("user", f"{IMAGE}\n{question}"), Turn("assistant", answer)),
            images=(image_opener(self.config.images, file, f"{source}: image_id"),),
            source=source,
        )


def _answers(config: VqaConfig, bad: BadRows) -> dict[Any, Any]:
    """The answer to each question id; None where what stands there is none, which is noted."""
    answers: dict[Any, Any] = {}
    faults = BadRows(config.annotations)
    rows = read_tables(config.annotations, ("annotations",), "VQA's format of annotations")["annotations"]
    for number, row in enumerate(rows):
        place = f"annotations[{number}]"
        if not isinstance(row, dict):
            faults.add(place, "row", f"must be an object of fields (is {type(row).__name__}): correct it, or drop it")
            continue
        identifier = row.get("question_id")
        if not whole_number(identifier):
            faults.add(place, "question_id", f"must be a whole number (is {identifier!r:.40}): correct it")
        elif identifier in answers:
            faults.add(place, "question_id", f"{identifier} is answered earlier too: keep one of the answers")
        else:
            answers[identifier] = _answer(row, place, faults)
    bad.faults += faults.faults
    return answers


def _answer(row: dict[str, Any], place: str, bad: BadRows) -> str | None:
    if "multiple_choice_answer" in row:
        field, answer = "multiple_choice_answer", text_field(row, "multiple_choice_answer", place, bad)
    else:
        given = row.get("answers")
        field, answer = "answers", None
        if not isinstance(given, list) or not given or not all(isinstance(entry, dict) for entry in given):
            bad.add(place, field, "must be a list of objects `{answer}`, or give `multiple_choice_answer`: correct it")
            return None
        found = [text_field(entry, "answer", place, bad) for entry in given]
        if None not in found:
            answer = Counter(found).most_common(1)[0][0]
    if answer is not None and IMAGE in answer:
        bad.add(place, field, f"contains `{IMAGE}`, which marks an image's place: take it out, or drop the row")
        return None
    return None if answer is None else answer.strip()
