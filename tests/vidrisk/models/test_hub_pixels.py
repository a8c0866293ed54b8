"""Tests of the pixel contracts of image processors.

Frames and arithmetic match transformers' own processors, or the settings are refused in one line.
"""

from __future__ import annotations

import importlib
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from vidrisk.frames.geometry import pixels_from_image
from vidrisk.models.hub_pixels import PROCESSORS, pixel_from_preprocessor
from vidrisk.runtimes.contract.errors import DataError
from vidrisk.runtimes.contract.specs import PixelSpec

MODULES = {"MobileNetV1": "mobilenet_v1", "MobileNetV2": "mobilenet_v2"}
NORMALISED = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}
PICTURE = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
WIDE, HIGH = ((97, 61), (58, 90))  # (width, height): odd remainders on both sides
DEIT = {
    "image_processor_type": "DeiTImageProcessor",
    "size": {"height": 36, "width": 36},
    "crop_size": 32,
    **NORMALISED,
}


def processor_of(name: str, settings: dict[str, Any]) -> Any:
    """Return the image processor of transformers that needs no torchvision."""
    module = MODULES.get(name, name.lower())
    file, ending = ("image_processing", "") if name == "Vivit" else ("image_processing_pil", "Pil")
    found = importlib.import_module(f"transformers.models.{module}.{file}_{module}")
    return getattr(found, f"{name}ImageProcessor{ending}")(**settings)


def assert_alike(name: str, settings: dict[str, Any], spec: PixelSpec, size: tuple[int, int]) -> None:
    """Check that the model's pixels match the processor's for a smooth picture, except for a rounded side.

    The difference is measured in grey values of 0–255.
    """
    image = Image.fromarray(PICTURE).resize(size, Image.Resampling.BICUBIC)
    theirs = np.array(
        processor_of(name, settings)([[image]] if name in ("VideoMAE", "Vivit") else image)["pixel_values"]
    )
    theirs = np.moveaxis(theirs.reshape(theirs.shape[-3:]), 0, -1)
    assert theirs.shape == (spec.height, spec.width, 3)
    seen = 255 * (theirs * spec.std + spec.mean)
    difference = np.abs(seen - pixels_from_image(image, spec))
    assert difference.mean() < 3 and difference.max() < 25, f"{difference.mean():.1f}, {difference.max():.1f}"


@pytest.mark.parametrize("name", sorted(set(PROCESSORS) - {"DeiT"}))
def test_what_save_pretrained_writes_is_read_as_it_is_meant(name: str) -> None:
    settings = json.loads(processor_of(name, {}).to_json_string())
    spec = pixel_from_preprocessor(settings, {})
    for size in (WIDE, HIGH):
        assert_alike(name, settings, spec, size)


sizes = st.integers(160, 320)
SETTINGS = st.fixed_dictionaries(
    {
        "size": st.one_of(
            sizes,
            st.builds(lambda side: {"shortest_edge": side}, st.one_of(sizes, st.sampled_from([383, 384]))),
            st.builds(lambda height, width: {"height": height, "width": width}, sizes, sizes),
        )
    },
    optional={
        "do_center_crop": st.booleans(),
        "crop_size": st.one_of(sizes, st.builds(lambda side: {"height": side, "width": side}, sizes)),
        "crop_pct": st.floats(0.5, 1),
        "resample": st.sampled_from([2, 3]),
        "do_normalize": st.booleans(),
        "do_rescale": st.booleans(),
        "rescale_factor": st.sampled_from([1 / 255, 1 / 127.5]),
        "rescale_offset": st.booleans(),
        "offset": st.booleans(),
        "include_top": st.booleans(),
    },
)


@given(name=st.sampled_from(sorted(set(PROCESSORS) - {"Levit"})), settings=SETTINGS, size=st.sampled_from([WIDE, HIGH]))
def test_settings_are_read_as_they_are_meant_or_refused(
    name: str, settings: dict[str, Any], size: tuple[int, int]
) -> None:
    settings |= NORMALISED
    assume(name != "Vivit" or settings.get("do_rescale", True))  # its offset refuses values that are not scaled
    assume(name != "Segformer" or "crop_size" in settings)  # asked for, and never used
    try:
        spec = pixel_from_preprocessor({**settings, "image_processor_type": f"{name}ImageProcessor"}, {})
    except DataError:
        return
    assert_alike(name, settings, spec, size)


@pytest.mark.parametrize(
    ("settings", "config", "expected"),
    [
        (
            {"size": 32, "image_mean": [0.5] * 3, "image_std": 0.5, "resample": 3},
            {"model_type": "vit"},
            PixelSpec(32, 32, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3),
        ),
        (
            {
                "size": 224,
                "crop_pct": 0.875,
                "do_normalize": False,
                "feature_extractor_type": "ConvNextFeatureExtractor",
            },
            {},
            PixelSpec(224, 224, "crop", 0.875, "bicubic", (0.0,) * 3, (1.0,) * 3),
        ),
        (
            {
                "size": 384,
                "crop_pct": 0.875,
                "do_normalize": False,
                "image_processor_type": "ConvNextImageProcessorFast",
            },
            {},
            PixelSpec(384, 384, "squash", 1.0, "bicubic", (0.0,) * 3, (1.0,) * 3),
        ),
        (
            {"size": 224, "do_normalize": False, "crop_size": None},
            {"model_type": "mobilenet_v2"},
            PixelSpec(224, 224, "crop", 1.0, "bilinear", (0.0,) * 3, (1.0,) * 3),
        ),
    ],
)
def test_old_and_new_files_say_the_same(settings: dict[str, Any], config: dict[str, Any], expected: PixelSpec) -> None:
    assert pixel_from_preprocessor(settings, config) == expected


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"image_mean": "x"}, r'has image_mean "x"; allowed: one number, or three'),
        ({"image_mean": None}, "has image_mean null; allowed: one number"),
        ({"image_std": [1, 2]}, r"has image_std \[1, 2\]; allowed: one number"),
        ({"image_std": 0}, "std .* allowed: numbers above 0"),
        ({"image_mean": [float("nan")] * 3}, "has image_mean .* allowed: one number"),
        ({"size": "abc"}, r'has size "abc"; allowed: a number of pixels'),
        ({"size": [32]}, r"has size \[32\]; allowed: a number"),
        ({"size": None}, "has size null; allowed: a number"),
        ({"size": 0}, "has size 0; allowed: a number"),
        ({"size": True}, "has size true; allowed: a number"),
        ({"size": {"shortest_edge": "x"}}, "has size .* allowed: a number"),
        ({"size": {"shortest_edge": 32, "longest_edge": 64}}, "has size .* allowed: a number"),
        ({"size": {"height": 32}}, "has size .* allowed: a number"),
        ({"size": 4096}, "size 4096x4096; allowed: 1 to 2048 pixels"),
        ({"rescale_factor": 0}, "has rescale_factor 0.*allowed: a number above 0"),
        ({"rescale_factor": "a"}, r'has rescale_factor "a"; allowed: a number'),
        ({"rescale_factor": 10**400}, "has rescale_factor 10+; allowed: a number"),
        ({"resample": 0}, "has resample 0; allowed: 2 .bilinear., 3 .bicubic.; fix: set the nearer"),
        ({"do_resize": False}, "has do_resize false; allowed: true"),
        ({"do_resize": "no"}, r'has do_resize "no"; allowed: true, false'),
        ({"do_pad": True}, "has do_pad true; allowed: false"),
        (
            {"image_processor_type": "MobileViTImageProcessor"},
            'type "MobileViTImageProcessor"; allowed: BeitImageProcessor, Bit',
        ),
        ({"image_processor_type": ["ViTImageProcessor"]}, "has image_processor_type .* allowed: Beit"),
        (
            {"image_processor_type": None},
            "has no image_processor_type; allowed: BeitImageProcessor, .* fix: add the one",
        ),
        ({"image_processor_type": "PoolFormerImageProcessor", "crop_pct": "x"}, r'has crop_pct "x"; allowed: a number'),
        ({"image_processor_type": "ConvNextImageProcessor", "crop_pct": 1e-320}, "has crop_pct .* allowed: 0.1 to 1"),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": {"height": 32, "width": 32}},
            "has size .* of shortest_edge",
        ),
        (
            {"image_processor_type": "CLIPImageProcessor", "do_center_crop": False},
            "and no crop: .* fix: set do_center_crop",
        ),
        (
            {"image_processor_type": "CLIPImageProcessor", "crop_size": {"height": 16, "width": 24}},
            "has crop_size .* a square",
        ),
        (
            {"image_processor_type": "CLIPImageProcessor", "crop_size": 64},
            "has crop_size 64; allowed: a square of up to 32",
        ),
        (
            DEIT,
            r"has size 36x36 and crop_size \[32, 32\]: it crops a stretched picture; allowed: size as shortest_edge, ",
        ),
    ],
)
def test_what_no_contract_can_say_is_one_line(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=rf"^preprocessor_config\.json:? .*{reason}") as caught:
        pixel_from_preprocessor({"image_processor_type": "ViTImageProcessor", "size": 32, **NORMALISED, **settings}, {})
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=3), each, max_size=2),
    max_leaves=4,
)
KEYS = (
    "size",
    "crop_size",
    "crop_pct",
    "image_mean",
    "image_std",
    "rescale_factor",
    "resample",
    "do_resize",
    "do_center_crop",
    "do_rescale",
    "do_normalize",
    "rescale_offset",
    "include_top",
    "offset",
    "do_pad",
    "image_processor_type",
)


@given(
    name=st.sampled_from(sorted(PROCESSORS)), settings=st.dictionaries(st.sampled_from(KEYS), json_values, max_size=4)
)
def test_no_file_is_a_traceback(name: str, settings: dict[str, Any]) -> None:
    base = {"image_processor_type": f"{name}ImageProcessor", "size": 32, "crop_size": 32, **NORMALISED}
    try:
        pixel_from_preprocessor({**base, **settings}, {})
    except DataError as error:
        assert str(error).startswith("preprocessor_config.json")
