"""Tests of docs/foreign.md: its commands work as described, on models trained and exported outside vidrisk."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from pages import read_blocks, read_page
from PIL import Image
from strangers import LABELS, SCALES, SIDE, export, pictures, save_hub, stranger

from vidrisk.runtimes import Bundle

PAGE = read_page("docs/foreign.md")
Run = Callable[..., Any]
FILE, PIXELS, TARGETS, HUB, VENDOR = read_blocks("docs/foreign.md")
CONSOLE = [command for block in (FILE, PIXELS, HUB, VENDOR) for command in block.commands]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a foreign model, fixed to a batch of one, and its data and labels."""
    root = tmp_path_factory.mktemp("stranger")
    for split, seed, count in (("calib", 11, 48), ("val", 12, 120), ("photos", 13, 6)):
        for number, (picture, label) in enumerate(zip(*pictures(count, seed), strict=True)):
            path = root / split / (LABELS[label] if split != "photos" else "") / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)
    export(stranger("cnn"), root / "model.onnx", torch.zeros(1, 3, SIDE, SIDE), free=False)
    (root / "labels.txt").write_text("\n".join(LABELS) + "\n")
    (root / "pixel.yaml").write_text("scale: imagenet\nresize: squash\n")
    (root / "crack.png").write_bytes((root / "val" / "crack" / "0.png").read_bytes())
    save_hub(root / "hub")
    return root


@pytest.mark.page("docs/foreign.md")
@pytest.mark.slow
def test_every_command_of_the_page_does_what_it_says(folder: Path, run_line: Run) -> None:
    assert len(CONSOLE) == 5
    for command in CONSOLE:
        end = run_line(command, folder, alone=command.startswith("vidrisk infer "))
        if command.endswith("--int8 -o model.bundle"):
            said = " ".join(end.stdout.split())
            assert "model.onnx takes imagenet RGB, squash: chosen by 120 samples" in said
    source = Bundle.open(folder / "model.bundle").manifest.source
    assert (source["pixels"], source["batch"]) == ("imagenet RGB, squash", "1, made free")
    assert "imagenet RGB, squash" in (folder / "model.bundle" / "gate.html").read_text(encoding="utf-8")
    assert "onnx fp32 → int8" in (folder / "model.bundle" / "gate.json").read_text(encoding="utf-8")
    assert "given" in Bundle.open(folder / "checked.bundle").manifest.source["pixels because"]
    assert len((folder / "out" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()) == 6
    assert_equals_the_file(folder, Bundle.open(folder / "plain.bundle"))
    assert_equals_the_checkpoint(folder, Bundle.open(folder / "hub.bundle"))
    assert (folder / "vendor" / "expected" / "defect_logits.npy").is_file()


class TwoOutputs(torch.nn.Module):
    """Model with two outputs: ``what`` a photo shows, and ``how`` bad that is.

    A crack is bad; a sound wall is not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.defects = stranger("cnn")

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        what = self.defects(image)
        return what, 2 * what[:, [LABELS.index("crack"), LABELS.index("sound")]]


@pytest.mark.page("docs/foreign.md")
@pytest.mark.slow
def test_the_labels_of_several_outputs_are_those_of_the_page(folder: Path, run_line: Run) -> None:
    (folder / "targets.yaml").write_text(TARGETS.text, encoding="utf-8")
    outputs = ("what", "how")
    export(TwoOutputs(), folder / "two.onnx", torch.zeros(1, 3, SIDE, SIDE), free=False, outputs=outputs)
    levels = {"crack": "high", "sound": "low"}
    rows = [f"{path},{path.parent.name},{levels[path.parent.name]}" for path in sorted(folder.glob("val/[cs]*/*.png"))]
    (folder / "two.csv").write_text("\n".join(["path,defect_class,risk_level", *rows]), encoding="utf-8")
    run_line("vidrisk export two.onnx --labels targets.yaml --val two.csv -o two.bundle", folder)
    defect, level = Bundle.open(folder / "two.bundle").contract.targets
    assert (defect.labels, level.labels) == (LABELS, ("low", "high"))  # in the order of the page, not of the output
    (stage,) = Bundle.open(folder / "two.bundle").stages
    ours = onnxruntime.InferenceSession(str(Bundle.open(folder / "two.bundle").path(stage.name, "fp32")))
    frames, truth = pictures(12, seed=20)
    found = ours.run(["defect_logits", "level_logits"], {"frames": frames[:, None]})
    assert (found[0].argmax(1) == truth).mean() > 0.8
    assert (found[1].argmax(1) == (truth == LABELS.index("crack")))[truth != LABELS.index("rust")].mean() > 0.8


def assert_equals_the_file(folder: Path, bundle: Bundle) -> None:
    """Check that the bundle gives the same outputs in fp32 as the original model file."""
    frames, _ = pictures(12, seed=20)
    own = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    expected = np.concatenate([own.run(None, {"image": one[None].numpy()})[0] for one in SCALES["imagenet"](frames)])
    (stage,) = bundle.stages
    ours = onnxruntime.InferenceSession(str(bundle.path(stage.name, "fp32")))
    np.testing.assert_allclose(ours.run(["defect_logits"], {"frames": frames[:, None]})[0], expected, atol=1e-5)


def assert_equals_the_checkpoint(folder: Path, bundle: Bundle) -> None:
    import transformers

    frames, _ = pictures(4, seed=20)
    model = transformers.ResNetForImageClassification.from_pretrained(folder / "hub").eval()
    with torch.inference_mode():
        expected = model(SCALES["-1..1"](frames)).logits.numpy()
    (stage,) = bundle.stages
    ours = onnxruntime.InferenceSession(str(bundle.path(stage.name, "fp32")))
    np.testing.assert_allclose(ours.run(["defect_logits"], {"frames": frames[:, None]})[0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "code", "reason"),
    [
        (
            "model.onnx --val val -o b",
            2,
            "no labels for model.onnx; allowed: one label per line, in the order of the "
            "model's outputs; fix: --labels labels.txt",
        ),
        (
            "model.onnx --labels labels.txt -o b",
            2,
            "no labelled data to judge model.onnx by; fix: give some with --val",
        ),
        ("model.onnx --labels labels.txt --val val --int8 -o b", 1, "no calibration samples"),
        ("model.onnx --labels labels.txt --val val --check crack.png -o b", 2, "allowed: IMAGE=LABEL"),
        ("model.onnx --labels labels.txt --val val --check crack.png=dent -o b", 2, "crack.png is said to be 'dent'"),
        (
            "model.onnx --labels labels.txt --val val --check crack.png=rust -o b",
            1,
            "'rust', but the model says 'crack'",
        ),
        (
            "model.onnx --labels two.txt --val val -o b",
            1,
            "defect has 2 labels, and no output of model.onnx has as many columns",
        ),
        ("model.onnx --labels swapped.txt --val val -o b", 1, "bring the labels into the order of the model's outputs"),
        ("model.onnx --labels labels.txt --pixel wrong.yaml --val val -o b", 1, "the given pixels look wrong"),
        ("model.onnx --labels labels.txt --val val --int8 --only int8 --vendor v -o b", 2, "--vendor with --only int8"),
        ("model.onnx --labels labels.txt --val val --vendor b -o b", 2, "--vendor names a folder that -o uses"),
        ("hub --from-hf --labels labels.txt --val val -o b", 2, "labels with a Hugging Face folder"),
        ("model.onnx --from-hf --val val -o b", 2, "model.onnx is not a folder"),
        ("modle.onnx --labels labels.txt --val val -o b", 1, "modle.onnx is not a file; fix: give an ONNX file"),
        (
            "model.onnx --labels labels.txt --val val --calib calib --int8 --qat-steps 9 -o b",
            2,
            "quantisation-aware training with a model",
        ),
        (
            "val --labels labels.txt --val val -o b",
            2,
            "labels with a run; allowed: with an ONNX file or a Hugging Face folder",
        ),
        ("hub --from-hf --check crack.png=rust --val val -o b", 1, "'rust', but the model says 'crack'"),
        ("val --from-hf --val val -o b", 1, "is not a Hugging Face model"),
        ("labels.txt --labels labels.txt --val val -o b", 1, "labels.txt is not an ONNX file"),
    ],
)
def test_bad_input_is_one_line(options: str, code: int, reason: str, folder: Path, run_line: Run) -> None:
    (folder / "two.txt").write_text("crack\nsound\n")
    (folder / "swapped.txt").write_text("rust\ncrack\nsound\n")
    (folder / "wrong.yaml").write_text("scale: 0..255\n")
    end = run_line(f"vidrisk export {options}", folder, code=code)
    lines = [line for line in end.stderr.splitlines() if line.strip() and "WARNING" not in line]
    assert reason in " ".join(end.stderr.split()) and not (folder / "b").exists()
    assert "Traceback" not in end.stderr and sum(line.startswith("error:") for line in lines) == 1


def test_the_page_names_every_key_of_a_pixel_file() -> None:
    from dataclasses import fields

    from vidrisk.runtimes import PixelSpec

    named = set(re.findall(r"`(\w+)`", PAGE))
    assert {field.name for field in fields(PixelSpec)} | {"channels", "scale"} <= named
