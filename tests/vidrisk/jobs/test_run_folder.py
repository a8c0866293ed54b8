from __future__ import annotations

import json
import os
import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from colour import ACTION, RISK, colour_classifier
from small_media import write_photo, write_sound, write_video

from vidrisk.frames.left_out import LeftOut
from vidrisk.inference.meter import STAGES
from vidrisk.inference.model import Classifier
from vidrisk.inference.predictions import PREDICTIONS, read_predictions
from vidrisk.jobs.ledger import Row, read_ledger
from vidrisk.jobs.progress import Progress
from vidrisk.jobs.run_folder import run_folder
from vidrisk.jobs.run_settings import InferSettings
from vidrisk.jobs.segments import Hysteresis
from vidrisk.jobs.sources import Inputs, find_inputs
from vidrisk.jobs.summary import SUMMARY, read_summary
from vidrisk.report import build_report
from vidrisk.runtimes.contract.errors import EXIT_INTERRUPTED, DataError, Interrupted, RuntimeFailure, SettingsError
from vidrisk.runtimes.runner import Arrays
from vidrisk.watch import WatchSettings

SETTINGS = InferSettings(workers=2, batch_frames=8)


@pytest.fixture
def media(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    folder.mkdir()
    for number, colour in enumerate(["red", "green", "blue", "grey"] * 3):
        write_photo(folder / f"{number:02}.png", colour)
    write_video(folder / "20.mp4", ("red", "red", "blue"))
    write_video(folder / "21.mp4", ("green",))
    return folder


def sorted_lines(out: Path) -> list[bytes]:
    return sorted((out / PREDICTIONS).read_bytes().splitlines())


def rows_by_name(out: Path) -> dict[str, Row]:
    return {Path(row.path).name: row for row in read_ledger(out)}


def test_every_input_is_predicted_once(media: Path, tmp_path: Path) -> None:
    inputs = find_inputs([media / "21.mp4", media / "03.png", media])
    summary = run_folder(colour_classifier(ACTION), inputs, tmp_path / "out", SETTINGS)
    by_path = {p.path: p for p in read_predictions(tmp_path / "out")}
    predictions = [by_path[path] for path in inputs.paths]
    assert len(predictions) == len(list(read_predictions(tmp_path / "out"))) == 14
    assert [p.label for p in predictions[:4]] == ["green", "red", "red", "green"]
    assert [p.uncertain for p in predictions[:4]] == [False, True, False, False]
    assert predictions[0].start_s == 0.0 and predictions[0].end_s == pytest.approx(1.0, abs=0.15)
    assert predictions[1].start_s is None
    assert summary.states == {"ok": 14} and summary.failed == 0
    assert summary.labels == {"action": {"red": 7, "green": 4, "blue": 3}} and summary.uncertain == 3
    assert (summary.coverage, summary.no_threshold) == (0.9, {})


@pytest.mark.parametrize(
    ("names", "frames"),
    [(["03.png"], 1), (["20.mp4", "03.png"], ACTION.frames + 1), (["20.mp4", "21.mp4", "03.png"], 8)],
)
def test_the_engine_prepares_for_the_frames_that_will_come(
    names: list[str], frames: int, media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier, prepared = colour_classifier(ACTION), list[int]()
    monkeypatch.setattr(classifier.runners[0], "prepare", prepared.append)
    run_folder(classifier, find_inputs([media / name for name in names]), tmp_path / "out", SETTINGS)
    assert prepared == [frames]  # at most a batch


def test_no_engine_is_prepared_where_every_frame_may_be_in_the_cache(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = colour_classifier(ACTION)
    monkeypatch.setattr(classifier.runners[0], "prepare", lambda rows: pytest.fail(f"prepared for {rows} rows"))
    settings = replace(SETTINGS, feature_cache=True)
    assert run_folder(classifier, find_inputs([media / "20.mp4"]), tmp_path / "out", settings).failed == 0


def test_without_a_threshold_what_is_uncertain_is_not_known(media: Path, tmp_path: Path) -> None:
    heard: list[Progress] = []
    summary = run_folder(
        colour_classifier(RISK, threshold=None),
        find_inputs([media]),
        tmp_path / "out",
        SETTINGS,
        on_progress=heard.append,
    )
    assert {p.uncertain for p in read_predictions(tmp_path / "out")} == {None} and heard[-1].uncertain == 0
    assert replace(read_summary(tmp_path / "out"), targets=summary.targets) == summary  # a list, then
    assert (summary.uncertain, summary.coverage) == (None, None)
    assert summary.why_unknown == "a run has no thresholds; export fits them"
    summary = run_folder(
        colour_classifier(RISK), find_inputs([media]), tmp_path / "other", SETTINGS, on_progress=heard.append
    )
    assert (
        summary.uncertain
        == heard[-1].uncertain
        == sum(bool(p.uncertain) for p in read_predictions(tmp_path / "other"))
        > 0
    )
    assert summary.why_unknown == "level: no samples"


def test_a_summary_of_before_does_not_claim_that_nothing_is_uncertain(media: Path, tmp_path: Path) -> None:
    run_folder(colour_classifier(ACTION), find_inputs([media]), tmp_path / "out", SETTINGS)
    path = tmp_path / "out" / SUMMARY
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["no_threshold"], content["coverage"]
    path.write_text(json.dumps(content | {"uncertain": 0}), encoding="utf-8")
    old = read_summary(tmp_path / "out")
    assert old.uncertain is None and old.why_unknown == "the run was made before bundles had thresholds"
    for broken in ({}, [], {"task": "risk"}):
        path.write_text(json.dumps(broken), encoding="utf-8")
        with pytest.raises(DataError, match="is not a summary of this version"):
            read_summary(tmp_path / "out")


def test_batches_are_filled_across_files_and_do_not_matter(media: Path, tmp_path: Path) -> None:
    lines = []
    for batch_frames in (1, 5, 16, 1000):
        sizes: list[int] = []
        classifier = colour_classifier(ACTION, batch_sizes=sizes)
        out = tmp_path / str(batch_frames)
        run_folder(classifier, find_inputs([media]), out, InferSettings(workers=3, batch_frames=batch_frames))
        assert (
            sum(sizes) == 12 + 2 * 4 and set(sizes[:-1]) <= {batch_frames} and sizes[-1] <= batch_frames
        )  # a photo is one frame
        lines.append(sorted_lines(out))
    assert lines == [lines[0]] * 4


def test_windows(media: Path, tmp_path: Path) -> None:
    settings = InferSettings(window_s=1.0, stride_s=0.5)
    run_folder(colour_classifier(ACTION), find_inputs([media / "20.mp4"]), tmp_path / "out", settings)
    predictions = list(read_predictions(tmp_path / "out"))
    assert [p.start_s for p in predictions] == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5][: len(predictions)]
    assert len(predictions) >= 5
    assert (predictions[0].label, predictions[4].label) == ("red", "blue")
    assert rows_by_name(tmp_path / "out")["20.mp4"].predictions == len(predictions)
    assert read_summary(tmp_path / "out").time == {"frames": 4, "window_s": 1.0, "stride_s": 0.5}


@pytest.mark.parametrize(
    ("window_s", "stride_s"), [(None, 1.0), (1.0, 2.0), (0.0, None), (float("nan"), None), (-1.0, None)]
)
def test_windows_that_make_no_sense(window_s: float | None, stride_s: float | None) -> None:
    with pytest.raises(SettingsError, match="change the window or the stride"):
        InferSettings(window_s=window_s, stride_s=stride_s).for_reading(colour_classifier(ACTION))


@pytest.mark.parametrize(
    "settings", [{"workers": 0}, {"batch_frames": 0}, {"workers": 1000}, {"workers": 2.0}, {"workers": True}]
)
def test_settings_out_of_range(settings: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match=r"(workers|batch_frames) is .*; allowed: 1 to \d+, whole numbers"):
        InferSettings(**settings)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, field.name) for kind in (InferSettings, Hysteresis, WatchSettings) for field in fields(kind)],
    ids=str,
)
@pytest.mark.parametrize("wrong", ["typo", [1], b"all", float("nan")], ids=repr)
def test_every_setting_is_checked_before_anything_is_read(kind: type[InferSettings], name: str, wrong: object) -> None:
    with pytest.raises(SettingsError, match=f"{name}.* {re.escape(repr(wrong))}.*allowed: [^;]+"):
        kind(**{name: wrong}).for_reading(colour_classifier(ACTION))


@pytest.mark.parametrize(
    ("name", "wrong", "allowed"),
    [
        ("decoder", "opencv", "auto, pyav, decord"),
        ("frames", "keyframe", "all, keyframes"),
        ("frames", "ALL", "all, keyframes"),
        ("resume", 1, "True, False"),
        ("hysteresis", (0.5, 0.35), "a Hysteresis"),
    ],
)
def test_a_slip_in_a_setting_is_told_what_is_allowed(name: str, wrong: object, allowed: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name} is {re.escape(repr(wrong))}; allowed: {allowed}$"):
        InferSettings(**{name: wrong})  # type: ignore[arg-type]


def test_bad_files_of_every_kind_end_in_the_ledger(media: Path, tmp_path: Path) -> None:
    write_sound(media / "sound.mp4")
    (media / "empty.mp4").write_bytes(b"")
    (media / "empty.jpg").write_bytes(b"")
    (media / "text.mp4").write_text("this is no video\n" * 50)
    (media / "text.png").write_text("this is no photo")
    (media / "truncated.mp4").write_bytes((media / "20.mp4").read_bytes()[:400])
    (media / "truncated.png").write_bytes((media / "00.png").read_bytes()[:60])
    (media / "notes.txt").write_text("notes")
    os.mkfifo(media / "pipe.mp4")
    (media / "dangling.mp4").symlink_to(media / "nowhere.mp4")
    inputs = find_inputs([media, media / "notes.txt", media / "missing.mp4"])
    summary = run_folder(colour_classifier(ACTION), inputs, tmp_path / "out", SETTINGS)

    rows = rows_by_name(tmp_path / "out")
    assert len(rows) == len(inputs.paths) == summary.inputs == 25
    bad = {name: row.state for name, row in rows.items() if row.state != "ok"}
    assert {name for name, state in bad.items() if state == "skipped"} >= {
        "notes.txt",
        "missing.mp4",
        "pipe.mp4",
        "dangling.mp4",
    }
    assert {name for name, state in bad.items() if state == "corrupt"} >= {
        "empty.mp4",
        "empty.jpg",
        "text.mp4",
        "text.png",
        "truncated.mp4",
        "truncated.png",
    }
    assert bad["sound.mp4"] in ("corrupt", "skipped")
    assert all(rows[name].reason and "\n" not in rows[name].reason and rows[name].predictions == 0 for name in bad)
    assert len(bad) == summary.failed == 11
    assert {Path(p.path).name for p in read_predictions(tmp_path / "out")} == set(rows) - set(bad)


def test_names_with_odd_bytes_go_through(tmp_path: Path) -> None:
    folder = tmp_path / '相机 7 "north"'
    folder.mkdir()
    names = ["with space.png", "quote'\".png", "裂缝.png", "🔥.png", "new\nline.png", os.fsdecode(b"\xff\xfe.png")]
    for name in names:
        write_photo(folder / name)
    (folder / os.fsdecode(b"bad\xff.png")).write_bytes(b"no photo")
    run_folder(colour_classifier(RISK), find_inputs([folder]), tmp_path / "out", SETTINGS)
    assert {Path(p.path).name for p in read_predictions(tmp_path / "out")} == set(names)
    assert len(read_ledger(tmp_path / "out")) == 7
    for line in (tmp_path / "out" / PREDICTIONS).read_text(encoding="utf-8").splitlines():
        assert Path(json.loads(line)["path"]).is_file()


def test_resuming_a_finished_run_does_nothing_and_new_files_are_added(media: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_folder(colour_classifier(ACTION), find_inputs([media]), out, SETTINGS)
    before = (out / PREDICTIONS).read_bytes()
    sizes: list[int] = []
    resumed = InferSettings(resume=True)
    run_folder(colour_classifier(ACTION, batch_sizes=sizes), find_inputs([media]), out, resumed)
    assert sizes == [] and (out / PREDICTIONS).read_bytes() == before
    write_photo(media / "99.png", "blue")
    summary = run_folder(colour_classifier(ACTION), find_inputs([media]), out, resumed)
    assert summary.inputs == 15 and summary.labels["action"]["blue"] == 4
    assert (out / PREDICTIONS).read_bytes().startswith(before)


def test_a_changed_file_is_done_again(media: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_folder(colour_classifier(ACTION), find_inputs([media]), out, SETTINGS)
    write_photo(media / "00.png", "blue", size=(64, 64))
    run_folder(colour_classifier(ACTION), find_inputs([media]), out, InferSettings(resume=True))
    labels = [p.label for p in read_predictions(out) if p.path.endswith("00.png")]
    assert labels == ["blue"] and len(read_ledger(out)) == 14


def test_another_bundle_is_refused(media: Path, tmp_path: Path) -> None:
    run_folder(colour_classifier(ACTION), find_inputs([media]), tmp_path / "out", SETTINGS)
    with pytest.raises(SettingsError, match="has bundle 000000000000…, this one 111111111111…"):
        run_folder(
            colour_classifier(ACTION, digest="1" * 64),
            find_inputs([media]),
            tmp_path / "out",
            InferSettings(resume=True),
        )
    with pytest.raises(SettingsError, match=r"has window_s None, this one 1\.0"):
        run_folder(
            colour_classifier(ACTION), find_inputs([media]), tmp_path / "out", InferSettings(resume=True, window_s=1.0)
        )


def fails_at(classifier: Classifier, call: int, error: BaseException) -> Classifier:
    calls = 0
    real = classifier.encode

    def encode(frames: npt.NDArray[np.uint8]) -> Arrays:
        nonlocal calls
        calls += 1
        if calls == call:
            raise error
        return real(frames)

    classifier.encode = encode  # type: ignore[method-assign]
    return classifier


@pytest.mark.parametrize(
    ("error", "raised"), [(RuntimeFailure("engine failed"), RuntimeFailure), (KeyboardInterrupt(), Interrupted)]
)
def test_an_engine_that_fails_and_ctrl_c_leave_a_run_to_resume(
    media: Path, tmp_path: Path, error: BaseException, raised: type[Exception]
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    run_folder(colour_classifier(ACTION), find_inputs([media]), whole, SETTINGS)
    with pytest.raises(raised):
        run_folder(fails_at(colour_classifier(ACTION), 3, error), find_inputs([media]), out, SETTINGS)
    states = [row.state for row in read_ledger(out)]
    assert (
        sorted(set(states)) == ["ok", "pending"] and 7 <= states.count("ok") < 14
    )  # what two batches of 8 frames hold
    with pytest.raises(DataError, match="did not end"):
        read_summary(out)
    run_folder(colour_classifier(ACTION), find_inputs([media]), out, InferSettings(resume=True))
    assert sorted_lines(out) == sorted_lines(whole)


def test_a_run_that_was_continued_and_cut_short_has_not_ended(media: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_folder(colour_classifier(ACTION), find_inputs([media / "00.png"]), out, SETTINGS)
    build_report(out)
    run_folder(
        colour_classifier(ACTION), find_inputs([media / "00.png"]), out, InferSettings(resume=True)
    )  # nothing to do
    assert read_summary(out).inputs == 1
    with pytest.raises(RuntimeFailure):
        run_folder(
            fails_at(colour_classifier(ACTION), 1, RuntimeFailure("engine failed")),
            find_inputs([media]),
            out,
            InferSettings(resume=True),
        )
    with pytest.raises(DataError, match="did not end"):
        build_report(out)
    run_folder(colour_classifier(ACTION), find_inputs([media]), out, InferSettings(resume=True))
    assert read_summary(out).inputs == 14 and build_report(out)


def test_a_batch_leaves_alone_what_came_before(media: Path, tmp_path: Path) -> None:
    out, classifier = tmp_path / "out", colour_classifier(ACTION)
    run_folder(classifier, find_inputs([media / "00.png"]), out, SETTINGS)
    with pytest.raises(RuntimeFailure):
        run_folder(
            fails_at(colour_classifier(ACTION), 1, RuntimeFailure("engine failed")),
            find_inputs([media / "01.png"]),
            out,
            InferSettings(resume=True),
            is_batch=True,
        )
    assert read_summary(out).inputs == 1  # of the batches before
    write_photo(media / "00.png", "blue", size=(60, 40))
    run_folder(classifier, find_inputs([media / "02.png"]), out, InferSettings(resume=True), is_batch=True)
    assert {Path(p.path).name: p.label for p in read_predictions(out)} == {"00.png": "red", "02.png": "blue"}
    assert {name: row.state for name, row in rows_by_name(out).items()} == {"00.png": "ok", "02.png": "ok"}


def test_ctrl_c_says_how_to_go_on() -> None:
    assert Interrupted.exit_code == EXIT_INTERRUPTED


def test_progress_counts_the_whole_folder(media: Path, tmp_path: Path) -> None:
    (media / "bad.png").write_bytes(b"bad")
    seen: list[Progress] = []
    run_folder(colour_classifier(ACTION), find_inputs([media]), tmp_path / "out", SETTINGS, on_progress=seen.append)
    assert sorted({p.files for p in seen} - {0}) == list(range(1, 16))
    assert replace(seen[-1], pace=None) == Progress(files=15, files_total=15, files_failed=1, clips=14, uncertain=3)
    pace = seen[-1].pace
    assert pace and pace.files_per_s > 0 and pace.bottleneck in ("decode", "encode", "head", "write")


def test_the_summary_file_says_what_the_run_returned(media: Path, tmp_path: Path) -> None:
    inputs = Inputs(find_inputs([media]).paths, LeftOut(["a.txt", "b.txt", "c.txt"]))
    summary = run_folder(colour_classifier(RISK), inputs, tmp_path / "out", SETTINGS)
    assert json.loads((tmp_path / "out" / SUMMARY).read_text()) == json.loads(summary.to_json())
    assert read_summary(tmp_path / "out").to_json() == summary.to_json()
    assert summary.mean_severity is not None and 0 < summary.mean_severity < 100
    assert set(summary.timings_s) == {"wall", *STAGES} and summary.other_files == 3
    assert (summary.runtime, summary.variant, summary.provenance["digest"]) == ("fake", "fp32", "0" * 64)


def test_the_odd_real_clips(tmp_path: Path) -> None:
    """Real clips in two containers and several codecs, with a sound track, are predicted without a failure."""
    clips = Path(os.environ.get("VIDRISK_TEST_DATA", Path(__file__).parents[4] / "shared" / "data")) / "clips"
    if not clips.is_dir():
        pytest.skip(f"no real clips in {clips}: set VIDRISK_TEST_DATA")
    summary = run_folder(colour_classifier(ACTION), find_inputs([clips]), tmp_path / "out", SETTINGS)
    assert summary.inputs == 5 and summary.failed == 0
    assert all(p.end_s and p.end_s > 1 for p in read_predictions(tmp_path / "out"))
