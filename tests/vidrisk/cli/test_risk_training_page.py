"""Tests of docs/risk-training.md: its commands lead from a table to compared reports.

Further commands lead from captions to answers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from backbones import EMBEDDED
from pages import Block, read_blocks, read_page
from trained_reporters import SCHEME, write_cases, write_photo_of
from vlms import save_language_model

REPOSITORY = Path(__file__).resolve().parents[3]
PAGE = read_page("docs/risk-training.md")
PARQUET, JSONL, CAPTIONS = read_blocks("docs/risk-training.md")
# A small language model in the place of SmolLM2, small photos, a short scheme.
SMALL = {
    "train": " --set pixel.height=64 --set pixel.width=64 --set optim.epochs=1 --set precision=fp32 --set lora.rank=2",
    "export": " --max-drop 100 --allow-drop",
    "convert": " --scheme scheme.yaml",
    "ask": " --answer-tokens 4",
}


def small(command: str, language: Path) -> str:
    verb = command.split()[2 if command.split()[1] == "data" else 1]
    further = "" if "--merged" in command else SMALL.get(verb, "")
    if verb == "export" and "--int8" in command:
        further += " --search-s 5"
    return command.replace(f"compose:{EMBEDDED}+smollm2-135m", f"compose:{EMBEDDED}+{language}") + further


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_language_model(tmp_path_factory.mktemp("language"), "LlamaForCausalLM")


@pytest.mark.page("docs/risk-training.md")
@pytest.mark.slow(minutes=2)
@pytest.mark.parametrize(("block", "out"), [(PARQUET, "out"), (JSONL, "out-jsonl")], ids=["parquet", "jsonl"])
def test_from_a_table_to_a_comparison(
    block: Block, out: str, tmp_path: Path, language: Path, run_line: Callable[..., object]
) -> None:
    write_cases(tmp_path / "photos", 24)
    (tmp_path / "photos" / "cases.csv").rename(tmp_path / "photos" / "risks.csv")
    write_photo_of(tmp_path / "photos" / "wall.png", "severe", 7)
    (tmp_path / "scheme.yaml").write_text(SCHEME, encoding="utf-8")
    for command in block.commands:
        run_line(small(command, language), tmp_path)
    written = tmp_path / out
    scores = json.loads((written / "comparison.json").read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in (written / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert scores and rows and all(row["report"]["fields"]["level"] in ("minor", "severe") for row in rows)
    assert (written / "comparison.html").is_file()


@pytest.mark.page("docs/risk-training.md")
@pytest.mark.slow(minutes=2)
def test_from_captions_to_answers(tmp_path: Path, language: Path, run_line: Callable[..., object]) -> None:
    for number in range(1, 13):
        write_photo_of(tmp_path / "pictures" / f"{number}.png", "minor" if number % 2 else "severe", number)
    (tmp_path / "captions.json").write_text(
        json.dumps(
            {
                "images": [{"id": n, "file_name": f"pictures/{n}.png"} for n in range(1, 13)],
                "annotations": [
                    {"id": n, "image_id": n, "caption": "a blue wall" if n % 2 else "a red wall"} for n in range(1, 13)
                ],
            }
        )
    )
    (tmp_path / "llava.json").write_text(
        json.dumps(
            [
                {
                    "id": str(n),
                    "image": f"pictures/{n}.png",
                    "conversations": [
                        {"from": "human", "value": "<image>\nWhich colour?"},
                        {"from": "gpt", "value": "blue" if n % 2 else "red"},
                    ],
                }
                for n in range(1, 13)
            ]
        )
    )
    for command in CAPTIONS.commands:
        run_line(small(command, language), tmp_path)
    assert (tmp_path / "merged" / "config.json").is_file()


def test_what_the_page_names_exists() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (REPOSITORY / "docs" / link).resolve().exists(), link
    assert "risk-training.md" in (REPOSITORY / "README.md").read_text(encoding="utf-8")
