"""Reads files for tuning vision-language models as labels: a question on a clip or a photo, answered by its label.

The syntaxes are those of ``instruction_formats``, whose records are conversations about photos. They are read as labels
only on request: short answers are labels, all others are counted. See ``conversations_writer`` for the files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from vidrisk.data.formats.addressed_files import AddressedFiles, files_near
from vidrisk.data.formats.class_names import ClassNames, orders_that_say_something, read_class_names
from vidrisk.data.formats.conversations.conversations_writer import ATTRIBUTES, LABELS, NUMBERS
from vidrisk.data.formats.conversations.questions import labels_from_answer, parse_question
from vidrisk.data.formats.fields import fields_from_values, with_splits
from vidrisk.data.formats.format import Listed, Reading, format_counts
from vidrisk.data.formats.rows import Row, samples_from_rows
from vidrisk.data.instruction_formats.dataset_info import INFO
from vidrisk.data.instruction_formats.reader import ToldConversation
from vidrisk.data.io import LABEL_COLUMNS
from vidrisk.data.label_ids import labels_from_ids
from vidrisk.data.table import TARGETS_OF, Label, split_from_name
from vidrisk.runtimes.contract.errors import DataError

LOOKED_FOR = 100  # records that are used to find the folder of the files
MAX_FILES = 1000
Read = Callable[[Path], Iterator[ToldConversation]]


def is_never_recognised(source: Path) -> bool:
    """Return False: the same files are also training data for models that write."""
    return False


def read_conversations(source: Path, reading: Reading, read: Read, suffixes: Sequence[str]) -> Listed:
    """Read a file, or the files of a folder; clips and photos may lie in the folder above them."""
    paths = [source] if source.is_file() else _files_in(source, suffixes)
    if not paths:
        raise DataError(
            f"{source.name} has no file with conversations", allowed=", ".join(f"*{suffix}" for suffix in suffixes)
        )
    folder = source.parent if source.is_file() else source
    shown = [name for told in islice(read(paths[0]), LOOKED_FOR) for name in (*told.images, *told.videos)]
    media = files_near(shown, folder, reading.media)
    rows = _Rows(
        media, reading, {target: read_class_names(path) for target, path in _name_files(folder, reading).items()}
    )
    for path in paths:
        for told in read(path):
            rows.add(told, path)
    taken, without = with_splits(rows.rows)
    found = samples_from_rows(taken, media.files, kinds=("video", "image"), multi_label=reading.multi_label)
    orders = {target: names.order for target, names in rows.names.items()}
    orders.setdefault(reading.target, tuple(labels_from_ids(rows.pairs).values()))
    return Listed(
        media.root,
        found.samples,
        found.absent,
        media.looked_in,
        orders_that_say_something({target: order for target, order in orders.items() if order}, found.samples),
        (*found.notes, *format_counts(rows.left_out | without)),
    )


class _Rows:
    """Turns conversations into rows.

    Attributes:
        names: names of numbered classes, by target.
        rows: the rows so far.
        pairs: labels and their numbers, from records with both.
        left_out: counts of what could not be used.
    """

    def __init__(self, media: AddressedFiles, reading: Reading, names: Mapping[str, ClassNames]) -> None:
        self._media, self._reading, self.names = media, reading, names
        self.rows: list[Row] = []
        self.pairs: list[tuple[str, str]] = []
        self.left_out: Counter[str] = Counter()

    def add(self, told: ToldConversation, path: Path) -> None:
        shown = (*told.images, *told.videos)
        if told.problem or len(shown) != 1:
            self.left_out[
                f"records {'that cannot be used' if told.problem else 'without one clip or photo'} left out"
            ] += 1
            return
        name = self._media.find(shown[0]) or self._media.absent_name(shown[0])
        if not name:
            raise DataError(f"{told.where} has the path {shown[0][:80]!r}", allowed="the path of a clip or photo")
        labels = self._labels_from_turns(told)
        number = told.record.get("label")
        if labels is None or (number is not None and not self._add_numbers(labels, number, told.where)):
            self.left_out["records whose answers are not labels left out"] += 1
        elif not labels:
            self.left_out["records without an answer or a label left out"] += 1
        else:
            attributes = told.record.get(ATTRIBUTES)
            fields = fields_from_values(attributes if isinstance(attributes, dict) else {})
            fields.setdefault("split", split_from_name(path.stem))
            self.rows.append(Row(told.where, name, labels, **fields))

    def _labels_from_turns(self, told: ToldConversation) -> dict[str, Label] | None:
        """Return labels by target, or None if an answer is not a label or there are several to unknown questions."""
        asked, labels = "", {}
        answers = [turn for turn in told.turns if turn.role == "assistant"]
        for turn in told.turns:
            if turn.role == "user":
                asked = turn.text
            if turn.role != "assistant":
                continue
            target, several = parse_question(asked) or (self._reading.target, self._reading.multi_label is not False)
            found = labels_from_answer(turn.text)
            is_guessed = parse_question(asked) is None
            if found is None or (len(found) != 1 and not several) or (is_guessed and len(answers) > 1):
                return None
            if target in TARGETS_OF[self._reading.task]:
                labels[target] = found
        return dict(labels)

    def _add_numbers(self, labels: dict[str, Label], number: Any, where: str) -> bool:
        """Add the class numbers of a record; return False if they are not class numbers.

        A boolean or a fraction is for other kinds of training.
        """
        listed = number if isinstance(number, list) else [number]
        if not all(isinstance(one, int) and not isinstance(one, bool) and 0 <= one < 10**9 for one in listed):
            return False
        names = self.names.get(self._reading.target)
        found = tuple(names.name_of(one, where) if names else str(one) for one in listed)
        said = labels.get(self._reading.target)
        if said is None:
            labels[self._reading.target] = found
        elif names and set(said) != set(found):
            raise DataError(
                f"{where}: the label {number} is {' + '.join(found) or 'none'}, but the answer says {' + '.join(said)}",
                fix="take the names and the data from one source",
            )
        elif len(said) == len(found) == 1:
            self.pairs.append((said[0], found[0]))
        return True


def _name_files(folder: Path, reading: Reading) -> dict[str, Path]:
    """Find the files with names of numbered classes: the one that the user gives, or those beside the conversations."""
    paths = {
        target: folder / (LABELS if target == reading.target else f"{LABEL_COLUMNS[target]}_{LABELS}")
        for target in TARGETS_OF[reading.task]
        if target != "level"
    }
    given = {reading.target: reading.labels} if reading.labels else {}
    return {target: path for target, path in paths.items() if path.is_file()} | given


def _files_in(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes and path.is_file())
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}") from error
    names = {path.name for path in paths}
    return [
        path
        for path in paths
        if path.name != INFO
        and not path.name.endswith(LABELS)
        and not path.name.startswith(".")
        and not (path.stem.endswith(NUMBERS) and path.name.replace(NUMBERS, "") in names)
    ][:MAX_FILES]
