"""Tables with everything that a table may hold, drawn by hypothesis, with small real photos and clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image
from trees import encoded

from vidrisk.data import Sample, Table
from vidrisk.data.formats.format import Format
from vidrisk.data.table import SPLITS, TARGETS_OF, Label
from vidrisk.frames import Interval

LABELS = ("run", "fall down", "裂缝", "a, b", "x;y", "<b>&\"'", "1", "é")
LEVELS = ("轻微", "中等", "严重")
FOLDERS = ("", "a", "b/c d", "图")
TEXTS = ("", "falls", 'a "b"\nc', "风险")
KINDS = {"clips": "mp4", "photos": "png"}


@st.composite
def tables(draw: st.DrawFn, root: Path, known: Format) -> Table:
    """Draw a table for a format, with files below ``root``.

    The table has parts that the format carries, and parts that it does not.
    """
    task = draw(st.sampled_from(known.tasks))
    targets = draw(st.sampled_from([TARGETS_OF[task], TARGETS_OF[task][:1]]))
    multi = frozenset(target for target in targets if target != "level") if draw(st.booleans()) else frozenset()
    has_splits = draw(st.booleans())
    samples = []
    for number in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from([kind for part, kind in KINDS.items() if part in known.carries]))
        folder, stem = draw(st.sampled_from(FOLDERS)), draw(st.sampled_from(["f", "ü", "a b"]))
        name = f"{folder}/{stem}{number}.{kind}".lstrip("/")
        path = file_of(root, name, number)
        labels = draw(_labels(targets, multi))
        parts = draw(_intervals) if kind == "mp4" else [None]
        split = draw(st.sampled_from(SPLITS)) if has_splits else None
        for part in parts:
            texts = draw(st.tuples(*[st.sampled_from(TEXTS)] * 3))
            samples.append(
                Sample(
                    path,
                    name,
                    labels,
                    *texts,
                    split,
                    draw(st.sampled_from([None, "g1", "组"])),
                    draw(st.sampled_from([{}, {"note": "1"}])),
                    part,
                )
            )
    orders = {
        target: draw(st.permutations([*LABELS, "unused"]))
        for target in targets
        if target != "level" and draw(st.booleans())
    }
    return Table(root, task, tuple(samples), (), {target: tuple(order) for target, order in orders.items()})


_intervals = st.sampled_from([[None], [Interval(0.5, 2.0), Interval(2.0, 3.25)], [Interval(2, 5, "frame")]])


def _labels(targets: Sequence[str], multi: frozenset[str]) -> st.SearchStrategy[dict[str, Label]]:
    def of_target(target: str) -> st.SearchStrategy[Any]:
        names = st.sampled_from(LEVELS if target == "level" else LABELS)
        return st.lists(names, max_size=3, unique=True).map(tuple) if target in multi else names

    every = st.fixed_dictionaries({target: of_target(target) for target in targets})
    some = st.sets(st.sampled_from(targets), min_size=1)
    return st.tuples(every, some).map(
        lambda drawn: {target: drawn[0][target] for target in targets if target in drawn[1]}
    )


def file_of(root: Path, name: str, number: int) -> Path:
    """Return a file of this name, created if it is missing; its content depends only on its number and suffix."""
    path = root / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_content(number, path.suffix))
    return path


@cache
def _content(number: int, suffix: str) -> bytes:
    if suffix == ".png":
        buffer = BytesIO()
        pixels = np.random.default_rng(number).integers(0, 255, (12, 16 + number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(buffer, "PNG")
        return buffer.getvalue()
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"clip{suffix}")
        encoded((200, 10 * number % 255, 40), number)(path)
        return path.read_bytes()


def content_of(table: Table, *, named: bool) -> Table:
    """Return a table in a form that can be compared: in a fixed order and without its root.

    If names are not kept, the content of the files replaces them.
    """

    def compared(sample: Sample) -> Sample:
        name = sample.name if named else sample.path.read_bytes()[-200:].hex()
        return replace(sample, path=Path(name), name=name)

    samples = sorted(
        map(compared, table.samples), key=lambda sample: (sample.order, str(sample.labels), str(sample.interval))
    )
    return replace(table, root=Path(), samples=tuple(samples), notes=())


def table_for(known: Format, root: Path) -> Table:
    """Return a table with examples of everything that a format carries."""
    task, targets = known.tasks[-1], TARGETS_OF[known.tasks[-1]]
    suffix = "mp4" if "clips" in known.carries else "png"
    samples = []
    for number in range(8):
        labels: dict[str, Label] = {
            target: LEVELS[number % 3] if target == "level" else LABELS[number % 4] for target in targets
        }
        name = f"{'ab'[number % 2]}/f{number}.{suffix}"
        part = Interval(0.5, 2.5) if "intervals" in known.carries and suffix == "mp4" else None
        samples.append(
            Sample(
                file_of(root, name, number),
                name,
                labels,
                "falls",
                "mend it",
                "a crack",
                SPLITS[number % 3],
                f"g{number}",
                {"note": str(number)},
                part,
            )
        )
    return Table(root, task, tuple(samples))
