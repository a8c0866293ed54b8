"""Tests of labels files in the forms in which users have them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vidrisk.export.foreign.labels import ForeignLabels, read_labels
from vidrisk.runtimes.contract.errors import DataError

THREE = ForeignLabels({"defect": ("crack", "rust", "sound")})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.txt", "crack\nrust\n\nsound\n"),
        ("labels.txt", "\ufeffcrack\r\nrust\r\nsound"),
        ("labels.json", '["crack", "rust", "sound"]'),
        ("labels.yaml", "- crack\n- rust\n- sound\n"),
        ("id2label.json", '{"0": "crack", "2": "sound", "1": "rust"}'),
        ("labels.yml", "0: crack\n1: rust\n2: sound\n"),
        ("labels.yaml", "defect: [crack, rust, sound]"),
        ("labels.yaml", "defect:\n  labels: {0: crack, 1: rust, 2: sound}"),
    ],
)
def test_every_form_gives_the_same_labels(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_labels(tmp_path / name, "defect") == THREE


@pytest.mark.parametrize("name", ["l.yaml", "l.json"])
@pytest.mark.parametrize(
    "labels", [("yes", "no"), ("010", "8"), ("null", "true", "~"), ("1_000", "1e3", "2024-01-01"), ("on", "=", "0x1F")]
)
def test_labels_are_the_text_that_stands_there(name: str, labels: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / name).write_text(f"[{', '.join(labels)}]")
    assert read_labels(tmp_path / name, "defect").labels == {"defect": labels}
    (tmp_path / name).write_text(json.dumps({f"{index}": label for index, label in enumerate(labels)}))
    assert read_labels(tmp_path / name, "defect").labels == {"defect": labels}


def test_several_targets_name_outputs_and_orders(tmp_path: Path) -> None:
    (tmp_path / "l.yaml").write_text(
        "defect:\n  labels: [crack, 良好]\n  output: what\n  gives: logits\n"
        "level:\n  labels: [high, low]\n  order: [low, high]\n",
        encoding="utf-8",
    )
    found = read_labels(tmp_path / "l.yaml", "action")
    assert found.labels == {"defect": ("crack", "良好"), "level": ("high", "low")}
    assert (found.outputs, found.gives, found.orders) == (
        {"defect": "what"},
        {"defect": "logits"},
        {"level": ("low", "high")},
    )


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("l.txt", "crack\n", "has 1 labels; allowed: at least two"),
        ("l.txt", "a\nb\na\n", "has 'a' twice"),
        ("l.json", '{"0": "a", "2": "b"}', "no label for output 1"),
        ("l.yaml", "a: [", "cannot be read"),
        ("l.yaml", "7", "has no labels"),
        ("l.yaml", "defect: crack", "allowed: a list of labels"),
        ("l.yaml", "defect: {output: x}", "defect has 'no labels'; allowed: labels, output, gives, order"),
        ("l.yaml", "defect: {labels: [a, b], colour: 1}", "defect has 'colour'"),
        ("l.yaml", "defect: {labels: [a, b], gives: scores}", "defect gives 'scores'; allowed: logits, probabilities"),
        ("l.yaml", "- a\n-\n- b", "has a label ''; allowed: text; fix: quote it"),
        ("l.yaml", "- a\n- [b]", r"has a label \['b'\]"),
        ("l.json", '{"0": "a", "1": {"b": "c"}}', "has a label {'b': 'c'}"),
        (
            "l.yaml",
            "Foo Bar: [a, b]",
            "l.yaml: target 'Foo Bar'; allowed: lower-case letters, digits and _, a letter first",
        ),
        ("l.yaml", "!!python/object/apply:os.system [echo]", "has 1 labels"),
    ],
)
def test_what_holds_no_labels_is_said(name: str, text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=reason):
        read_labels(tmp_path / name, "defect")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_bytes("缺陷\n良好\n".encode("gb18030"))
    for name in ("l.txt", "missing.txt"):
        with pytest.raises(DataError, match=r"cannot be read.*UTF-8 text"):
            read_labels(tmp_path / name, "defect")
