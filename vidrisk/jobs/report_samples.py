"""Samples that judge the export of a report model: conversations of its data, with visual tokens of their photos."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from vidrisk.data.case_frames import read_case_frames
from vidrisk.data.cases import Case
from vidrisk.data.instructions import Instruction
from vidrisk.data.report_data import ReportData, load_report_data
from vidrisk.data.table import SPLITS, SplitName
from vidrisk.decode.pool import DecodePool
from vidrisk.export.text.samples import GateSample, ReportForm, Visual
from vidrisk.models.run import SOURCE, Run
from vidrisk.models.vlm.conversation import MARK
from vidrisk.models.vlm.instruction_parts import exchanges_from_instruction
from vidrisk.models.vlm.rendering import render_chats
from vidrisk.models.vlm.reporter import Reporter
from vidrisk.models.weights import COPY_WHOLE
from vidrisk.runtimes.contract.errors import BundleError, DataError
from vidrisk.runtimes.contract.progress import OnProgress
from vidrisk.runtimes.text.requests import Embeddings, Ids
from vidrisk.runtimes.text.turns import Exchange, Photo, parts_from_exchanges
from vidrisk.runtimes.text.vocabulary import Vocabulary

log = logging.getLogger(__name__)

PHOTOS_AT_ONCE = 16
Frames = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class ShownConversation:
    """A conversation, and its photos ``uint8 (H, W, 3)``."""

    item: Instruction
    photos: tuple[Frames, ...]


def data_of_run(run: Run) -> ReportData:
    """Read the data of a run again.

    Raises:
        BundleError: ``data.json`` is missing or damaged.
        DataError: the data no longer exist, or have changed.
    """
    with _record_of_run(run) as record:
        splits = {name: list(record["splits"][name]) for name in SPLITS}
        source = Path(record["source"])
        asked = {name: record[name] for name in ("scheme", "photos", "seed", "group_by", "encoding", "sheet")}
    data = load_report_data(source, **{**asked, "scheme": run.scheme})
    if {name: [item.id for item in data.of_split(name)] for name in SPLITS} != splits:
        raise DataError(
            f"{source} holds other data than the run was trained on",
            allowed="the same data",
            fix="restore them, or give data as val, and as calib for INT8",
        )
    return data


def read_held_out_data(run: Run, source: Path) -> ReportData:
    """Read other data for a run, with their own split or none; photos are found as for the run.

    Raises:
        BundleError: ``data.json`` is missing or damaged.
        DataError, SettingsError, MissingExtra: as ``load_report_data``.
    """
    with _record_of_run(run) as record:
        photos = None if record["photos"] is None else Path(record["photos"])
    return load_report_data(source, scheme=run.scheme, photos=photos, split=False)


@contextmanager
def _record_of_run(run: Run) -> Iterator[Any]:
    """Yield the content of ``data.json``; an error inside says what it lacks.

    Raises:
        BundleError: it is missing or damaged.
    """
    path = run.root / SOURCE
    try:
        yield json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{path} cannot be read: {error!r}", fix=COPY_WHOLE) from error


def read_shown(
    items: Sequence[Instruction], run: Run, pool: DecodePool, what: str, on_progress: OnProgress
) -> list[ShownConversation]:
    """Read the photos of conversations.

    Conversations with an unreadable photo are left out, and logged.

    Raises:
        DataError: none is left.
    """
    by_id = {item.id: item for item in items}
    found: list[ShownConversation] = []
    reasons: list[str] = []
    cases = (Case(item.id, item.images, {}) for item in items)
    for done, (case, frames) in enumerate(read_case_frames(cases, pool, run.contract.pixel)):
        on_progress(f"reading {what}", done, len(items))
        read = [frame.frame for frame in frames if frame.frame is not None]
        if len(read) == len(frames):
            found.append(ShownConversation(by_id[case.id], tuple(np.array(frame) for frame in read)))
        else:
            reasons.append(f"{case.id}: {next(frame.reason for frame in frames if frame.frame is None)}")
    if reasons:
        log.warning(
            "reading %s: %d of %d conversations cannot be read and are left out; the first: %s",
            what,
            len(reasons),
            len(items),
            reasons[0],
        )
    if not found:
        raise DataError(
            f"reading {what}: no conversation can be read" + (f"; the first: {reasons[0]}" if reasons else ""),
            fix="the run's data must still be at their original path; or give other data",
        )
    return found


def split_or_all(data: ReportData, split: SplitName) -> tuple[Instruction, ...]:
    """Return the conversations of a split, or all if the data have no such split."""
    return data.of_split(split) or data.items


@torch.inference_mode()
def visual_by_torch(stage: nn.Module, shown: Sequence[ShownConversation]) -> list[tuple[Embeddings, ...]]:
    """Run the vision stage of a model on all photos.

    Returns:
        Per conversation and photo ``float32 (tokens, width)``.
    """
    frames = [photo for each in shown for photo in each.photos]
    tokens: list[Embeddings] = []
    for begin in range(0, len(frames), PHOTOS_AT_ONCE):
        batch = torch.from_numpy(np.stack(frames[begin : begin + PHOTOS_AT_ONCE]))
        tokens += list(stage.eval()(batch).float().numpy())
    rest = iter(tokens)
    return [tuple(next(rest) for _ in each.photos) for each in shown]


def samples_from_shown(
    shown: Sequence[ShownConversation],
    visual: Visual,
    model: Reporter,
    vocabulary: Vocabulary,
    data: ReportData,
    system: str | None,
) -> list[GateSample]:
    """Make samples of conversations: all turns before the last answer are the prompt.

    Args:
        shown: the conversations.
        visual: tokens per conversation and photo.
        model: with its chat template.
        vocabulary: of the model.
        data: with the truth.
        system: system text for conversations that have none of their own.
    """
    return list(_samples(shown, visual, model, vocabulary, data, system))


def _samples(
    shown: Sequence[ShownConversation],
    visual: Visual,
    model: Reporter,
    vocabulary: Vocabulary,
    data: ReportData,
    system: str | None,
) -> Iterator[GateSample]:
    end = model.chat.ends[0]
    for each, tokens in zip(shown, visual, strict=True):
        own, exchanges = exchanges_from_instruction(each.item)
        while exchanges and exchanges[-1].answer is None:
            exchanges.pop()
        if not exchanges:
            continue
        last = exchanges[-1]
        asked = [*exchanges[:-1], Exchange(last.question, last.photos)]
        said = system if own is None else own
        parts = parts_from_exchanges(vocabulary, model.chat.pieces, end, said, asked).parts
        seen = tuple(tokens[part.number] if isinstance(part, Photo) else part for part in parts)
        case = data.cases.get(each.item.id)
        yield GateSample(
            each.item.id,
            seen,
            np.append(vocabulary.encode(str(last.answer)), np.int64(end)),
            truth=dict(case.fields) if case else {},
            **_render_prompt(model, said, asked, model.grid.tokens),
        )


def _render_prompt(model: Reporter, system: str | None, exchanges: Sequence[Exchange], tokens: int) -> dict[str, Any]:
    """Return the same prompt made by the backbone's tokenizer and chat template."""
    tokenizer = model.backbone.tokenizer
    if (
        not getattr(tokenizer, "chat_template", None)
        or model.backbone.photo_mark is not None
        or model.chat.pieces.begin == (model.chat.pieces.begin_bare)
    ):
        return {}
    messages: list[dict[str, str]] = [] if system is None else [{"role": "system", "content": system}]
    for exchange in exchanges:
        messages.append({"role": "user", "content": f"{MARK}\n" * exchange.photos + exchange.question})
        if exchange.answer is not None:
            messages.append({"role": "assistant", "content": exchange.answer})
    (text,) = render_chats(tokenizer, [(messages, True)])
    placeholder = len(tokenizer)
    ids: list[Ids] = []
    for place, piece in enumerate(text.split(MARK)):
        ids += [np.full(tokens, placeholder, np.int64)] if place else []
        ids.append(np.array(tokenizer(piece, add_special_tokens=False)["input_ids"], np.int64))
    return {"rendered": np.concatenate(ids), "placeholder": placeholder}


def form_of(data: ReportData) -> ReportForm | None:
    """Return the form of answers, or None without a scheme."""
    if data.scheme is None:
        return None
    return ReportForm(data.scheme.json_schema(), data.scheme.level_fields[0].name)
