from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from numbered_clips import number_in_picture
from numbered_clips import write_clip as write_numbered
from small_media import write_photo

from vidrisk.data import Sample, Table
from vidrisk.runtimes.contract.contract import Contract, Target
from vidrisk.runtimes.contract.specs import PixelSpec, TimeSpec
from vidrisk.train.dataset import ClipDataset, moments_of

LABELS = ("a", "b")


def contract_of(frames: int | None, side: int = 64) -> Contract:
    return Contract(
        task="action",
        pixel=PixelSpec(side, side),
        time=TimeSpec(frames) if frames else None,
        targets=(Target(name="action", labels=LABELS),),
    )


def table_of(*paths: Path) -> Table:
    return Table(
        paths[0].parent,
        "action",
        tuple(Sample(path, path.name, {"action": LABELS[i % 2]}) for i, path in enumerate(paths)),
    )


def test_an_item_is_frames_and_label(write_clip: Callable[..., Path], tmp_path: Path) -> None:
    data = ClipDataset(
        table_of(write_clip(tmp_path / "0.mp4", (200, 0, 0)), write_clip(tmp_path / "1.mp4", (0, 0, 200))),
        contract_of(3, 32),
    )
    frames, truth = data[1]
    assert (frames.shape, frames.dtype) == ((3, 32, 32, 3), torch.uint8) and truth.tolist() == [1]
    assert frames[..., 2].float().mean() > frames[..., 0].float().mean()


@pytest.mark.parametrize("jitter", [3, 5])
def test_the_middle_of_jitter_is_the_contracts_moment(tmp_path: Path, jitter: int) -> None:
    path = write_numbered(tmp_path / "n.mp4", 60)
    plain = ClipDataset(table_of(path, path), contract_of(4))[0][0]
    wide = ClipDataset(table_of(path, path), contract_of(4), jitter=jitter)[0][0]
    assert wide.shape[0] == 4 * jitter
    numbers = [number_in_picture(picture.numpy()) for picture in wide]
    assert numbers == sorted(numbers) and len(set(numbers)) == len(numbers)
    torch.testing.assert_close(moments_of(wide[None], jitter, None)[0], plain)


def test_jitter_draws_one_of_each_group() -> None:
    frames = torch.arange(12).reshape(1, 12, 1, 1, 1).expand(50, -1, 2, 2, 3)
    drawn = moments_of(frames, 3, torch.Generator().manual_seed(0))[..., 0, 0, 0]
    assert drawn.shape == (50, 4)
    assert all((drawn[:, group] // 3 == group).all() and len(set(drawn[:, group].tolist())) == 3 for group in range(4))


def test_frames_are_read_once_while_there_is_room(tmp_path: Path) -> None:
    paths = [Path(write_photo(tmp_path / f"{colour}.png", colour)) for colour in ("red", "green", "blue")]
    one_mb = 32 * 32 * 3 / 2**20
    data = ClipDataset(table_of(*paths), contract_of(None, 32), cache_mb=2.5 * one_mb)
    first = [data[i][0] for i in range(3)]
    assert data.cached_mb == pytest.approx(2 * one_mb)
    write_photo(paths[0], "grey")
    write_photo(paths[2], "grey")
    assert data[0][0] is first[0] and not torch.equal(data[2][0], first[2])


def test_what_a_cut_file_lacks_is_noted(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "c.mkv", 100, options={"bf": "0", "g": "12"})
    whole = path.read_bytes()
    for size, said in ((len(whole), ""), (len(whole) // 2, " of 4.00 s")):
        path.write_bytes(whole[:size])
        dataset = ClipDataset(table_of(path), contract_of(2, 16))
        assert not dataset.drop_unreadable(lambda done, total: None)
        assert [*dataset.notes] == ["c.mkv"] * bool(said) and all(said in note for note in dataset.notes.values())


def test_unreadable_samples_are_dropped_with_their_reason(tmp_path: Path) -> None:
    good = [Path(write_photo(tmp_path / f"{colour}.png", colour)) for colour in ("red", "green")]
    (tmp_path / "empty.png").touch()
    data = ClipDataset(table_of(good[0], tmp_path / "empty.png", good[1], tmp_path / "gone.png"), contract_of(None, 16))
    told: list[tuple[int, int]] = []
    dropped = data.drop_unreadable(lambda done, total: told.append((done, total)))
    assert [sample.name for sample, _ in dropped] == ["empty.png", "gone.png"] and all(reason for _, reason in dropped)
    assert [s.name for s in data.samples] == ["red.png", "green.png"] and data.truth.tolist() == [[0], [0]]
    assert told == [(i, 4) for i in range(4)]
