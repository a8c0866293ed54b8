"""Tests of views of an input: the mean over moments and mirrored frames, through the evaluation pipeline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from colour import ACTION, COLOURS, RISK, colour_classifier
from hypothesis import given
from hypothesis import strategies as st
from small_media import write_photo, write_video

from vidrisk.data import Sample, Table
from vidrisk.frames import Interval, read_clips
from vidrisk.inference.input_views import Views
from vidrisk.jobs.evaluate import Evaluation, evaluate
from vidrisk.jobs.run_settings import InferSettings
from vidrisk.runtimes.contract.contract import Target
from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.runtimes.contract.specs import TimeSpec

ONE = InferSettings(workers=1)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """Return a table of clips whose colour changes, including parts of a clip."""
    root = tmp_path_factory.mktemp("clips")
    path = Path(write_video(root / "a.mp4", ("red", "green", "green", "blue", "red")))
    other = Path(write_video(root / "b.mp4", ("blue", "blue", "red")))
    return Table(
        root,
        "action",
        (
            Sample(path, "a.mp4", {"action": "green"}, interval=Interval(0.0, 2.3)),
            Sample(path, "a.mp4", {"action": "blue"}, interval=Interval(2.5, 4.5)),
            Sample(other, "b.mp4", {"action": "blue"}),
        ),
    )


def evaluated(table: Table, views: Views) -> Evaluation:
    with colour_classifier(ACTION if table.task == "action" else RISK) as classifier:
        return evaluate(classifier, table, ONE, views=views)


@pytest.mark.parametrize(("offsets", "moments"), [(2, (0, 2)), (3, (0, 1, 2)), (4, (0, 1, 3, 4))])
def test_views_are_moments_of_the_same_parts(clips: Table, offsets: int, moments: tuple[int, ...]) -> None:
    assert ACTION.time is not None
    found = evaluated(clips, Views(offsets))
    read = offsets + 1 - offsets % 2
    with colour_classifier(ACTION) as classifier:
        expected = []
        for sample in clips.samples:
            (clip,) = read_clips(sample.path, ACTION.pixel, TimeSpec(ACTION.time.frames * read), sample.interval)
            answers = [classifier.classify(clip.frames[None, moment::read])["action"][0] for moment in moments]
            expected.append(np.mean(answers, axis=0))
    np.testing.assert_allclose(found.probabilities["action"], expected, atol=1e-5)
    plain = evaluated(clips, Views())
    alone, whole = found.one_view["action"].to_dict(), plain.metrics["action"].to_dict()
    assert alone["confusion"] == whole["confusion"] and alone["ece"] == pytest.approx(whole["ece"])
    assert not plain.one_view and "views" not in plain.to_json()
    assert '"views"' in found.to_json() and '"one_view"' in found.to_json()


@pytest.mark.parametrize("offsets", [1, 2])
def test_colours_are_the_same_in_a_mirror(clips: Table, offsets: int) -> None:
    mirrored, plain = (evaluated(clips, Views(offsets, is_mirrored)) for is_mirrored in (True, False))
    np.testing.assert_allclose(mirrored.probabilities["action"], plain.probabilities["action"], atol=1e-5)
    assert mirrored.views.count == 2 * offsets


def test_kept_features_are_those_of_the_views(clips: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = (Views(), Views(3), Views(5), Views(3), Views(2, True), Views())
    expected = {views: evaluated(clips, views).probabilities["action"] for views in set(order)}
    monkeypatch.setenv("VIDRISK_CACHE", str(tmp_path / "cache"))
    known: set[Views] = set()
    for views in order:
        sizes: list[int] = []
        with colour_classifier(ACTION, batch_sizes=sizes) as classifier:
            found = evaluate(classifier, clips, InferSettings(workers=1, feature_cache=True), views=views)
        np.testing.assert_allclose(found.probabilities["action"], expected[views], atol=1e-5, err_msg=str(views))
        assert not found.unreadable and bool(sizes) == (views not in known)
        known.add(views)


def test_photos_have_one_moment_and_a_mirror(tmp_path: Path) -> None:
    photos = Table(
        tmp_path,
        "risk",
        tuple(
            Sample(
                Path(write_photo(tmp_path / f"{colour}.png", colour)),
                f"{colour}.png",
                {"defect": colour, "level": "严重"},
            )
            for colour in COLOURS
        ),
    )
    with pytest.raises(SettingsError, match="2 views of photos"):
        evaluated(photos, Views(2))
    assert evaluated(photos, Views(1, True)).metrics["defect"].to_dict()["top1"] == 1.0


@given(st.integers(1, 5), st.booleans(), st.randoms())
def test_directions_are_turned_back(offsets: int, is_mirrored: bool, random: object) -> None:
    views, labels = Views(offsets, is_mirrored), ("turn left", "stop", "turn right")
    rng = np.random.default_rng(random.getrandbits(32))  # type: ignore[attr-defined]
    plain = rng.dirichlet(np.ones(3), views.moments)
    answers = np.concatenate([plain, plain[:, ::-1]]) if is_mirrored else plain  # in a mirror, left is right
    mean, own = views.mean(answers, labels)
    kept = np.delete(plain, views.moments // 2, axis=0) if offsets % 2 == 0 else plain
    np.testing.assert_allclose(mean, kept.mean(axis=0))
    np.testing.assert_allclose(own, plain[views.moments // 2])


def test_what_cannot_be_viewed_is_refused(clips: Table) -> None:
    with pytest.raises(SettingsError, match="0 views; allowed: 1 to 32"):
        Views(0)
    lonely = ACTION.model_copy(update={"targets": (Target(name="action", labels=("left", "stop")),)})
    with pytest.raises(SettingsError, match="mirrored views: a label of action says left or right"):
        Views(1, True).check(lonely, ACTION.time)
    with pytest.raises(SettingsError, match="views of windows of a video"):
        Views(3).check(ACTION, TimeSpec(4, 2.0))
    with pytest.raises(SettingsError, match="31 views of 200 moments"):
        Views(31).check(ACTION, TimeSpec(200))
