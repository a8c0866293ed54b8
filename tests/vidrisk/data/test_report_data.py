"""Tests of the training data of a model that writes reports.

The data are read in any encoding, with or without a split, and everything that is left out is reported.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from risk_tables import draw, write_csv, write_jsonl

from vidrisk.data.report_data import load_report_data
from vidrisk.runtimes.contract.errors import DataError, SettingsError

ASKED = [{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "一面墙，墙面有裂缝，需要维修"}]


@pytest.mark.parametrize("encoding", [None, "gb18030"])
def test_cases_in_a_jsonl_of_gb18030_are_cases(tmp_path: Path, encoding: str | None) -> None:
    rows = [
        {"id": f"{n}", "风险等级": "严重", "缺陷描述": f"{n} 号楼的墙面开裂、渗水，存在安全隐患", "建议": "立即维修"}
        for n in range(10)
    ]
    write_jsonl(tmp_path / "utf8.jsonl", rows)
    (tmp_path / "r.jsonl").write_bytes((tmp_path / "utf8.jsonl").read_text(encoding="utf-8").encode("gb18030"))
    data = load_report_data(tmp_path / "r.jsonl", encoding=encoding)
    assert len(data) == 10 and {case.level for case in data.cases.values()} == {"严重"}


def test_conversations_in_gb18030_are_told_from_cases(tmp_path: Path) -> None:
    line = json.dumps({"conversations": ASKED, "image": "a.jpg"}, ensure_ascii=False)
    (tmp_path / "r.jsonl").write_bytes(f"{line}\n".encode("gb18030"))
    with pytest.raises(DataError, match=r"is not utf-8 text.*; fix: save it as UTF-8"):
        load_report_data(tmp_path / "r.jsonl")
    with pytest.raises(SettingsError, match="an encoding for the conversations"):
        load_report_data(tmp_path / "r.jsonl", encoding="gb18030")


def test_data_are_read_without_a_split(tmp_path: Path) -> None:
    """Held-out data need no split: a small file is enough, and a split in the name of the file does not matter."""
    draw(tmp_path / "a.jpg")
    write_csv(tmp_path / "r.csv", [{"case_id": case, "path": "a.jpg", "level": "minor"} for case in "12"])
    with pytest.raises(DataError, match="to split"):
        load_report_data(tmp_path / "r.csv")
    assert [item.split for item in load_report_data(tmp_path / "r.csv", split=False).items] == [None, None]
    captions = {
        "images": [{"id": 9, "file_name": "a.jpg"}],
        "annotations": [{"id": 5, "image_id": 9, "caption": "A wall."}],
    }
    (tmp_path / "captions_val2017.json").write_text(json.dumps(captions))
    with pytest.raises(DataError, match="name the file of the training data"):
        load_report_data(tmp_path / "captions_val2017.json")
    assert [item.split for item in load_report_data(tmp_path / "captions_val2017.json", split=False).items] == ["val"]


def test_what_is_left_out_is_in_the_notes(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    rows = [{"path": "a.jpg" if n else "gone.jpg", "level": "minor", "group": f"{n}"} for n in range(4)]
    write_csv(tmp_path / "r.csv", [*rows, {"path": "", "level": "minor", "group": "5"}])
    assert load_report_data(tmp_path / "r.csv", split=False).notes == (
        "r.csv: missing photos: 1 (gone.jpg (line 2)); they are left out",
        "r.csv: rows that do not make a case: 2 "
        "(line 2: all its photos are missing, line 6: neither a photo nor a text); "
        "they are left out",
    )
    records = [
        {"image": "a.jpg", "conversations": ASKED},
        {"image": "gone.jpg", "conversations": ASKED},
        {"image": "a.jpg", "conversations": []},
    ]
    (tmp_path / "x.json").write_text(json.dumps(records))
    assert load_report_data(tmp_path / "x.json", split=False).notes == (
        "x.json: missing images: 1 (gone.jpg (x.json, record 2)); they are left out",
        "x.json: records that cannot be used: 1 (x.json, record 3: it has no turn of a user); they are left out",
    )
