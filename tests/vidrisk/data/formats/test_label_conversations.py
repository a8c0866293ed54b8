"""Tests of LLaVA, LLaMA-Factory and ms-swift as labels: questions, answers, and numbers of classes.

They also cover answers that are not labels.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from drawn_tables import file_of
from trees import write_json

from vidrisk.data import Sample, Table
from vidrisk.data.data_sets import import_data, write_data_set
from vidrisk.data.formats import format_of
from vidrisk.data.load_instructions import load_instructions
from vidrisk.runtimes.contract.errors import DataError

FORMATS = ("llava", "llama-factory", "ms-swift")


def lines(path: Path, *records: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def asked(answer: str | None, question: str = "<image>What is it?", **more: Any) -> dict[str, Any]:
    turns = [
        {"role": "user", "content": question},
        *([] if answer is None else [{"role": "assistant", "content": answer}]),
    ]
    return {"messages": turns, "images": ["a.png"]} | more


@pytest.fixture
def table(tmp_path: Path) -> Table:
    media = tmp_path / "media"
    return Table(
        media,
        "risk",
        (
            Sample(
                file_of(media, "a.png", 0),
                "a.png",
                {"defect": ("crack", "a, b"), "level": "high"},
                split="train",
                group="g",
            ),
            Sample(file_of(media, "in/b.mp4", 1), "in/b.mp4", {"defect": ()}, split="val"),
        ),
        label_order={"defect": ("spall", "crack", "a, b")},
    )


def written(tmp_path: Path, table: Table, name: str) -> Path:
    write_data_set(table, tmp_path / "out", name=name)
    return tmp_path / "out"


def test_llava_has_a_file_for_each_split_and_a_question_for_each_target(tmp_path: Path, table: Table) -> None:
    out = written(tmp_path, table, "llava")
    assert sorted(path.name for path in out.iterdir()) == ["labels.json", "train.json", "val.json"]
    assert json.loads((out / "train.json").read_text()) == [
        {
            "id": "a.png",
            "image": "a.png",
            "conversations": [
                {
                    "from": "human",
                    "value": "<image>\nWhich defects are shown? Write the name of each on a line of its own.",
                },
                {"from": "gpt", "value": "a, b\ncrack"},
                {"from": "human", "value": "How high is the risk? Answer with the level alone."},
                {"from": "gpt", "value": "high"},
            ],
            "attributes": {"group": "g"},
        }
    ]
    (clip,) = json.loads((out / "val.json").read_text())
    assert clip["video"] == "in/b.mp4" and clip["conversations"][1]["value"] == "none of them"


def test_llama_factory_finds_columns_roles_and_as_many_markers_as_files(tmp_path: Path, table: Table) -> None:
    out = written(tmp_path, table, "llama-factory")
    info = json.loads((out / "dataset_info.json").read_text())
    assert {name: entry["file_name"] for name, entry in info.items()} == {"train": "train.json", "val": "val.json"}
    assert info["val"]["tags"] == {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
    }
    for entry in info.values():
        for record in json.loads((out / entry["file_name"]).read_text()):
            text = "".join(turn["content"] for turn in record["messages"])
            for column, marker in (("images", "<image>"), ("videos", "<video>")):
                assert text.count(marker) == len(record[entry["columns"][column]])


def test_ms_swift_numbers_classes_in_files_of_their_own_without_the_answer(tmp_path: Path, table: Table) -> None:
    out = written(tmp_path, table, "ms-swift")
    assert sorted(path.name for path in out.iterdir()) == [
        "labels.json",
        "train.jsonl",
        "train_seq_cls.jsonl",
        "val.jsonl",
        "val_seq_cls.jsonl",
    ]
    assert json.loads((out / "labels.json").read_text()) == ["spall", "crack", "a, b"]
    (numbered,) = map(json.loads, (out / "train_seq_cls.jsonl").read_text().splitlines())
    assert numbered["label"] == [2, 1] and [turn["role"] for turn in numbered["messages"]] == ["user"]
    (told,) = map(json.loads, (out / "train.jsonl").read_text().splitlines())
    assert (
        "label" not in told
        and told["images"] == ["a.png"]
        and told["messages"][0]["content"].startswith("<image>Which defects")
    )
    (clip,) = map(json.loads, (out / "val_seq_cls.jsonl").read_text().splitlines())
    assert clip["label"] == [] and clip["videos"] == ["in/b.mp4"]


@pytest.mark.parametrize("name", FORMATS)
def test_a_folder_elsewhere_is_read_with_the_folder_of_its_media(tmp_path: Path, table: Table, name: str) -> None:
    out = written(tmp_path, table, name)
    again = import_data(out, name=name, task="risk", media=table.root).table
    assert [replace(sample, name=f"media/{sample.name}") for sample in table.samples] == list(again.samples)
    assert (again.label_order, again.root) == (table.label_order, tmp_path)
    assert again == import_data(out, name=name, task="risk", media=table.root, multi_label=True).table
    with pytest.raises(DataError, match="do not exist: 2 of 2"):
        import_data(out, name=name, task="risk")


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_is_recognised_and_the_files_stay_data_for_models_that_write(
    tmp_path: Path, table: Table, name: str
) -> None:
    out = written(tmp_path, table, name)
    train = next(path for path in out.iterdir() if path.stem == "train")
    assert format_of(out) is None and format_of(train) is None
    loaded = load_instructions(train, images=table.root)
    assert len(loaded.items) == 1 and loaded.items[0].turns[1].text == "a, b\ncrack"


def test_chinese_labels_are_asked_for_in_chinese(tmp_path: Path) -> None:
    table = Table(tmp_path, "action", (Sample(file_of(tmp_path, "a.png", 0), "a.png", {"action": "跌倒"}),))
    text = (written(tmp_path, table, "ms-swift") / "data.jsonl").read_text(encoding="utf-8")
    assert "<image>画面中是什么动作？只回答名称。" in text and "跌倒" in text


@pytest.mark.parametrize("label", ["x" * 81, "two\nlines", "none of them"])
def test_a_label_that_would_be_read_as_another_is_refused(tmp_path: Path, label: str) -> None:
    table = Table(tmp_path, "action", (Sample(file_of(tmp_path, "a.png", 0), "a.png", {"action": label}),))
    with pytest.raises(DataError, match=r"a\.png has the label .*; fix: rename the class"):
        write_data_set(table, tmp_path / "out", name="llava")
    assert not (tmp_path / "out").exists()


def test_short_answers_to_any_question_are_labels_and_others_are_counted(tmp_path: Path) -> None:
    for number, name in enumerate("abcde"):
        file_of(tmp_path, f"{name}.png", number)
    path = lines(
        tmp_path / "train.jsonl",
        asked(" Crack \n"),
        asked("a long story " * 20, images=["b.png"]),
        asked("spall", images=["c.png"]),
        asked("two\nlines", images=["d.png"]),
        asked(None, images=["e.png"]),
        asked("x", images=["a.png", "b.png"]),
        asked("x", images=[]),
        {"messages": [{"role": "tool", "content": "x"}], "images": ["a.png"]},
    )
    table = import_data(path, name="ms-swift", multi_label=False).table
    assert {s.name: (s.labels["action"], s.split) for s in table.samples} == {
        "a.png": ("Crack", "train"),
        "c.png": ("spall", "train"),
    }
    assert {
        "records whose answers are not labels left out: 2",
        "records without an answer or a label left out: 1",
        "records without one clip or photo left out: 2",
        "records that cannot be used left out: 1",
    } <= set(table.notes)
    assert {s.name: s.labels["action"] for s in import_data(path, name="ms-swift").table.samples}["d.png"] == (
        "lines",
        "two",
    )


def test_several_questions_of_others_are_not_guessed(tmp_path: Path) -> None:
    file_of(tmp_path, "a.png", 0)
    turns = [
        {"from": who, "value": text}
        for who, text in (("human", "<image>\nWhat?"), ("gpt", "crack"), ("human", "Where?"), ("gpt", "left"))
    ]
    write_json(tmp_path / "x.json", [{"id": 1, "image": "a.png", "conversations": turns}])
    with pytest.raises(DataError, match="has no labelled file"):
        import_data(tmp_path / "x.json", name="llava")


def test_numbers_get_their_names_and_truth_values_are_no_numbers(tmp_path: Path) -> None:
    for number, name in enumerate("abcd"):
        file_of(tmp_path, f"{name}.png", number)
    path = lines(
        tmp_path / "cls.jsonl",
        asked(None, label=1),
        asked(None, label=0, images=["b.png"]),
        asked(None, label=True, images=["c.png"]),
        asked(None, label=0.5, images=["d.png"]),
    )
    assert {s.labels["action"] for s in import_data(path, name="ms-swift").table.samples} == {"0", "1"}
    (tmp_path / "names.txt").write_text("zebra\nant\n")
    table = import_data(path, name="ms-swift", labels=tmp_path / "names.txt").table
    assert [s.labels["action"] for s in table.samples] == ["ant", "zebra"] and table.label_order == {
        "action": ("zebra", "ant")
    }
    assert "records whose answers are not labels left out: 2" in table.notes
    write_json(tmp_path / "labels.json", ["zebra"])
    with pytest.raises(DataError, match=r"cls\.jsonl, line 1: the class 1 is not in labels\.json"):
        import_data(path, name="ms-swift")


def test_an_answer_that_contradicts_its_number_is_one_line_and_agreement_is_an_order(tmp_path: Path) -> None:
    for number, name in enumerate("ab"):
        file_of(tmp_path, f"{name}.png", number)
    path = lines(tmp_path / "x.jsonl", asked("zebra", label=0), asked("ant", label=1, images=["b.png"]))
    assert import_data(path, name="ms-swift").table.label_order == {"action": ("zebra", "ant")}
    write_json(tmp_path / "labels.json", ["ant", "zebra"])
    with pytest.raises(DataError, match="the label 0 is ant, but the answer says zebra"):
        import_data(path, name="ms-swift")


def test_llama_factorys_own_names_of_columns_and_roles_are_read(tmp_path: Path) -> None:
    file_of(tmp_path, "v/a.mp4", 0)
    talk = [{"who": "Q", "says": "<video>What?"}, {"who": "A", "says": "run"}]
    write_json(tmp_path / "demo.json", [{"talk": talk, "clips": ["v/a.mp4"]}])
    write_json(
        tmp_path / "dataset_info.json",
        {
            "d": {
                "file_name": "demo.json",
                "formatting": "sharegpt",
                "columns": {"messages": "talk", "videos": "clips"},
                "tags": {"role_tag": "who", "content_tag": "says", "user_tag": "Q", "assistant_tag": "A"},
            }
        },
    )
    assert import_data(tmp_path / "demo.json", name="llama-factory").table.samples[0].labels == {"action": "run"}
    assert import_data(tmp_path, name="llama-factory").table.samples[0].name == "v/a.mp4"


@pytest.mark.parametrize("written_path", ["/etc/a.png", "../../a.png"])
def test_paths_never_leave_the_folder(tmp_path: Path, written_path: str) -> None:
    root = tmp_path / "one" / "two"
    file_of(tmp_path, "a.png", 0)
    path = lines(root / "x.jsonl", asked("x", images=[written_path]))
    with pytest.raises(DataError, match="do not exist: 1 of 1"):
        import_data(path, name="ms-swift")


def test_an_absolute_path_below_the_folder_counts(tmp_path: Path, photo: Callable[[Path], Path]) -> None:
    path = lines(tmp_path / "x.jsonl", asked("x", images=[str(photo(tmp_path / "in" / "a.png"))]))
    assert import_data(path, name="ms-swift").table.samples[0].name == "in/a.png"
