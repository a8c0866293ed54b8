"""Builds the prompt of a report, the same for converted data, training and inference.

The system text depends only on the scheme and the style, so its prefix cache serves a whole folder. Text from untrusted
sources that would read as a photo marker or as a token of a chat template is broken up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

from vidrisk.data.cases import Case
from vidrisk.data.scheme import ReportField, Scheme
from vidrisk.runtimes.contract.errors import DataError

Style = Literal["json", "brackets", "bold"]
PHOTO = "<image>"
_MARKER = re.compile(r"<(image|video|audio)>|<\|")


class _Words(NamedTuple):
    """Texts of a language, with placeholders in braces."""

    system: str
    photos: str
    text: str
    forms: dict[Style, str]
    one_of: str
    most: str
    may_be_empty: str
    between: str
    of_key: str


_ZH = _Words(
    system="你是专业的建筑缺陷检查专家。请根据照片判断缺陷、风险和风险等级，并给出建议；没有照片时根据文字描述判断。\n{fields}",
    photos="以下 {count} 张照片属于同一处缺陷，请填写报告。",
    text="没有照片。缺陷的文字描述：{text}\n请填写报告。",
    forms={
        "json": "只输出一个 JSON 对象，不换行，依次包含：",
        "brackets": "每项一行，按此格式作答：",
        "bold": "每项一行，按此格式作答：",
    },
    one_of="{values}之一",
    most="不超过 {chars} 字",
    may_be_empty="，可为空",
    between="、",
    of_key="{name}（{label}）：{rule}",
)
_EN = _Words(
    system="You are an expert in building defects. Judge from the photos what the defect is, what risk it brings and "
    "how bad it is, and give advice; where there is no photo, judge from the description.\n{fields}",
    photos="Photos of one defect: {count}. Fill in the report.",
    text="There is no photo. Description of the defect: {text}\nFill in the report.",
    forms={
        "json": "Answer with one JSON object on one line, with these keys in this order:",
        "brackets": "Answer with one line per item, in this form:",
        "bold": "Answer with one line per item, in this form:",
    },
    one_of="one of {values}",
    most="up to {chars} characters",
    may_be_empty=", may be empty",
    between=", ",
    of_key="{name} ({label}): {rule}",
)
_WORDS = {"zh": _ZH, "en": _EN}


@dataclass(frozen=True)
class ReportPrompt:
    """Prompt for one report.

    Attributes:
        system: the same for all cases of a scheme.
        question: about this case, without its photos.
        photos: number of photos, which come before the question.
    """

    system: str
    question: str
    photos: int

    @property
    def user(self) -> str:
        """The user's turn with a marker for every photo, as in training data."""
        return f"{PHOTO}\n" * self.photos + self.question


def prompt_from_case(scheme: Scheme, case: Case, *, photos: int | None = None, style: Style = "json") -> ReportPrompt:
    """Build the prompt of a case with ``photos`` photos; None selects the number of photos of the case.

    Raises:
        DataError: neither a photo nor a text.
    """
    count = len(case.photos) if photos is None else photos
    if count:
        template = scheme.prompts.photos or _WORDS[scheme.language].photos
        return ReportPrompt(system_text(scheme, style), template.replace("{count}", str(count)), count)
    text = text_of_case(scheme, case)
    if not text:
        raise DataError(
            f"{case.where or case.id}: neither a photo nor a text that describes the defect",
            allowed=f"a photo, or {scheme.text_field or 'a text_field in the scheme'}",
        )
    template = scheme.prompts.text or _WORDS[scheme.language].text
    return ReportPrompt(system_text(scheme, style), template.replace("{text}", without_markers(text)), 0)


def text_of_case(scheme: Scheme, case: Case) -> str:
    """Return the text that replaces photos, or '' if there is none."""
    return case.fields.get(scheme.text_field, "") if scheme.text_field else ""


def system_text(scheme: Scheme, style: Style = "json") -> str:
    """Return the system text of a scheme: the task, the levels and the form of an answer."""
    words = _WORDS[scheme.language]
    fields = scheme.answer_fields if style == "json" else scheme.fields
    lines = [words.forms[style], *(_line(scheme, field, style) for field in fields)]
    template = scheme.prompts.system or words.system
    return template.replace("{levels}", words.between.join(scheme.level_names)).replace("{fields}", "\n".join(lines))


def format_labelled_line(label: str, value: str, style: Style) -> str:
    """Format a label and its value as a line of a style other than JSON."""
    return f"【{label}】：{value}" if style == "brackets" else f"**{label}**: {value}"


def without_markers(text: str) -> str:
    """Break up what would read as a photo marker or a chat template token: ``<image>`` becomes ``< image>``."""
    return _MARKER.sub(lambda found: f"< {found[0][1:]}", text)


def _line(scheme: Scheme, field: ReportField, style: Style) -> str:
    words = _WORDS[scheme.language]
    values = [value for value in scheme.list_allowed_values(field) if value]
    rule = (
        words.one_of.replace("{values}", words.between.join(values))
        if values
        else words.most.replace("{chars}", str(field.max_chars))
    )
    rule += "" if field.required else words.may_be_empty
    if style == "json":
        return words.of_key.replace("{name}", field.name).replace("{label}", field.label).replace("{rule}", rule)
    return format_labelled_line(field.label, f"<{rule}>", style)
