"""Tests of the public Python names: their list, types and import cost, and the examples of their page."""

from __future__ import annotations

import importlib.util
import inspect
import re
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from colour_bundle import write_colour_bundle
from pages import Block, read_blocks
from PIL import Image
from small_media import write_photo, write_video
from strangers import LABELS, SIDE, export, pictures, stranger

import vidrisk
from vidrisk.decode.pool import DecodePool

REPOSITORY = Path(__file__).resolve().parent.parent
EXAMPLES = read_blocks("docs/python.md")


def test_the_public_names_are_these() -> None:
    assert vidrisk.__all__ == [
        "ExportOptions",
        "InferSettings",
        "Model",
        "Prediction",
        "VidriskError",
        "errors",
        "evaluate",
        "export",
        "infer",
        "load",
        "train",
    ]
    assert set(vidrisk.__all__) <= set(dir(vidrisk))
    for name in vidrisk.__all__:
        member = getattr(vidrisk, name)
        assert (callable(member) or name == "errors") and member.__doc__
    assert vidrisk.errors.VidriskError is vidrisk.VidriskError
    with pytest.raises(AttributeError, match="no attribute 'predict'"):
        vidrisk.predict  # noqa: B018


def test_importing_brings_no_library() -> None:
    code = "import sys, vidrisk; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "torch", "pydantic", "onnxruntime", "av", "PIL", "typer", "rich"} & set(loaded)


@pytest.mark.parametrize(
    "first",
    [
        "",
        "import vidrisk.models.config, vidrisk.export.trained; ",
        "from vidrisk.models.config import TrainConfig; from vidrisk.export import trained; ",
    ],
)
def test_functions_and_packages_of_one_name_live_together(first: str, tmp_path: Path) -> None:
    code = (
        f"import vidrisk; {first}\n"
        "for act in (lambda: vidrisk.train('nothing', 'run'), lambda: vidrisk.export('nothing', 'b')):\n"
        "    try:\n"
        "        act()\n"
        "    except vidrisk.VidriskError as error:\n"
        "        print(error)\n"
        "import vidrisk.models.config, vidrisk.export.trained\n"
        "print(vidrisk.models.config.__name__, vidrisk.export.trained.__name__)"
    )
    end = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert end.returncode == 0, end.stderr
    lines = end.stdout.splitlines()
    assert (
        "nothing" in lines[0] and "nothing" in lines[1] and lines[2] == "vidrisk.models.config vidrisk.export.trained"
    )


SNIPPET = """
from pathlib import Path

import numpy as np
import vidrisk

model = vidrisk.load("b", threads=2)
reveal_type(model)
with model as opened:
    reveal_type(opened.predict("a.jpg"))
    reveal_type(opened.predict([Path("a.jpg"), np.zeros((2, 2, 3), np.uint8)], window_s=1.0)[0].label)
    for prediction in opened.stream(Path("d").iterdir()):
        reveal_type(prediction)
reveal_type(vidrisk.infer(model, ["a", Path("b")], "out", vidrisk.InferSettings(window_s=1.0), report=False).states)
reveal_type(vidrisk.evaluate("b", "data").metrics)
reveal_type(vidrisk.train("data", "run", task="risk"))
reveal_type(vidrisk.export("run", "b", vidrisk.ExportOptions(int8=True, max_drop=2.0)))
reveal_type(vidrisk.export(Path("m.onnx"), "b", labels="l.txt", pixel="p.yaml", checks={"a.jpg": "crack"}, val="data", task="risk"))
reveal_type(vidrisk.export("hub", "b", from_hf=True, val="data", vendor="v", dynamic_vision=Path("t")))
try:
    pass
except vidrisk.errors.UnreadableError as error:
    reveal_type(error.state)
model.predict(7)
vidrisk.load()
"""
REVEALED = [
    "vidrisk.inference.predictor.Model",
    "list[vidrisk.inference.predictions.Prediction]",
    "str",
    "vidrisk.inference.predictions.Prediction",
    "Mapping[str, int]",
    "Mapping[str, vidrisk.metrics.classification.Metrics | vidrisk.metrics.multi_label.MultiLabelMetrics]",
    "vidrisk.models.run.Run",
    *["vidrisk.runtimes.contract.bundle.Bundle"] * 3,
    "str",
]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
def test_a_users_code_is_checked(tmp_path: Path) -> None:
    (tmp_path / "snippet.py").write_text(SNIPPET)
    cache = REPOSITORY / ".mypy_cache"
    end = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--config-file",
            str(REPOSITORY / "pyproject.toml"),
            "--cache-dir",
            str(cache),
            "--follow-imports",
            "silent",
            str(tmp_path / "snippet.py"),
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    revealed = re.findall(r'Revealed type is "(.*)"', end.stdout)
    assert len(revealed) == len(REVEALED), end.stdout + end.stderr
    for found, expected in zip(revealed, REVEALED, strict=True):
        assert expected in found.replace("builtins.", "").replace("typing.", ""), found
    assert re.findall(r"error: .*\[([\w-]+)\]", end.stdout) == ["arg-type", "call-arg"], end.stdout


def write_foreign_model(folder: Path) -> None:
    """Write a classifier that was trained outside vidrisk, with its labels and labelled photos."""
    import torch

    export(stranger("cnn"), folder / "model.onnx", torch.zeros(1, 3, SIDE, SIDE), free=False)
    (folder / "labels.txt").write_text("\n".join(LABELS))
    for number, (picture, label) in enumerate(zip(*pictures(96, seed=12), strict=True)):
        (folder / "val" / LABELS[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / "val" / LABELS[label] / f"{number}.png")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that the page's examples use, as the current directory."""
    write_colour_bundle(tmp_path / "fights.bundle")
    (tmp_path / "cam7").mkdir()
    Image.fromarray(np.full((40, 60, 3), (200, 20, 20), np.uint8)).save(tmp_path / "photo.jpg")
    for folder in (tmp_path, tmp_path / "cam7"):
        write_video(folder / "clip.mp4", ("red", "green"))
    write_photo(tmp_path / "cam7" / "a.png", "blue")
    (tmp_path / "cam7" / "bad.mp4").write_bytes(b"no video")
    write_foreign_model(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIDRISK_CACHE", str(tmp_path / "cache"))
    return tmp_path


def run_examples(examples: list[Block], capsys: pytest.CaptureFixture[str]) -> str:
    names = types.ModuleType("example").__dict__
    for example in examples:
        example.execute(names)
    return capsys.readouterr().out


@pytest.mark.page("docs/python.md")
def test_the_examples_of_the_page_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert {example.language for example in EXAMPLES} == {"python"} and "model.close()" in EXAMPLES[-1].text
    said = run_examples(EXAMPLES, capsys)
    assert said.startswith("red ") and "0.5–1.5 s" in said and "bad.mp4 corrupt" in said
    assert (
        "{'label': 'blue', 'score_mean': " in said
        and "\nskipped " in said
        and "'ok': 2, 'corrupt': 1" in said
        and (place / "out" / "report.html").is_file()
    )
    assert "imagenet RGB, squash" in said and (place / "cracks.bundle" / "gate.html").is_file()


def test_a_loaded_model_decodes_in_its_own_processes(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = place / "data"
    for label in ("red", "blue"):
        (data / label).mkdir(parents=True)
        write_photo(data / label / "a.png", label)
    made: list[int] = []
    real = DecodePool.__init__
    monkeypatch.setattr(DecodePool, "__init__", lambda pool, workers: (made.append(workers), real(pool, workers))[1])
    with vidrisk.load("fights.bundle", runtime="onnxruntime", workers=1) as model:
        assert vidrisk.infer(model, "cam7", "out").settings["workers"] == 1
        assert vidrisk.evaluate(model, data).metrics.keys() == {"action"}
        assert vidrisk.evaluate(model, data, mirror=True).views.count == 2
        assert made == [1]
        assert vidrisk.infer(model, "cam7", "other", workers=2).settings["workers"] == 2
        assert made == [1, 2] and model.predict("photo.jpg")
    with pytest.raises(vidrisk.errors.RuntimeFailure, match="the model is closed"):
        vidrisk.infer(model, "cam7", "third")
    assert not Path("third").exists()


def test_a_setting_that_makes_no_sense_is_said_before_the_model_is_opened(place: Path) -> None:
    message = r"^decoder is 'opencv'; allowed: auto, pyav, decord$"
    with pytest.raises(vidrisk.errors.SettingsError, match=message):
        vidrisk.infer("no.bundle", "cam7", "out", decoder="opencv")
    with pytest.raises(vidrisk.errors.SettingsError, match=message):
        vidrisk.evaluate("no.bundle", "cam7", decoder="opencv")


def test_settings_are_an_object_or_single_fields(place: Path) -> None:
    settings = vidrisk.InferSettings(window_s=1.0, workers=1)
    summary = vidrisk.infer("fights.bundle", "cam7", "out", settings, report=False, parquet=True)
    assert (summary.settings["workers"], summary.settings["window_s"]) == (1, 1.0) and Path(
        "out/predictions.parquet"
    ).is_file()
    with pytest.raises(vidrisk.errors.SettingsError, match=r"^no setting 'windows_s'; allowed: window_s, stride_s, "):
        vidrisk.infer("fights.bundle", "cam7", "other", windows_s=1.0)


def test_a_run_goes_on_with_the_engine_that_began_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (other,) = [
        name for name in ("onnxruntime", "openvino") if name != vidrisk.load("fights.bundle").classifier.runtime
    ]
    with vidrisk.load("fights.bundle", runtime=other) as model:
        vidrisk.infer(model, "cam7/a.png", "out", report=False)
    assert vidrisk.infer("fights.bundle", "cam7", "out", resume=True, report=False).runtime == other


@pytest.mark.slow
def test_from_training_to_a_score(place: Path, backbone_folder: Callable[[str], Path]) -> None:
    for label, colour in {"ok": "green", "crack": "red"}.items():
        for number in range(20):
            (place / "photos" / label).mkdir(parents=True, exist_ok=True)
            write_photo(place / "photos" / label / f"{number}.png", colour)
    settings = {"optim.epochs": 2, "lora.last_blocks": 0, "augment": (), "pixel.height": 64, "pixel.width": 64}
    run = vidrisk.train("photos", "run", task="risk", backbone=str(backbone_folder("vit")), settings=settings)
    assert run.config.augment == () and run.config.lora.last_blocks == 0
    bundle, report = vidrisk.export(
        "run", "walls.bundle", vidrisk.ExportOptions(int8=True, max_drop=50, max_confidence_drop=100)
    )
    assert report.max_drop == 50 and "fp32" in bundle.passed
    assert vidrisk.evaluate("walls.bundle", "photos").metrics["defect"].top1 == 1
    vidrisk.export("run", "again.bundle", vendor="vendor")
    assert {"model.onnx", "calibration"} <= {path.name for path in Path("vendor").iterdir()}
    with pytest.raises(vidrisk.errors.SettingsError, match="int8 beside options; fix: say it in the options"):
        vidrisk.export("run", "other.bundle", vidrisk.ExportOptions(), int8=True)
    with pytest.raises(
        vidrisk.errors.SettingsError, match="calib without int8; fix: add int8=True, or leave calib out"
    ):
        vidrisk.export("run", "other.bundle", calib="photos")


def test_what_is_written_beside_a_bundle_is_checked_first(place: Path) -> None:
    foreign = {"labels": "labels.txt", "val": "nothing"}
    for folders, said in (
        ({"vendor": "b/v"}, "vendor names a folder that the bundle uses"),
        ({"vendor": "val"}, "val exists already"),
        ({"dynamic_vision": "tower"}, "dynamic_vision without a run; allowed: a run of Qwen2.5-VL or Qwen3-VL"),
    ):
        with pytest.raises(vidrisk.VidriskError, match=said):
            vidrisk.export("model.onnx", "b", **foreign, **folders)
    with pytest.raises(vidrisk.errors.SettingsError, match="vendor with only int8; allowed: fp32"):
        vidrisk.export("model.onnx", "b", vidrisk.ExportOptions(int8=True, only="int8"), vendor="v", **foreign)


def test_help_shows_arguments() -> None:
    assert "backbone" in inspect.signature(vidrisk.train).parameters
    assert list(inspect.signature(vidrisk.export).parameters) == [
        "model",
        "out",
        "options",
        "int8",
        "calib",
        "val",
        "labels",
        "pixel",
        "checks",
        "from_hf",
        "task",
        "vendor",
        "dynamic_vision",
    ]


def test_commands_and_their_functions_agree(tmp_path: Path) -> None:
    with pytest.raises(vidrisk.errors.DataError, match="no clip or photo found"):
        vidrisk.infer("b", tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(vidrisk.errors.BundleError):
        vidrisk.load(tmp_path)
