"""Tests of Something-Something V2.

They cover ids as in labels.json, templates without brackets, and rows that cannot be used for training.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import ROWS, SSV2_TEMPLATES, write_json, write_ssv2

from vidrisk.data import load_table, targets_from_table
from vidrisk.data.data_sets import import_data
from vidrisk.data.formats.something import label_from_template, label_ids, rows_from_list
from vidrisk.runtimes.contract.errors import DataError, SettingsError

OFFICIAL = "something-something-v2-{}.json"
words = st.text(st.characters(categories=("L", "N")), min_size=1, max_size=8)
templates = st.lists(
    st.lists(st.tuples(words, st.booleans()), min_size=1, max_size=5),
    min_size=1,
    max_size=8,
    unique_by=lambda words: " ".join(word for word, _ in words),
)


def text_of(template: list[tuple[str, bool]]) -> str:
    return " ".join(f"[{word}]" if bracketed else word for word, bracketed in template)


@given(templates, st.booleans(), st.booleans(), st.randoms())
def test_ids_are_those_of_the_file_as_strings_or_numbers(
    drawn: list[Any], as_text: bool, bracketed: bool, rng: Any
) -> None:
    ids = {label_from_template(text_of(template)): number for number, template in enumerate(drawn)}
    keys = [text_of(template) if bracketed else label_from_template(text_of(template)) for template in drawn]
    pairs = [(key, str(number) if as_text else number) for number, key in enumerate(keys)]
    rng.shuffle(pairs)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "labels.json"
        write_json(path, dict(pairs))
        assert label_ids(path) == ids


@given(templates, st.data())
def test_rows_have_the_label_of_their_template(drawn: list[Any], data: st.DataObject) -> None:
    ids = {label_from_template(text_of(template)): number for number, template in enumerate(drawn)}
    chosen = data.draw(st.lists(st.tuples(st.sampled_from(drawn), st.booleans()), min_size=1, max_size=10))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.json"
        write_json(
            path,
            [
                {"id": str(number) if as_text else number, "template": text_of(template), "label": "x"}
                for number, (template, as_text) in enumerate(chosen)
            ],
        )
        rows = list(rows_from_list(path, ids, "train"))
    assert [row.labels["action"] for row in rows] == [label_from_template(text_of(template)) for template, _ in chosen]
    assert [row.name for row in rows] == [f"{number}.webm" for number in range(len(chosen))]


@pytest.mark.parametrize(
    "lists", ["labels/{}.json", "{}.json", f"labels/{OFFICIAL}", OFFICIAL, f"annotations/{OFFICIAL}"]
)
@pytest.mark.parametrize("videos", ["20bn-something-something-v2", "", "videos"])
def test_every_layout_is_read(tmp_path: Path, lists: str, videos: str) -> None:
    table = load_table(write_ssv2(tmp_path, lists=lists, videos=videos), "action")
    assert len(table.of_split("train")) + len(table.of_split("val")) == ROWS["train"]
    assert len(table.of_split("test")) == ROWS["validation"]
    assert all(sample.path.is_file() and sample.path == tmp_path / sample.name for sample in table.samples)


def test_outputs_are_numbered_as_labels_json_says_and_val_has_every_class(tmp_path: Path) -> None:
    table = load_table(write_ssv2(tmp_path), "action")
    (target,) = targets_from_table(table.of_split("train"))
    ids = json.loads((tmp_path / "labels" / "labels.json").read_text(encoding="utf-8"))
    assert {label: str(number) for number, label in enumerate(target.labels)} == ids
    assert target.labels == tuple(map(label_from_template, SSV2_TEMPLATES)) != tuple(sorted(target.labels))
    assert table.of_split("val").label_counts("action") == dict.fromkeys(target.labels, 1)


def test_validation_is_the_test_split_and_val_comes_out_of_train(tmp_path: Path) -> None:
    table = load_table(write_ssv2(tmp_path), "action")
    validation = json.loads((tmp_path / "labels" / "validation.json").read_text(encoding="utf-8"))
    assert {sample.path.stem for sample in table.of_split("test").samples} == {record["id"] for record in validation}
    assert "test is validation.json" in table.notes[0]


def test_rows_of_the_test_list_are_counted_and_not_used(tmp_path: Path) -> None:
    root = write_ssv2(tmp_path)
    before = load_table(root, "action")
    unlabelled = json.loads((root / "labels" / "test.json").read_text(encoding="utf-8"))
    for record in unlabelled:
        (root / "20bn-something-something-v2" / f"{record['id']}.webm").touch()
    table = load_table(root, "action")
    assert table == before and "test.json: 2 rows without labels are not used" in table.notes
    (root / "labels" / "test.json").unlink()
    assert load_table(root, "action") == before


def test_videos_in_another_container_are_found_and_repeated_rows_count_once(tmp_path: Path) -> None:
    root = write_ssv2(tmp_path)
    expected = len(load_table(root, "action"))
    for video in (root / "20bn-something-something-v2").iterdir():
        video.rename(video.with_suffix(".mp4"))
    train = root / "labels" / "train.json"
    records = json.loads(train.read_text(encoding="utf-8"))
    write_json(train, [*records, {**records[0], "id": int(records[0]["id"])}])
    table = load_table(root, "action")
    assert len(table) == expected and "repeated rows left out: 1" in table.notes
    assert {sample.path.suffix for sample in table.samples} == {".mp4"}


def with_record(what: str, **changes: Any) -> Callable[[Path], None]:
    """Return a function that changes the first record of a list; a value of None removes a key."""

    def edit(root: Path) -> None:
        path = root / "labels" / f"{what}.json"
        first, *others = json.loads(path.read_text(encoding="utf-8"))
        changed = {key: value for key, value in {**first, **changes}.items() if value is not None}
        write_json(path, [changed, *others])

    return edit


def with_content(what: str, text: str) -> Callable[[Path], None]:
    return lambda root: (root / "labels" / f"{what}.json").write_text(text, encoding="utf-8") and None


def without(what: str) -> Callable[[Path], None]:
    return lambda root: (root / "labels" / f"{what}.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            without("labels"),
            r"ssv2 has no labels\.json or something-something-v2-labels\.json; looked in ssv2/labels/, .*; fix: ",
        ),
        (without("train"), r"ssv2 has no train\.json or "),
        (without("validation"), r"ssv2 has no validation\.json or "),
        (
            with_record("train", template=None),
            r"train\.json, record 1 \(id 1\) has no template; .*: rows of test\.json have no labels",
        ),
        (with_record("train", template=7), r"record 1 \(id 1\) has no template"),
        (
            with_record("train", template="Juggling [something]"),
            r"'Juggling \[something\]' is not a label of labels\.json",
        ),
        (with_record("train", id=None), r"train\.json, record 1 has the id 'None'; allowed"),
        (with_record("train", id="../../etc/passwd"), r"has the id '\.\./\.\./etc/passwd'"),
        (with_record("train", id=True), r"has the id 'True'"),
        (with_record("train", id=["1"]), r"has the id "),
        (with_record("train", id=""), r"has the id ''"),
        (
            with_record("validation", id="1"),
            r"1\.webm is listed twice with different splits: train\.json, record 1 and valid",
        ),
        (
            with_record("train", id="2"),
            r"2\.webm is listed twice with different labels: train\.json, record 1 and train\.json, rec",
        ),
        (with_content("train", ""), r"train\.json is not a JSON list"),
        (with_content("train", "{}"), r"train\.json is not a JSON list"),
        (with_content("train", "[]"), r"train\.json lists no video"),
        (with_content("test", '{"a": 1}'), r"test\.json is not a JSON list"),
        (with_content("labels", "[]"), r"labels\.json is not a JSON object"),
        (with_content("labels", ""), r"labels\.json is not JSON"),
        (with_content("labels", "{}"), r"labels\.json has 0 labels; allowed: ids from 0 on"),
        (
            with_content("labels", '{"a": "0", "b": "2"}'),
            r"has 2 labels, with ids from 0 to 2, without 1; allowed: ids from 0",
        ),
        (with_content("labels", '{"a": "0", "b": "0"}'), r"has the id 0 twice, of 'a' and of 'b'; allowed"),
        (with_content("labels", '{"a": "0", "[a]": "1"}'), r"has the label '\[a\]' twice"),
        (with_content("labels", '{"a": "0", "a": "1"}'), r"has 'a' twice"),
        (with_content("labels", '{"a": "zero"}'), r"the id of 'a' is 'zero'; allowed: a whole number"),
        (with_content("labels", '{"a": 0.5}'), r"the id of 'a' is '0\.5'"),
        (with_content("labels", '{"a": true}'), r"the id of 'a' is 'True'"),
        (with_content("labels", '{"a": null}'), r"the id of 'a' is 'None'"),
        (with_content("labels", '{"a": "-1"}'), r"the id of 'a' is '-1'"),
    ],
)
def test_lists_that_do_not_fit_are_refused_in_one_line(
    tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    root = write_ssv2(tmp_path / "ssv2")
    spoil(root)
    with pytest.raises(DataError, match=said) as caught:
        import_data(root, name="something")
    assert "\n" not in str(caught.value)


def test_it_has_one_split_alone(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="split 1 of Something-Something V2; allowed: none"):
        import_data(write_ssv2(tmp_path), split=1)
