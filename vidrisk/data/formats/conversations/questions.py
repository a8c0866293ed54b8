"""Formats labels as questions and answers: one question per target, answered by its labels, one on each line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from vidrisk.data.table import Label, Sample
from vidrisk.data.text import label_from_text
from vidrisk.runtimes.contract.errors import DataError

Language = Literal["en", "zh"]
MAX_LABEL_CHARS = 80  # a longer answer is not a label
MAX_LABELS = 100
NONE: dict[Language, str] = {"en": "none of them", "zh": "都没有"}
QUESTIONS: dict[tuple[str, bool], dict[Language, str]] = {  # by target, and whether several labels may apply
    ("action", False): {
        "en": "Which action is shown? Answer with its name alone.",
        "zh": "画面中是什么动作？只回答名称。",
    },
    ("action", True): {
        "en": "Which actions are shown? Write the name of each on a line of its own.",
        "zh": "画面中有哪些动作？每行写一个名称。",
    },
    ("defect", False): {
        "en": "Which defect is shown? Answer with its name alone.",
        "zh": "画面中是什么缺陷？只回答名称。",
    },
    ("defect", True): {
        "en": "Which defects are shown? Write the name of each on a line of its own.",
        "zh": "画面中有哪些缺陷？每行写一个名称。",
    },
    ("level", False): {
        "en": "How high is the risk? Answer with the level alone.",
        "zh": "风险等级是多少？只回答等级。",
    },
}
_ASKED = {text: key for key, texts in QUESTIONS.items() for text in texts.values()}
_MARKERS = re.compile(r"<(?:image|video)>")


def language_of(labels: Iterable[str]) -> Language:
    """Choose the language of questions: Chinese if at least half of the labels have a Chinese character."""
    found = [any("\u4e00" <= character <= "\u9fff" for character in label) for label in labels]
    return "zh" if found and 2 * sum(found) >= len(found) else "en"


def turns_of(sample: Sample, language: Language) -> list[tuple[str, str]]:
    """Return a question and an answer for every target that a sample is labelled for.

    Raises:
        DataError: a label that would be read back as another one.
    """
    return [
        (QUESTIONS[target, not isinstance(label, str)][language], _answer(sample, target, label, language))
        for target, label in sample.labels.items()
    ]


def _answer(sample: Sample, target: str, label: Label, language: Language) -> str:
    labels = sample.labels_of(target)
    wrong = [one for one in labels if len(one) > MAX_LABEL_CHARS or len(one.splitlines()) != 1 or one in NONE.values()]
    if wrong:
        raise DataError(
            f"{sample.name} has the label {wrong[0][:40]!r}",
            fix="rename the class",
            allowed=f"one line of up to {MAX_LABEL_CHARS} characters, and not {NONE[language]!r}",
        )
    return "\n".join(labels) or NONE[language]


def parse_question(question: str) -> tuple[str, bool] | None:
    """Return the target of a question, and whether it asks for several labels, or None for any other question."""
    return _ASKED.get(_MARKERS.sub("", question).strip())


def labels_from_answer(answer: str) -> tuple[str, ...] | None:
    """Parse an answer as labels, one on each line, or return None if it is empty or too long for labels."""
    if answer.strip() in NONE.values():
        return ()
    labels = [label for line in answer.splitlines() if (label := label_from_text(line))]
    is_short = 0 < len(labels) <= MAX_LABELS and all(len(label) <= MAX_LABEL_CHARS for label in labels)
    return tuple(dict.fromkeys(labels)) if is_short else None
