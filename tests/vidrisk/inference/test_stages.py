"""Tests of a model of three stages in every runtime, over real videos, compared with numpy.

Models that run only per window are tested, too.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_media import write_photo
from three_stages import CONTRACT, PROMPT, STAGES, T, logits_of, write_three_stages

from vidrisk.bench.alone import run_alone
from vidrisk.bench.benchmark import run_bench
from vidrisk.decode.messages import Again, Input, InputEnd, Pause, Read
from vidrisk.frames import Frame, FrameWindow, read_frames
from vidrisk.inference.encode import encode_frames
from vidrisk.inference.meter import Meter
from vidrisk.inference.model import Classifier, open_classifier
from vidrisk.inference.plan import overlap_cost, plan_from_stages
from vidrisk.inference.windows import EncodedAgain, EncodedEnd, EncodedWindow, stack_parts
from vidrisk.jobs.run_folder import run_folder
from vidrisk.jobs.run_settings import InferSettings
from vidrisk.jobs.saved_features import features_of
from vidrisk.jobs.sources import find_inputs
from vidrisk.runtimes import Bundle, Stage, TensorSpec, TimeSpec, choose
from vidrisk.runtimes.contract.errors import BundleError, SettingsError
from vidrisk.runtimes.contract.probabilities import probabilities_from_logits
from vidrisk.runtimes.contract.stages import PIXELS, check_stages, window_encoder_stages
from vidrisk.runtimes.runner import Array, Arrays, FakeRunner
from vidrisk.runtimes.select import rank_choices
from vidrisk.runtimes.tensorrt.build.engines import BuildOptions, build_engines
from vidrisk.runtimes.tensorrt.cache import EngineStore
from vidrisk.verify import verify_bundle

RUNTIMES = ("onnxruntime", "openvino")
TOLERANCE = {"fp32": 2e-5, "int8": 0.02}
Clip = npt.NDArray[np.uint8]
SCHEMA_1 = Path(__file__).parents[2] / "runtimes" / "fixtures" / "schema1"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_three_stages(tmp_path_factory.mktemp("bundles") / "three.bundle")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with three clips of 3.5, 2 and 1 s whose pictures all differ, and a photo."""
    folder = tmp_path_factory.mktemp("videos")
    for number, frames in enumerate((28, 16, 8)):
        with av.open(str(folder / f"{number}.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=8)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for moment in range(frames):
                rgb = np.random.default_rng((number, moment)).integers(0, 256, (2, 3), np.uint8)
                frame = np.repeat(rgb, 24, axis=0)[:, None].repeat(64, axis=1)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
    write_photo(folder / "photo.png", "red")
    return folder


def windows_of(path: Path, time: TimeSpec | None = CONTRACT.time) -> list[tuple[float | None, tuple[int, ...], Clip]]:
    """Return the start, indices and frames of each window of a file, read in the simplest way."""
    frames: dict[int, Clip] = {}
    found = []
    for item in read_frames(path, CONTRACT.pixel, time):
        if isinstance(item, Frame):
            frames[item.index] = item.pixels
        else:
            found.append((item.start_s, tuple(item.indices), np.stack([frames[index] for index in item.indices])))
    return found


def expected_of(
    videos: Path, time: TimeSpec | None = CONTRACT.time
) -> dict[tuple[str, float | None], npt.NDArray[np.float32]]:
    return {
        (path.name, start): probabilities_from_logits(logits_of(clip)[None].astype(np.float32))[0]
        for path in sorted(videos.iterdir())
        for start, _, clip in windows_of(path, time)
    }


def predicted(out: Path) -> dict[tuple[str, float | None], dict[str, float]]:
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    return {(Path(row["path"]).name, row["start_s"]): row["targets"]["action"] for row in rows}


def check_predictions(
    out: Path, expected: Mapping[tuple[str, float | None], npt.NDArray[np.float32]], tolerance: float
) -> None:
    found = predicted(out)
    assert found.keys() == expected.keys() and len(found) >= 10
    for key, probabilities in expected.items():
        np.testing.assert_allclose(
            [found[key][label] for label in CONTRACT.targets[0].labels], probabilities, atol=tolerance
        )


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_overlapping_windows_of_real_videos_are_what_numpy_says(
    bundle: Bundle, videos: Path, tmp_path: Path, runtime: str, variant: Any
) -> None:
    with open_classifier(bundle.root, runtime=runtime, variant=variant, threads=1) as classifier:
        summary = run_folder(
            classifier, find_inputs([videos]), tmp_path / "out", InferSettings(workers=2, batch_frames=5)
        )
    assert summary.states["ok"] == 4
    check_predictions(tmp_path / "out", expected_of(videos), TOLERANCE[variant])


def counting(classifier: Classifier) -> list[tuple[str, int]]:
    """Record every call from now on, and return the list of (stage, rows)."""
    calls: list[tuple[str, int]] = []
    for stage, runner in zip(classifier.stages, classifier.runners, strict=True):

        def infer(feed: Mapping[str, Array], name: str = stage.name, own: Any = runner.infer) -> Arrays:
            calls.append((name, len(next(iter(feed.values())))))
            result: Arrays = own(feed)
            return result

        runner.infer = infer  # type: ignore[method-assign]
    return calls


def test_frames_and_groups_that_windows_share_are_computed_once(bundle: Bundle, videos: Path, tmp_path: Path) -> None:
    with open_classifier(bundle.root, runtime="onnxruntime", variant="fp32", threads=1) as classifier:
        calls = counting(classifier)
        run_folder(classifier, find_inputs([videos]), tmp_path / "out", InferSettings(workers=1, batch_frames=6))
    windows = {path: [indices for _, indices, _ in windows_of(path)] for path in videos.iterdir()}
    groups = {path: [w[i : i + 2] for w in of for i in (0, 2)] for path, of in windows.items()}
    rows = {stage.name: sum(count for name, count in calls if name == stage.name) for stage in STAGES}
    assert rows["vision"] == sum(len({i for w in of for i in w}) for of in windows.values())
    assert rows["pairs"] == sum(len(set(of)) for of in groups.values()) < sum(map(len, groups.values()))
    assert rows["answer"] == sum(map(len, windows.values()))
    assert max(count for name, count in calls if name == "pairs") == 3  # 6 frames at once are 3 groups


def test_features_of_frames_are_kept_and_found_again(
    bundle: Bundle, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDRISK_CACHE", str(tmp_path / "cache"))
    keeping = InferSettings(workers=1, feature_cache=True, save_features=True)
    for name in ("first", "second"):
        with open_classifier(bundle.root, runtime="onnxruntime", variant="fp32", threads=1) as classifier:
            calls = counting(classifier)
            run_folder(classifier, find_inputs([videos]), tmp_path / name, keeping)
            assert ("vision" in {stage for stage, _ in calls}) == (name == "first")
        check_predictions(tmp_path / name, expected_of(videos), TOLERANCE["fp32"])
        assert {features.shape[1] for _, features, _ in features_of(tmp_path / name)} == {6}


def test_another_prompt_is_another_answer(videos: Path, tmp_path: Path) -> None:
    other = write_three_stages(tmp_path / "other.bundle", golden=False, prompt=PROMPT + 1)
    clip = np.zeros((1, T, 16, 16, 3), np.uint8)
    for runtime in RUNTIMES:
        with open_classifier(other.root, runtime=runtime, variant="fp32", threads=1) as classifier:
            own = classifier.logits_from_frames(clip, 32)["action"]
        assert np.abs(own[0] - logits_of(clip[0])).max() > 0.1


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_all_ways_to_ask_agree(bundle: Bundle, runtime: str) -> None:
    clips = np.random.default_rng(0).integers(0, 256, (5, T, 16, 16, 3), np.uint8)
    wanted = np.stack([logits_of(clip) for clip in clips]).astype(np.float32)
    with open_classifier(bundle.root, runtime=runtime, variant="fp32", threads=1) as classifier:
        for batch in (1, 4, 7, 64):
            np.testing.assert_allclose(classifier.logits_from_frames(clips, batch)["action"], wanted, atol=2e-5)
        features = classifier.features(clips.reshape(-1, 16, 16, 3)).reshape(5, T, 2, 3)
        np.testing.assert_allclose(classifier.logits(features)["action"], wanted, atol=2e-5)
        np.testing.assert_allclose(classifier.classify(clips)["action"], probabilities_from_logits(wanted), atol=2e-5)
        assert sum(classifier.layers().counts.values()) >= 2 or classifier.layers().unproved
        assert run_alone(classifier).peak_bytes > 0


def test_a_window_with_what_is_not_finite_has_no_answer(bundle: Bundle) -> None:
    features = np.full((2, T, 2, 3), 0.5, np.float32)
    features[1, 2, 0, 0] = np.inf
    with open_classifier(bundle.root, runtime="onnxruntime", variant="fp32", threads=1) as classifier:
        logits = classifier.logits(features)["action"]
    assert np.isfinite(logits[0]).all() and np.isnan(logits[1]).all()


def test_it_is_verified_and_benched(bundle: Bundle) -> None:
    found = verify_bundle(bundle.root)
    assert [(row.runtime, row.variant, row.wrong) for row in found.rows] == [
        (runtime, variant, 0) for runtime in RUNTIMES for variant in ("fp32", "int8")
    ]
    assert not found.faults
    assert {row.variant: row.tolerance for row in found.rows} == {"fp32": 0.005, "int8": 0.15}
    bench = run_bench(bundle.root, runtime="onnxruntime", threads=1)
    assert bench.macs_per_frame == 768 + 60 // 2 + round(33 / 4)
    for row in bench.rows:
        assert row.problem == "" and row.frame and row.clip and row.throughput
        assert all(batch % T == 0 for batch in row.throughput.frames_per_s)


@pytest.mark.parametrize("name", ["clips", "photos"])
def test_bundles_of_schema_1_infer_and_verify(name: str, videos: Path, tmp_path: Path) -> None:
    found = verify_bundle(SCHEMA_1 / name)
    assert len(found.rows) == (4 if name == "clips" else 2) and found.is_whole and not found.faults
    with open_classifier(SCHEMA_1 / name, runtime="onnxruntime", variant="fp32", threads=1) as classifier:
        summary = run_folder(classifier, find_inputs([videos]), tmp_path / "out", InferSettings(workers=1))
    assert summary.states["ok"] == 4 and summary.predictions == (len(expected_of(videos)) if name == "clips" else 4)


def test_the_whole_chain_is_timed_where_no_stage_weighs_nearly_all(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDRISK_CACHE", str(tmp_path))
    opened: list[str] = []

    def noted(bundle: Bundle, stage: str, **options: Any) -> Any:
        from vidrisk.runtimes import open_runner

        opened.append(stage)
        return open_runner(bundle, stage, **options)

    assert choose(bundle, threads=1, opened=noted).ms_per_frame
    assert set(opened) == {"vision"}  # of 768 · 4 multiplications of 3 225 in a window
    light = tuple(stage.model_copy(update={"macs": None}) for stage in STAGES)
    whole = Bundle(bundle.root, bundle.manifest.model_copy(update={"stages": light}), bundle.digest)
    opened.clear()
    rank_choices(whole, [choose(bundle, runtime="openvino", variant="int8")], 1, noted)
    assert opened == ["vision", "pairs", "answer"]


def test_tensorrt_builds_an_engine_per_stage(bundle: Bundle, tmp_path: Path) -> None:
    reports = build_engines(
        bundle,
        BuildOptions(compute_capabilities=("8.6",)),
        kind="tensorrt-rtx",
        store=EngineStore(tmp_path / "engines"),
    )
    assert [(report.stage, report.variants) for report in reports] == [
        ("vision", ("fp32", "int8")),
        ("pairs", ("fp32",)),
        ("answer", ("fp32",)),
        ("pairs", ("int8",)),
        ("answer", ("int8",)),
    ]
    assert [report.int8_layers for report in reports] == [0, 0, 0, 1, 0]
    assert all(report.bytes > 0 and report.path.is_file() for report in reports)


def of_engines(bundle: Bundle, engines: Mapping[str, str]) -> Bundle:
    """Return the bundle with its INT8 variant under several names, each for its kind of engine."""
    known = bundle.manifest.variants
    variants = {
        "fp32": known["fp32"],
        **{name: known["int8"].model_copy(update={"engines": kind}) for name, kind in engines.items()},
    }
    return Bundle(bundle.root, bundle.manifest.model_copy(update={"variants": variants}), bundle.digest)


def test_a_variant_is_nothing_to_an_engine_that_it_is_not_made_for(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    both = of_engines(bundle, {"int8": "processor", "int8-tensorrt": "tensorrt"})
    assert {choose(both, runtime=runtime, variant="int8").variant for runtime in RUNTIMES} == {"int8"}
    with pytest.raises(BundleError, match="has int8-tensorrt, but not for onnxruntime; allowed: fp32 for any"):
        choose(both, runtime="onnxruntime", variant="int8-tensorrt")
    options, store = BuildOptions(compute_capabilities=("8.6",)), EngineStore(tmp_path / "engines")
    reports = build_engines(both, options, kind="tensorrt-rtx", store=store)
    assert {name for report in reports for name in report.variants} == {"fp32", "int8-tensorrt"}
    reports = build_engines(both, options, kind="tensorrt-rtx", variants=["int8"], store=store)
    assert {name for report in reports for name in report.variants} == {"int8-tensorrt"}
    for_processors = of_engines(bundle, {"int8": "processor"})
    reports = build_engines(for_processors, options, kind="tensorrt-rtx", store=store)
    assert {name for report in reports for name in report.variants} == {"fp32"}
    assert "int8 is left out: it is made for processors" in caplog.text
    with pytest.raises(BundleError, match="has int8, but nothing that is made for tensorrt-rtx"):
        build_engines(for_processors, options, kind="tensorrt-rtx", variants=["int8"], store=store)


def window_classifier(calls: list[int]) -> Classifier:
    """Return a model of one stage per window and a head.

    The features are the mean colours of the window's frames.
    """
    stages = window_encoder_stages(CONTRACT, T * 3)

    def encode(feed: Mapping[str, Array]) -> Arrays:
        calls.append(len(feed[PIXELS]))
        return {"features": feed[PIXELS].mean(axis=(2, 3)).reshape(-1, T * 3).astype(np.float32)}

    def answer(feed: Mapping[str, Array]) -> Arrays:
        return {"action_logits": feed["features"][:, :3] / 32}

    runners = [
        FakeRunner(stage.inputs, stage.outputs, function)
        for stage, function in zip(stages, (encode, answer), strict=True)
    ]
    return Classifier(
        stages, runners, CONTRACT, variant="fp32", provenance={"model": "windows.bundle", "digest": "2" * 64}
    )


def test_a_model_per_window_gets_pixels_in_batches_and_says_what_overlap_costs(
    videos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int] = []
    with window_classifier(calls) as classifier:
        run_folder(classifier, find_inputs([videos]), tmp_path / "out", InferSettings(workers=2, batch_frames=12))
        assert classifier.width is None and classifier.plan.shares_nothing
        assert run_alone(classifier).peak_bytes > 0
    expected = {
        (path.name, start): probabilities_from_logits((clip[0].mean(axis=(0, 1)) / 32)[None].astype(np.float32))[0]
        for path in sorted(videos.iterdir())
        for start, _, clip in windows_of(path)
    }
    check_predictions(tmp_path / "out", expected, 1e-5)
    assert set(calls[:-3]) >= {3} and max(calls[:4]) == 3  # windows of 4 frames, 12 frames at once
    assert "begin every 0.5 s, and this model computes each of them separately: 2 × the work" in caplog.text


def test_a_model_per_window_keeps_no_features(videos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with window_classifier([]) as classifier:
        with pytest.raises(SettingsError, match=r"has no feature per frame; .* fix: leave save_features out$"):
            run_folder(classifier, find_inputs([videos]), tmp_path / "out", InferSettings(save_features=True))
        assert not (tmp_path / "out").exists()
        with pytest.raises(SettingsError, match="has no feature per frame"):
            classifier.features(np.zeros((1, 16, 16, 3), np.uint8))
        caplog.set_level(logging.WARNING)
        run_folder(classifier, find_inputs([videos]), tmp_path / "out", InferSettings(feature_cache=True, workers=1))
    assert "the feature cache is not used" in caplog.text and len(predicted(tmp_path / "out")) >= 10


def reads_of(number: int, frames: int, step: int, attempt: int = 0) -> list[Read]:
    """Return reads of noise frames, with a window over the last T frames every ``step`` frames."""
    rng = np.random.default_rng((number, attempt))
    reads: list[Read] = []
    for index in range(frames):
        reads.append(
            Read(Input(number, f"/{number}"), Frame(index, index / 10, rng.integers(0, 256, (16, 16, 3), np.uint8)))
        )
        if index >= T - 1 and (index - T + 1) % step == 0:
            shown = tuple(range(index - T + 1, index + 1))
            reads.append(Read(Input(number, f"/{number}"), FrameWindow(float(shown[0]), float(index + 1), shown)))
    return reads


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    batch_frames=st.integers(1, 13),
    inputs=st.lists(
        st.tuples(st.integers(0, 12), st.integers(1, 4), st.sampled_from([None, 0, 3, 7])), min_size=1, max_size=4
    ),
)
def test_groups_and_windows_of_any_inputs_in_any_order(
    bundle: Bundle, data: st.DataObject, batch_frames: int, inputs: list[tuple[int, int, int | None]]
) -> None:
    """Groups and windows are computed from the frames of their own input, in any order of the reads.

    Each input has a number of frames and a window every few frames. It may also have a first attempt that broke
    off after some reads.
    """
    queues: list[list[Read]] = []
    for number, (frames, step, broke_at) in enumerate(inputs):
        source = Input(number, f"/{number}")
        first = (
            [] if broke_at is None else [*reads_of(number, frames, step, attempt=1)[:broke_at], Read(source, Again())]
        )
        queues.append([*first, *reads_of(number, frames, step), Read(source, InputEnd("ok"))])
    own_pixels = {
        number: np.stack([read.item.pixels for read in queue if isinstance(read.item, Frame)][-frames:])
        for number, ((frames, _, _), queue) in enumerate(zip(inputs, queues, strict=True))
        if frames
    }
    reads: list[Read] = []
    while any(queues):
        reads.append(data.draw(st.sampled_from([queue for queue in queues if queue])).pop(0))
        if data.draw(st.integers(0, 9)) == 0:  # what waits for a full batch is let go at any time
            reads.append(Read(reads[-1].input, Pause()))
    with open_classifier(bundle.root, runtime="onnxruntime", variant="fp32", threads=1) as classifier:
        encoded = [item for batch in encode_frames(reads, classifier, batch_frames, Meter()) for item in batch]
        for number, (frames, step, _) in enumerate(inputs):
            own = [item for item in encoded if item.input_id == number]
            assert isinstance(own[-1], EncodedEnd) and sum(isinstance(item, EncodedEnd) for item in own) == 1
            again = max((i for i, item in enumerate(own) if isinstance(item, EncodedAgain)), default=-1)
            windows = [item for item in own[again + 1 :] if isinstance(item, EncodedWindow)]
            assert [window.interval_s[0] for window in windows] == list(range(0, max(frames - T + 1, 0), step))
            for window in windows:
                logits = classifier.answer(stack_parts([window], classifier.plan.window_takes), 1)["action"][0]
                start = window.indices[0]
                np.testing.assert_allclose(logits, logits_of(own_pixels[number][start : start + T]), atol=2e-5)


def test_at_a_pause_nothing_waits_for_a_full_batch(bundle: Bundle) -> None:
    def reads() -> Iterator[Read]:
        yield from reads_of(0, T + 2, 1)
        yield Read(Input(0, "/0"), InputEnd("ok"))
        yield Read(Input(0, "/0"), Pause())
        pytest.fail("the next input is waited for")

    with open_classifier(bundle.root, runtime="onnxruntime", variant="fp32", threads=1) as classifier:
        assert classifier.plan.groups and classifier.plan.batches_windows
        items = (item for batch in encode_frames(reads(), classifier, 400, Meter()) for item in batch)
        found = list(itertools.takewhile(lambda item: not isinstance(item, EncodedEnd), items))
    assert [item.indices[0] for item in found if isinstance(item, EncodedWindow)] == [0, 1, 2]


def stage(name: str, per: Any, inputs: Sequence[TensorSpec], output: TensorSpec, group: int = 1) -> Stage:
    return Stage(name=name, per=per, group=group, inputs=tuple(inputs), outputs=(output,))


def test_pixels_may_pass_a_stage_by() -> None:
    """Pixels may bypass a stage.

    The model has groups of pixels together with features of frames, and groups of two sizes.
    """
    pixels, features = (
        TensorSpec(PIXELS, "uint8", ("batch", 16, 16, 3)),
        TensorSpec("features", "float32", ("batch", 7)),
    )
    pairs = TensorSpec(PIXELS, "uint8", ("batch", 2, 16, 16, 3))
    stages = (
        stage("a", "frame", [pixels], features),
        stage("b", "group", [pairs], TensorSpec("flow", "float32", ("batch", 3)), 2),
        stage(
            "c",
            "group",
            [TensorSpec("features", "float32", ("batch", 4, 7))],
            TensorSpec("four", "float32", ("batch", 2)),
            4,
        ),
        stage(
            "d",
            "window",
            [TensorSpec("flow", "float32", ("batch", 2, 3)), TensorSpec("four", "float32", ("batch", 1, 2))],
            CONTRACT.answers()[0],
        ),
    )
    check_stages(stages, CONTRACT)
    plan = plan_from_stages(stages)
    assert plan.frame_gives == (PIXELS, "features") and plan.feature is None
    assert [(level.size, level.takes, level.gives) for level in plan.groups] == [
        (2, (PIXELS,), ("flow",)),
        (4, ("features",), ("four",)),
    ]
    assert plan.window_takes == ("flow", "four")

    def mean(names: Mapping[str, int], output: str, width: int) -> Any:
        def run(feed: Mapping[str, Array]) -> Arrays:
            flat = np.concatenate(
                [feed[name].reshape(len(feed[name]), -1).astype(np.float32) for name in names], axis=1
            )
            return {output: np.stack([flat[:, i::width].mean(axis=1) for i in range(width)], axis=1).astype(np.float32)}

        return run

    runners = [
        FakeRunner(
            s.inputs,
            s.outputs,
            mean(dict.fromkeys((i.name for i in s.inputs), 0), s.outputs[0].name, int(s.outputs[0].shape[1])),
        )
        for s in stages
    ]
    clips = np.random.default_rng(0).integers(0, 256, (5, T, 16, 16, 3), np.uint8)
    with Classifier(stages, runners, CONTRACT, variant="fp32", provenance={"digest": ""}) as classifier:
        whole = classifier.classify(clips)["action"]
        for batch in (1, 3, 8, 64):
            np.testing.assert_allclose(
                classifier.probabilities_from_logits(classifier.logits_from_frames(clips, batch))["action"],
                whole,
                atol=1e-6,
            )


@pytest.mark.parametrize(
    ("time", "said"),
    [
        (None, ""),
        (TimeSpec(4), ""),
        (TimeSpec(4, 2.0), ""),
        (TimeSpec(4, 2.0, 2.0), ""),
        (TimeSpec(4, 3.0, 1.0), "3 × the work"),
    ],
)
def test_overlap_costs_only_where_windows_overlap_and_share_nothing(time: TimeSpec | None, said: str) -> None:
    assert (said in overlap_cost(plan_from_stages(window_encoder_stages(CONTRACT, 6)), time)) and (
        bool(said) == bool(overlap_cost(plan_from_stages(window_encoder_stages(CONTRACT, 6)), time))
    )
    assert overlap_cost(plan_from_stages(STAGES), time) == ""
