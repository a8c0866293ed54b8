from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor

from vidrisk.models.config import Augmentation
from vidrisk.train.augment import augment_clips, augment_frames

KINDS: tuple[str, ...] = get_args(Augmentation)


def random_clips(count: int = 3, moments: int = 2, side: int = 12) -> Tensor:
    return torch.randint(
        0, 256, (count, moments, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(7)
    )


def drawn(frames: Tensor, *kinds: str, seed: int = 0) -> Tensor:
    return augment_frames(frames, kinds, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
def test_kind_keeps_shape_and_dtype_and_changes_pixels(kind: str) -> None:
    frames = random_clips(8, moments=8)
    result = drawn(frames, kind)
    assert (result.shape, result.dtype) == (frames.shape, torch.uint8)
    assert not torch.equal(result, frames)


@pytest.mark.parametrize("kind", KINDS)
def test_all_moments_of_a_clip_get_the_same_draw(kind: str) -> None:
    still = random_clips(4)[:, :1].expand(-1, 3, -1, -1, -1)
    for clip in drawn(still, kind):
        assert torch.equal(clip[0], clip[1]) and torch.equal(clip[0], clip[2])


@pytest.mark.parametrize("kind", KINDS)
def test_clips_of_a_batch_get_different_draws(kind: str) -> None:
    same = random_clips(1, moments=8).expand(12, -1, -1, -1, -1)
    assert len({clip.numpy().tobytes() for clip in drawn(same, kind)}) > 1


def test_the_generator_alone_decides() -> None:
    frames = random_clips()
    assert torch.equal(drawn(frames, *KINDS, seed=4), drawn(frames, *KINDS, seed=4))
    assert not torch.equal(drawn(frames, *KINDS, seed=4), drawn(frames, *KINDS, seed=5))


def test_no_kinds_leave_the_frames_alone() -> None:
    frames = random_clips()
    assert torch.equal(drawn(frames), frames)


def test_flip_swaps_left_and_right_of_about_half() -> None:
    frames = random_clips(1).expand(64, -1, -1, -1, -1)
    mirrored = [torch.equal(clip, frames[0].flip(2)) for clip in drawn(frames, "flip")]
    kept = [torch.equal(clip, frames[0]) for clip in drawn(frames, "flip")]
    assert all(m != k for m, k in zip(mirrored, kept, strict=True)) and 16 < sum(mirrored) < 48


def test_dihedral_reaches_the_eight_symmetries_and_no_other() -> None:
    frame = random_clips(1, 1)
    symmetries = {
        torch.rot90(f, turns, dims=(0, 1)).contiguous().numpy().tobytes()
        for f in (frame[0, 0], frame[0, 0].flip(1))
        for turns in range(4)
    }
    reached = {clip[0].contiguous().numpy().tobytes() for clip in drawn(frame.expand(128, -1, -1, -1, -1), "dihedral")}
    assert len(symmetries) == 8 and reached == symmetries


def test_zoom_and_light_stay_moderate() -> None:
    grey = torch.full((32, 1, 16, 16, 3), 128, dtype=torch.uint8)
    assert torch.equal(drawn(grey, "zoom"), grey)  # nothing but moved pixels, no dark rim
    levels = drawn(grey, "light").float().mean(dim=(1, 2, 3, 4))
    assert levels.min() >= 128 - 26 and levels.max() <= 128 + 26 and levels.std() > 3


def test_mirrored_clips_are_told() -> None:
    frames = random_clips(20)
    result, mirrored = augment_clips(frames, ["flip"], torch.Generator().manual_seed(0))
    assert 0 < mirrored.sum() < 20
    for clip, other, is_mirrored in zip(frames, result, mirrored, strict=True):
        assert torch.equal(other, clip.flip(2) if is_mirrored else clip)
    twice, mirrored = augment_clips(frames, ["flip", "flip"], torch.Generator().manual_seed(0))
    assert all(
        torch.equal(other, clip.flip(2) if is_mirrored else clip)
        for clip, other, is_mirrored in zip(frames, twice, mirrored, strict=True)
    )
    assert not augment_clips(frames, ["updown", "zoom", "light", "still"], torch.Generator().manual_seed(0))[1].any()


def test_a_still_frame_leaves_what_changes_proportional_to_what_it_was() -> None:
    frames = random_clips(6, moments=5).float().mul(0.5).to(torch.uint8)
    result = drawn(frames, "still").float()
    for clip, other in zip(frames.float(), result, strict=True):
        before, after = clip.diff(dim=0).flatten(), other.diff(dim=0).flatten()
        share = float((before @ after) / (before @ before))
        assert 0.45 < share <= 1.01 and (after - share * before).abs().max() <= 1.5  # rounding


def test_speed_shows_moments_of_the_clip_in_their_order() -> None:
    clip = torch.arange(16, dtype=torch.uint8)[:, None, None, None].expand(1, 16, 2, 2, 3)
    shown = {tuple(drawn(clip, "speed", seed=seed)[0, :, 0, 0, 0].tolist()) for seed in range(20)}
    assert len(shown) > 5
    assert all(list(moments) == sorted(moments) and 8 <= len(set(moments)) <= 16 for moments in shown)
