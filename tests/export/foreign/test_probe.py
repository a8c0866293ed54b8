"""Tests of the probe: it finds the pixels that a model takes by running the model on samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strangers import LABELS, SCALES, SIDE, export, pictures, stranger
from torch import nn

from vidrisk.export.foreign.classifier import ForeignClassifier, ImageInput, read_classifier
from vidrisk.export.foreign.pixels import ForeignPixels, pixels_from_settings, read_pixel_file
from vidrisk.export.foreign.probe import KnownAnswer, Probe, probe_pixels
from vidrisk.runtimes.contract.errors import DataError, SettingsError

FRAMES, TRUTH = pictures(96, seed=4)
EXAMPLE = torch.zeros(2, 3, SIDE, SIDE)
IMAGE = ImageInput("image", "nchw", "float32", 3, SIDE, SIDE)


def probed(
    classifier: ForeignClassifier, truth: npt.NDArray[np.int64] = TRUTH, count: int = 96, **options: Any
) -> Probe:
    return probe_pixels(classifier, lambda pixels: FRAMES[:count], {"defect": truth[:count]}, **options)


def classifier_of(folder: Path, scale: str, labels: tuple[str, ...] = LABELS) -> ForeignClassifier:
    return read_classifier(export(stranger("cnn", scale), folder / "m.onnx", EXAMPLE), {"defect": labels})


@pytest.mark.parametrize("scale", SCALES)
def test_finds_the_scale_and_the_order_of_channels(scale: str, tmp_path: Path) -> None:
    probe = probed(classifier_of(tmp_path, scale))
    name, _, order = scale.partition(" ")
    assert (probe.pixels.name, probe.pixels.channels) == (name, order or "rgb")
    assert probe.pixels.spec.resize == "squash", "nothing tells the two geometries apart here, so nothing is cut off"
    assert "96 samples" in probe.reason


def test_finds_the_geometry_where_it_matters(tmp_path: Path) -> None:
    """The probe chooses the crop where frames have a dark rim unless they are cropped.

    The model has never seen such a rim and is less sure of these frames.
    """

    def read(pixels: ForeignPixels) -> npt.NDArray[np.uint8]:
        if pixels.spec.resize == "crop":
            return FRAMES
        rimmed = FRAMES.copy()
        rimmed[:, :6], rimmed[:, -6:] = 0, 0
        return rimmed

    probe = probe_pixels(classifier_of(tmp_path, "imagenet"), read, {"defect": TRUTH})
    assert (probe.pixels.name, probe.pixels.spec.resize, probe.pixels.spec.crop_fraction) == ("imagenet", "crop", 0.875)


def test_too_few_samples_show_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no better than chance|do not show the normalisation") as caught:
        probed(classifier_of(tmp_path, "imagenet"), count=6)
    assert "pixel file" in str(caught.value)


def test_a_model_that_every_scale_suits_is_undecided(tmp_path: Path) -> None:
    """A model that standardises each image itself does not show which scale is right."""

    class Standardising(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = stranger("cnn")

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            wide = images - images.mean(dim=(2, 3), keepdim=True)
            return self.model(wide / wide.abs().mean(dim=(1, 2, 3), keepdim=True))

    classifier = read_classifier(export(Standardising().eval(), tmp_path / "m.onnx", EXAMPLE), {"defect": LABELS})
    with pytest.raises(DataError, match=r"do not show the normalisation of m.onnx|no better than chance"):
        probed(classifier)


def test_labels_in_another_order_are_named(tmp_path: Path) -> None:
    wrong = ("rust", "crack", "sound")
    truth = np.array([wrong.index(LABELS[index]) for index in TRUTH])
    with pytest.raises(
        DataError, match=r"column 0 of defect is called 'rust', but answers 'crack'.*: crack, rust, sound"
    ):
        probed(classifier_of(tmp_path, "imagenet", wrong), truth)


@pytest.mark.parametrize("settings", [None, {"scale": "imagenet"}])
def test_a_probability_that_is_read_as_a_logit_is_named(settings: dict[str, Any] | None, tmp_path: Path) -> None:
    class Odd(nn.Module):
        """A model that gives a probability by operators that do not prove one."""

        def __init__(self) -> None:
            super().__init__()
            self.model = stranger("cnn")

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            scores = self.model(images)
            odds = (scores[:, :1] - scores[:, 1:].amax(dim=1, keepdim=True)).exp()
            return (odds / (odds + 1)).pow(1.0001)

    two = ("other", "crack")
    path = export(Odd().eval(), tmp_path / "m.onnx", EXAMPLE)
    truth = np.where(TRUTH == 0, 1, 0)
    classifier = read_classifier(path, {"defect": two})
    given = settings and pixels_from_settings(settings, classifier.image)
    with pytest.raises(
        DataError, match=r"gives 0 to 1 for all 96 samples: .* always 'crack'.*under defect: gives: probabilities"
    ):
        probed(classifier, truth, given=given)
    told = read_classifier(path, {"defect": two}, gives={"defect": "probabilities"})
    assert probed(told, truth, given=given).pixels.name == "imagenet"


def test_labels_in_another_order_are_named_with_given_pixels_too(tmp_path: Path) -> None:
    wrong = ("rust", "crack", "sound")
    truth = np.array([wrong.index(LABELS[index]) for index in TRUTH])
    classifier = classifier_of(tmp_path, "imagenet", wrong)
    with pytest.raises(
        DataError, match=r"column 0 of defect is called 'rust', but answers 'crack'.*: crack, rust, sound"
    ):
        probed(classifier, truth, given=pixels_from_settings({"scale": "imagenet"}, classifier.image))


def test_given_pixels_that_nothing_can_clearly_beat_are_asked_alone(tmp_path: Path) -> None:
    classifier = classifier_of(tmp_path, "imagenet")
    probe = probed(classifier, given=pixels_from_settings({"scale": "imagenet"}, classifier.image))
    assert [str(row.pixels) for row in probe.rows] == ["imagenet RGB, squash"]


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_windows_are_prepared_as_their_frames_are(layout: Any) -> None:
    image = ImageInput("image", layout, "float32", 3, SIDE, SIDE)
    pixels = pixels_from_settings({"scale": "imagenet", "channels": "bgr"}, image)
    windows = pixels.prepare(FRAMES[:6].reshape(2, 3, SIDE, SIDE, 3), image)
    np.testing.assert_array_equal(
        windows, np.stack([pixels.prepare(FRAMES[:3], image), pixels.prepare(FRAMES[3:6], image)])
    )


def known(index: int, label: str) -> KnownAnswer:
    return KnownAnswer("wall.png", "defect", label, lambda pixels: FRAMES[index : index + 1])


def test_a_known_answer_shows_wrong_pixels(tmp_path: Path) -> None:
    classifier = classifier_of(tmp_path, "imagenet")
    given = pixels_from_settings({"scale": "imagenet"}, classifier.image)
    assert probed(classifier, given=given, checks=[known(0, "crack")]).pixels == given
    with pytest.raises(
        DataError, match=r"wall\.png is 'rust', but the model says 'crack' \(\d+%\) with imagenet RGB, squash"
    ):
        probed(classifier, given=given, checks=[known(0, "rust")])
    with pytest.raises(DataError, match=r"wall\.png is 'rust', but the model says"):
        probed(classifier, checks=[known(0, "rust")])


def test_given_pixels_that_are_clearly_wrong_are_refused(tmp_path: Path) -> None:
    classifier = classifier_of(tmp_path, "imagenet")
    with pytest.raises(DataError, match=r"the given pixels look wrong: 0\.\.255 RGB, squash: .* and imagenet RGB"):
        probed(classifier, given=pixels_from_settings({"scale": "0..255"}, classifier.image))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("colour: rgb", "has 'colour'; allowed: height"),
        ("- 1", "has 'list'"),
        ("mean: [", "cannot be read"),
        ("scale: imagenet\nmean: [0, 0, 0]", "a scale, and mean or std"),
        ("scale: 0..1\nchannels: grey", "channels 'grey'"),
        ("mean: [123.7, 116.3, 103.5]\nstd: [58.4, 57.1, 57.4]", "numbers on the 0-1 scale"),
        ("scale: other", "scale 'other'"),
        ("mean: abc\nstd: 1", "mean 'abc'; allowed: one number, or three for R, G and B"),
        (f"mean: {10**400}\nstd: 1", "allowed: numbers on the 0-1 scale"),
        ("std: true\nmean: 0", "std True; allowed: one"),
        ("mean: [null, 0, 0]\nstd: 1", r"mean \[None, 0, 0\]; allowed: one"),
        ("mean: {a: 1}\nstd: 1", "mean {'a': 1}; allowed: one"),
        ("mean: [0.5]\nstd: 1", r"mean \[0\.5\]; allowed: one"),
        ("mean: .nan\nstd: 1", "mean nan; allowed: one"),
        ("mean: null\nstd: 1", "mean None; allowed: one"),
        ("mean: 0\nstd: 1e-3", "std '1e-3'; .*fix: write them as 0.5 or 0.001"),
        ("mean: 0.5", "no std in the pixel file; allowed: mean and std, or a scale"),
        ("std: 0.5", "no mean in the pixel file"),
        ("mean: 0\nstd: 255", "std 255; allowed: numbers on the 0-1 scale"),
        ("mean: 0\nstd: 0", "numbers above 0"),
        ("mean: 127.5\nstd: 127.5", "mean 127.5; allowed: numbers on the 0-1 scale"),
        ("scale: given", "scale 'given'"),
        ("scale: [0, 1]", r"scale \[0, 1\]"),
        ("scale: null", "scale None"),
        ("scale: 0..1\nresize: [crop]", "resize"),
        ("scale: 0..1\ncrop_fraction: [1]", "crop_fraction"),
        ("scale: 0..1\nchannels: [rgb]", "channels"),
        ("scale: 0..1\nresize: stretch", "resize 'stretch'"),
        ("scale: 0..1\nheight: 8", "a size of 8x32"),
    ],
)
def test_a_pixel_file_that_makes_no_sense(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "pixel.yaml").write_text(text)
    with pytest.raises(SettingsError, match=reason):
        pixels_from_settings(read_pixel_file(tmp_path / "pixel.yaml"), IMAGE)


@pytest.mark.parametrize(
    "text", ["mean: 0.5\nstd: 0.25", "mean: [0.5, 0.5, 0.5]\nstd: 0.25", "mean: 0.5\nstd: [0.25, 0.25, 0.25]"]
)
def test_one_number_is_that_of_every_channel(text: str, tmp_path: Path) -> None:
    (tmp_path / "pixel.yaml").write_text(text)
    found = pixels_from_settings(read_pixel_file(tmp_path / "pixel.yaml"), IMAGE)
    assert (found.spec.mean, found.spec.std, found.name) == ((0.5,) * 3, (0.25,) * 3, "given")


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
JUNK = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(SCALARS, inner, max_size=2), max_leaves=6
)
KEYS = ["height", "width", "resize", "crop_fraction", "interpolation", "mean", "std", "channels", "scale"]


@given(st.dictionaries(st.sampled_from(KEYS), JUNK))
def test_whatever_a_pixel_file_holds_is_a_contract_or_one_line(settings: dict[str, Any]) -> None:
    try:
        found = pixels_from_settings(settings, IMAGE)
    except SettingsError:
        return
    assert (found.spec.height, found.spec.width) == (SIDE, SIDE)
