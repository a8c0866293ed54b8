from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import tracemalloc
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vidrisk.jobs.parquet
from vidrisk.inference.predictions import PREDICTIONS, Prediction, read_predictions
from vidrisk.jobs.parquet import PARQUET, write_parquet
from vidrisk.runtimes.contract.errors import DataError, MissingExtra

ROOT = Path(__file__).parents[3]
FIXED = [field.name for field in fields(Prediction) if field.name not in ("targets", "candidates", "labels")]
LABELS = {"defect": ["red", "a/b", "缺陷 🧱"], "level": ["轻微", "严重"]}

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
seconds = st.none() | st.floats(0, 1e6)
part = st.floats(0, 1)
targets = st.tuples(
    *(st.tuples(*(st.tuples(st.just(label), part) for label in labels)) for labels in LABELS.values())
).map(lambda scores: dict(zip(LABELS, map(dict, scores), strict=True)))
predictions = st.lists(
    st.builds(
        Prediction,
        path=text | st.binary(min_size=1, max_size=8).map(os.fsdecode),
        start_s=seconds,
        end_s=seconds,
        label=text,
        score=part,
        uncertain=st.none() | st.booleans(),
        severity=st.none() | st.floats(0, 100),
        level=st.none() | text,
        defect=st.none() | text,
        targets=targets,
        risk=text,
        advice=text,
        description=text,
        state=st.sampled_from(["ok", "partial"]),
        candidates=st.fixed_dictionaries(
            {}, optional={target: st.lists(st.sampled_from(labels)) for target, labels in LABELS.items()}
        ),
    ),
    max_size=7,
)


def prediction(number: int = 0, labels: tuple[str, ...] = ("a", "b")) -> Prediction:
    return Prediction(
        f"/clips/{number}.mp4",
        number / 2,
        number / 2 + 2,
        "a",
        0.75,
        False,
        None,
        None,
        None,
        {"action": {label: 1 / len(labels) for label in labels}},
    )


def write_lines(out: Path, lines: list[Prediction]) -> Path:
    (out / PREDICTIONS).write_bytes(b"".join(line.to_json() for line in lines))
    return out


@settings(max_examples=60, deadline=None)
@given(lines=predictions)
def test_every_prediction_comes_back(lines: list[Prediction]) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(vidrisk.jobs.parquet, "ROWS_PER_GROUP", 3)
        out = write_lines(Path(folder), lines)
        path = write_parquet(out)
        expected = list(read_predictions(out))
        rows = pq.read_table(path).to_pylist()
        assert pq.ParquetFile(path).num_row_groups == -(-len(lines) // 3)
        assert {entry.name for entry in out.iterdir()} == {PREDICTIONS, PARQUET}
    assert len(rows) == len(expected)
    for row, line in zip(rows, expected, strict=True):
        assert row.pop("path") == line.path.encode("utf-8", "backslashreplace").decode()
        for target, labels in line.targets.items():
            for label, probability in labels.items():
                assert row.pop(f"probability/{target}/{label}") == np.float32(probability)
            assert row.pop(f"candidates/{target}") == line.candidates.get(target)
        for name in ("score", "severity"):
            value = getattr(line, name)
            assert row.pop(name) == (None if value is None else np.float32(value))
        assert row == {name: getattr(line, name) for name in FIXED if name not in ("path", "score", "severity")}


def test_columns_and_their_types(tmp_path: Path) -> None:
    schema = pq.read_schema(write_parquet(write_lines(tmp_path, [prediction()])))
    assert schema.names == [*FIXED, "candidates/action", "probability/action/a", "probability/action/b"]
    kinds = {name: str(schema.field(name).type) for name in schema.names}
    assert {kinds[name] for name in ("start_s", "end_s")} == {"double"} and kinds["uncertain"] == "bool"
    assert {kinds[name] for name in schema.names if name in ("score", "severity") or "probability/" in name} == {
        "float"
    }
    assert kinds["candidates/action"] in ("list<element: string>", "list<item: string>")
    assert {kinds[name] for name in FIXED[3:] if name not in ("score", "severity", "uncertain")} | {kinds["path"]} == {
        "string"
    }


def test_no_predictions_are_an_empty_table(tmp_path: Path) -> None:
    table = pq.read_table(write_parquet(write_lines(tmp_path, [])))
    assert table.num_rows == 0 and table.column_names == FIXED


def test_half_a_character_becomes_an_escape(tmp_path: Path) -> None:
    line = replace(prediction(), advice="mend \ud83d it", reason="\udcff")
    row = pq.read_table(write_parquet(write_lines(tmp_path, [line]))).to_pylist()[0]
    assert (row["advice"], row["reason"]) == ("mend \\ud83d it", "\\udcff")


def test_an_earlier_table_is_replaced_or_stays(tmp_path: Path) -> None:
    write_parquet(write_lines(tmp_path, [prediction()]))
    write_parquet(write_lines(tmp_path, [prediction(), prediction(1)]))
    whole = (tmp_path / PARQUET).read_bytes()
    assert pq.read_table(tmp_path / PARQUET).num_rows == 2
    for wrong in (prediction(2, ("a", "b", "c")).to_json(), b"{}\n", b"[\n"):
        write_lines(tmp_path, [prediction()])
        with (tmp_path / PREDICTIONS).open("ab") as file:
            file.write(wrong)
        with pytest.raises(DataError, match=r"predictions\.jsonl"):
            write_parquet(tmp_path)
        assert (tmp_path / PARQUET).read_bytes() == whole and not (tmp_path / f"{PARQUET}.new").exists()


def test_memory_is_that_of_a_row_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vidrisk.jobs.parquet, "ROWS_PER_GROUP", 200)
    labels = tuple(f"label {number}" for number in range(40))
    peaks = []
    for count in (400, 2400):
        write_lines(tmp_path, [prediction(number, labels) for number in range(count)])
        before = pa.total_allocated_bytes()
        tracemalloc.start()
        try:
            write_parquet(tmp_path)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        assert pa.total_allocated_bytes() == before
    assert peaks[1] < 1.5 * peaks[0]


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    write_lines(tmp_path, [prediction(number, tuple(map(str, range(99)))) for number in range(300)])
    code = (
        "import resource, sys, pyarrow.parquet; from pathlib import Path; from vidrisk.jobs.parquet import write_parquet\n"
        "from vidrisk.runtimes.contract.errors import VidriskError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n"
        f"try: write_parquet(Path({str(tmp_path)!r}))\n"
        "except VidriskError as error: print(error)\n"
    )
    end = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )
    assert (
        end.stderr == ""
        and end.stdout.count("\n") == 1
        and "cannot write to" in end.stdout
        and "File too large" in end.stdout
    )
    assert [path.name for path in tmp_path.iterdir()] == [PREDICTIONS]


def test_a_folder_without_predictions(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no predictions\.jsonl of a run; fix: vidrisk infer"):
        write_parquet(tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"pip install 'vidrisk\[parquet\]'"):
        write_parquet(write_lines(tmp_path, [prediction()]))
    assert json.loads((tmp_path / PREDICTIONS).read_text()) and not (tmp_path / PARQUET).exists()
