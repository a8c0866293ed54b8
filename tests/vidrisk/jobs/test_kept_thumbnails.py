"""Tests of thumbnails that a run keeps from the frames that it decodes anyway.

The report shows them without decoding. It also works without them.
"""

from __future__ import annotations

import re
from pathlib import Path
from unittest import mock

import pytest
from colour import ACTION, RISK, colour_classifier
from small_media import write_photo, write_video

from vidrisk.decode.messages import Input, Read, ThumbnailInput
from vidrisk.decode.pool import DecodePool
from vidrisk.decode.thumbnails import MAX_KEPT_FRAMES, Thumbnail
from vidrisk.inference.predictions import PREDICTIONS
from vidrisk.jobs import kept_thumbnails
from vidrisk.jobs.kept_thumbnails import (
    MAX_CARDS,
    THUMBNAILS,
    KeptThumbnails,
    budget_from_cards,
    read_kept_thumbnails,
    thumbnails_at_moments,
)
from vidrisk.jobs.ledger import read_ledger
from vidrisk.jobs.run_folder import run_folder
from vidrisk.jobs.run_settings import InferSettings
from vidrisk.jobs.sources import find_inputs
from vidrisk.report import build_report
from vidrisk.runtimes.contract.contract import Contract


@pytest.fixture
def media(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    folder.mkdir()
    write_photo(folder / "a.png", "blue", size=(900, 600))
    write_video(folder / "b.mp4", ("red", "blue"))
    write_video(folder / "c.mp4", ("green", "blue", "red"))
    return folder


def run(media: Path, out: Path, contract: Contract = ACTION, cards: int | None = None, **settings: object) -> Path:
    inputs = find_inputs([media])
    chosen = InferSettings(workers=2, **settings)  # type: ignore[arg-type]
    run_folder(colour_classifier(contract), inputs, out, chosen, cards=len(inputs.paths) if cards is None else cards)
    return out


def kept(out: Path) -> dict[str, tuple[Thumbnail, ...]]:
    return {Path(path).name: found for path, found in read_kept_thumbnails(out, read_ledger(out)).items()}


def decoded(out: Path) -> list[str]:
    """Return the names of the inputs that the report decodes."""
    names: list[str] = []
    real = DecodePool.thumbnails

    def thumbnails(pool: DecodePool, requests: list[ThumbnailInput], *rest: object) -> list[tuple[Thumbnail, ...]]:
        names.extend(Path(request.path).name for request in requests)
        return real(pool, requests, *rest)  # type: ignore[arg-type]

    with mock.patch.object(DecodePool, "thumbnails", thumbnails):
        build_report(out)
    return names


def pictures(out: Path) -> dict[str, int]:
    page = (out / "report.html").read_text(encoding="utf-8")
    return {
        card[1]: card[0].count('<img src="data:image/webp')
        for card in re.finditer(r'<li class="card"[^>]* data-name="([^"]*)".*?\n    </li>', page, re.DOTALL)
    }


@pytest.mark.parametrize("contract", [ACTION, RISK])
def test_a_report_decodes_nothing_and_needs_no_source(contract: Contract, media: Path, tmp_path: Path) -> None:
    out = run(media, tmp_path / "out", contract)
    assert decoded(out) == []
    shown = pictures(out)
    assert shown == ({"a.png": 1, "b.mp4": 4, "c.mp4": 4} if contract is ACTION else dict.fromkeys(shown, 1))
    for path in media.iterdir():
        path.unlink()
    assert decoded(out) == [] and pictures(out) == shown


def test_they_are_the_frames_that_the_model_saw(media: Path, tmp_path: Path) -> None:
    out = run(media, tmp_path / "out")
    assert [one.time_s for one in kept(out)["b.mp4"]] == [0.25, 0.75, 1.25, 1.75]
    (photo,) = kept(out)["a.png"]
    assert (photo.width, photo.height, photo.time_s) == (256, 171, None)


def test_windows_have_those_of_the_worst_and_of_the_peaks(media: Path, tmp_path: Path) -> None:
    out = run(media, tmp_path / "out", window_s=1.0, stride_s=0.5)
    assert decoded(out) == [] and pictures(out)["c.mp4"] > 4


def test_predictions_are_the_same_without(media: Path, tmp_path: Path) -> None:
    with_, without = run(media, tmp_path / "with"), run(media, tmp_path / "without", cards=0)
    assert sorted((with_ / PREDICTIONS).read_bytes().splitlines()) == sorted(
        (without / PREDICTIONS).read_bytes().splitlines()
    )
    assert not (without / THUMBNAILS).exists() and sorted(decoded(without)) == ["a.png", "b.mp4", "c.mp4"]


def test_a_file_that_has_changed_is_not_shown_as_it_was(media: Path, tmp_path: Path) -> None:
    out = run(media, tmp_path / "out")
    before = kept(out)["a.png"]
    write_photo(media / "a.png", "red", size=(90, 70))
    run(media, out, resume=True)
    assert kept(out)["a.png"] != before and decoded(out) == []


def test_of_a_long_video_and_of_very_many_inputs_none_are_kept(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(media / "long.mp4", ("red", "blue") * 5, fps=30)
    out = run(media, tmp_path / "out", window_s=0.5)
    assert kept(out).keys() == {"a.png", "b.mp4", "c.mp4"} and decoded(out) == ["long.mp4"]
    assert MAX_KEPT_FRAMES < 80
    monkeypatch.setattr(kept_thumbnails, "MAX_KEPT_INPUTS", 3)
    assert kept(run(media, tmp_path / "many")) == {}


def test_a_folder_has_so_many_however_many_runs_continue_it(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit of kept thumbnails holds for a folder, however many runs continue it.

    A watch continues the folder of a day with every batch.
    """
    monkeypatch.setattr(kept_thumbnails, "MAX_KEPT_INPUTS", 5)
    counts, asked = [], []
    real = DecodePool.read
    monkeypatch.setattr(
        DecodePool,
        "read",
        lambda pool, inputs, reading, **rest: (
            asked.append(bool(reading.thumbnail_bytes)) or real(pool, inputs, reading, **rest)
        ),
    )  # type: ignore[func-returns-value]
    for batch in range(4):
        write_photo(media / f"{batch}.png")
        write_photo(media / f"{batch} again.png")
        out = run(media, tmp_path / "out", resume=True, cards=3)
        counts.append(len(kept(out)))
    assert counts == [5, 5, 5, 5] and asked == [True, False, False, False]
    assert len(read_ledger(out)) == 11 and len(decoded(out)) == 6


def test_a_worker_cannot_make_them_more_than_the_frames(tmp_path: Path) -> None:
    picture, request = Thumbnail("AAAA", 1, 1, None), Input(0, "/a.png")
    with KeptThumbnails(tmp_path, 1) as thumbnails:
        assert list(thumbnails.collect(Read(request, picture) for _ in range(1000))) == []
        assert len(thumbnails._open[0]) == 1


def test_features_that_are_known_bring_no_frames(media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDRISK_CACHE", str(tmp_path / "cache"))
    run(media, tmp_path / "first", feature_cache=True)
    out = run(media, tmp_path / "second", feature_cache=True)
    assert kept(out) == {} and len(decoded(out)) == 3 and pictures(out)["b.mp4"] == 4


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0 no more", b"x" * 9000])
def test_a_file_that_is_damaged_costs_only_time(content: bytes, media: Path, tmp_path: Path) -> None:
    out = run(media, tmp_path / "out")
    (out / THUMBNAILS).write_bytes(content)
    assert len(decoded(out)) == 3 and pictures(out)["b.mp4"] == 4
    write_photo(media / "new.png")
    run(media, out, resume=True)
    assert kept(out).keys() == {"new.png"}


def test_a_page_has_room_for_them() -> None:
    for cards in (1, 45, 300, MAX_CARDS, 3000):
        for has_timelines in (False, True):
            budget = budget_from_cards(cards, has_timelines=has_timelines)
            assert (
                budget.max_bytes * min(cards, MAX_CARDS) <= 2_700_000
                and budget.max_bytes >= 3000
                and budget.frames >= 3
            )


def test_moments_get_the_frame_that_was_shown() -> None:
    frames = tuple(Thumbnail("AAAA", 1, 1, time_s) for time_s in (0.5, 1.0, 2.0))
    assert [one.time_s for one in thumbnails_at_moments(frames, (0.1, 0.9, 1.0, 5.0), 100)] == [0.5, 0.5, 1.0, 2.0]
    assert thumbnails_at_moments(frames, (0.1, 0.9, 1.0, 5.0), 11) == ()
