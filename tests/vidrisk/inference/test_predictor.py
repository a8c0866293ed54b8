"""Tests of a model in Python code: photos, clips with windows, arrays, many files, several threads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colour import ACTION, RISK, colour_classifier
from colour_bundle import write_colour_bundle
from small_media import RGB, write_photo, write_video

import vidrisk
from vidrisk import Model
from vidrisk.frames import read_clips
from vidrisk.inference.predictions import Prediction, prediction_from_json, read_predictions
from vidrisk.jobs.run_folder import run_folder
from vidrisk.jobs.sources import find_inputs
from vidrisk.runtimes.contract.errors import RuntimeFailure, SettingsError, SpecError, UnreadableError


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with Model(colour_classifier(ACTION), workers=2) as opened:
        yield opened


@pytest.fixture(scope="module")
def risk_model() -> Iterator[Model]:
    with Model(colour_classifier(RISK), workers=1) as opened:
        yield opened


def labels(predictions: list[Prediction]) -> list[str]:
    return [prediction.label for prediction in predictions]


def test_a_bundle_is_loaded_and_predicts_a_photo(tmp_path: Path) -> None:
    write_colour_bundle(tmp_path / "colours.bundle")
    with vidrisk.load(tmp_path / "colours.bundle") as model:
        (prediction,) = model.predict(write_photo(tmp_path / "a.png", "green"))
    assert (prediction.label, prediction.path, prediction.state) == ("green", str(tmp_path / "a.png"), "ok")


def test_predictions_are_those_of_a_run_over_the_folder(model: Model, tmp_path: Path) -> None:
    media = tmp_path / "media"
    media.mkdir()
    paths = [write_photo(media / "a.png", "blue"), write_video(media / "b.mp4", ("red", "green"))]
    run_folder(colour_classifier(ACTION), find_inputs([media]), tmp_path / "out")
    written = {prediction.path: prediction for prediction in read_predictions(tmp_path / "out")}
    found = model.predict(paths)
    assert [prediction_from_json(prediction.to_json()) for prediction in found] == [written[path] for path in paths]


def test_inputs_of_all_kinds_are_answered_in_their_order(model: Model, tmp_path: Path) -> None:
    photo, clip = write_photo(tmp_path / "a.png", "blue"), write_video(tmp_path / "b.mp4", ("red", "green", "blue"))
    red = np.full((40, 60, 3), RGB["red"], np.uint8)
    assert labels(model.predict([red, Path(photo), red, photo])) == ["red", "blue", "red", "blue"]
    windows = model.predict([clip, photo], window_s=1.0)
    assert labels(windows) == ["red", "green", "blue", "blue"]
    assert [(window.start_s, window.end_s) for window in windows] == [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0), (None, None)]
    assert [p.start_s for p in model.predict(clip, window_s=1.0, stride_s=0.5)] == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    assert model.predict([]) == []


def test_an_array_is_answered_as_the_file_that_shows_it(model: Model, risk_model: Model, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (31, 47, 3), np.uint8)
    from PIL import Image

    Image.fromarray(photo).save(tmp_path / "a.png")
    for one in (model, risk_model):
        (of_file,), (of_array,) = one.predict(tmp_path / "a.png"), one.predict(photo)
        assert of_array.targets == of_file.targets and (of_array.path, of_array.start_s) == ("", None)
    clip = rng.integers(0, 256, (4, *ACTION.pixel.frame_shape), np.uint8)
    expected = model.classifier.probabilities_from_logits(model.classifier.logits_from_frames(clip[None], 4))["action"][
        0
    ]
    np.testing.assert_allclose(list(model.predict(clip)[0].targets["action"].values()), expected, rtol=1e-6)
    # Of more frames, those in the middles of four equal parts, wherever they lie in memory.
    longer = np.zeros((2, 8, *clip.shape[1:]), np.uint8)
    longer[0, [1, 3, 5, 7]] = clip
    assert model.predict(np.moveaxis(longer, 0, 1)[:, 0])[0].targets == model.predict(clip)[0].targets


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (np.zeros((4, 4, 3)), r"an array float64 \(4, 4, 3\)"),
        (np.zeros((4, 4), np.uint8), r"uint8 \(4, 4\)"),
        (np.zeros((3, 4, 4), np.uint8), r"\(3, 4, 4\)"),
        (np.zeros((0, 4, 4, 3), np.uint8), r"\(0, 4, 4, 3\)"),
        (np.zeros((1, 2, 4, 4, 3), np.uint8), r"\(1, 2, 4, 4, 3\)"),
        (7, "an input of type int"),
        ([b"a.png"], "an input of type bytes"),
    ],
    ids=str,
)
def test_what_is_no_input_is_said_with_what_is(wrong: Any, said: str, model: Model) -> None:
    with pytest.raises(SpecError, match=f"{said}; allowed: "):
        model.predict(wrong)


def test_a_file_that_cannot_be_read_is_an_error_with_its_state(model: Model, tmp_path: Path) -> None:
    good = write_photo(tmp_path / "good.png")
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(UnreadableError, match=r"missing.png cannot be read \(skipped\): .*does not exist") as caught:
        model.predict([good, tmp_path / "missing.png"])
    assert caught.value.state == "skipped"
    with pytest.raises(UnreadableError, match=r"bad.mp4 cannot be read \(corrupt\): ."):
        model.predict(tmp_path / "bad.mp4")
    with pytest.raises(SettingsError, match="is a folder"):
        model.predict(tmp_path)
    assert labels(model.predict(good)) == ["red"]


def test_a_stream_goes_on_behind_files_that_cannot_be_read(model: Model, tmp_path: Path) -> None:
    paths = [write_photo(tmp_path / f"{number}.png") for number in range(3)]
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    clip = write_video(tmp_path / "clip.mp4", ("red", "blue"))
    found = list(model.stream((path for path in [*paths, tmp_path / "bad.mp4", clip]), window_s=1.0))
    by_path = {path: [p for p in found if p.path == path] for path in {p.path for p in found}}
    assert len(found) == 6 and labels(by_path[clip]) == ["red", "blue"]
    (bad,) = by_path[str(tmp_path / "bad.mp4")]
    assert (bad.state, bad.label, bad.targets) == ("corrupt", "", {}) and bad.reason


def test_a_stream_takes_inputs_as_it_needs_them_and_may_be_left(model: Model, tmp_path: Path) -> None:
    path, taken = write_photo(tmp_path / "a.png"), 0

    def paths() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield path

    stream = model.stream(paths())
    for prediction in stream:
        assert labels(model.predict(prediction.path)) == ["red"]  # while the stream waits
        break
    stream.close()
    assert taken < 200 and labels(model.predict(path)) == ["red"]


def test_threads_share_a_model(model: Model, tmp_path: Path) -> None:
    colours = list(RGB)[:3] * 4
    paths = [write_photo(tmp_path / f"{number}.png", colour) for number, colour in enumerate(colours)]
    arrays = [np.full((20, 20, 3), RGB[colour], np.uint8) for colour in colours]
    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(lambda one: model.predict(one)[0].label, [*paths, *arrays]))
    assert found == colours * 2


def test_an_id_is_of_content_window_and_contract_and_not_of_the_path(
    model: Model, risk_model: Model, tmp_path: Path
) -> None:
    clip = write_video(tmp_path / "a.mp4", ("red", "blue"))
    shutil.copy(clip, tmp_path / "b.mp4")
    ids = [[p.id for p in model.predict(path, window_s=1.0)] for path in (clip, tmp_path / "b.mp4")]
    assert ids[0] == ids[1] and len(set(ids[0])) == 2 and all(len(one) == 32 for one in ids[0])
    assert {model.predict(clip)[0].id, risk_model.predict(clip)[0].id}.isdisjoint(ids[0])
    assert model.predict(clip)[0].id != risk_model.predict(clip)[0].id
    write_video(tmp_path / "a.mp4", ("red", "green"))
    assert {p.id for p in model.predict(clip, window_s=1.0)}.isdisjoint(ids[0])
    array = np.zeros((8, 8, 3), np.uint8)
    assert model.predict(array)[0].id == model.predict(array.copy())[0].id != model.predict(array + 1)[0].id


def test_a_closed_model_says_so(tmp_path: Path) -> None:
    model = Model(colour_classifier(ACTION), workers=1)
    model.close()
    model.close()
    for act in (lambda: model.predict(np.zeros((4, 4, 3), np.uint8)), lambda: model.stream([])):
        with pytest.raises(RuntimeFailure, match="closed; fix: load it again"):
            act()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_fork_has_to_load_its_own(model: Model) -> None:
    child = os.fork()
    if not child:
        try:
            model.predict(np.zeros((4, 4, 3), np.uint8))
        except RuntimeFailure as error:
            model.close()
            os._exit(0 if "forked" in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert labels(model.predict(np.full((4, 4, 3), RGB["blue"], np.uint8))) == ["blue"]


def test_a_program_that_ends_without_closing_ends(tmp_path: Path) -> None:
    write_colour_bundle(tmp_path / "colours.bundle")
    photo = write_photo(tmp_path / "a.png", "green")
    code = f"import vidrisk; print(vidrisk.load({str(tmp_path / 'colours.bundle')!r}).predict({photo!r})[0].label)"
    end = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (end.returncode, end.stdout) == (0, "green\n"), end.stderr


def test_the_frames_of_a_clip_are_those_of_the_reader(model: Model, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "a.mp4", ("red", "green", "blue"))
    (read,) = read_clips(clip, ACTION.pixel, ACTION.time)
    of_file, of_array = model.predict(clip)[0], model.predict(read.frames)[0]
    assert of_file.targets == of_array.targets
