"""Tests of the public names: the list is fixed, so that adding or removing a name is a deliberate decision."""

from __future__ import annotations

import importlib

import pytest

SURFACE = {
    "vidrisk.runtimes": {
        "Bundle",
        "Choice",
        "Contract",
        "FakeRunner",
        "Guidance",
        "Manifest",
        "PixelSpec",
        "Runner",
        "SealedFile",
        "Stage",
        "Target",
        "TensorSpec",
        "TimeSpec",
        "Variant",
        "VariantName",
        "choose",
        "open_runner",
        "write_bundle",
    },
    "vidrisk.runtimes.text": {
        "Answer",
        "Chat",
        "Comparison",
        "FakeTextEngine",
        "GraphEngine",
        "LlamaEngine",
        "Prefixes",
        "Prompt",
        "Request",
        "ServerEngine",
        "TextEngine",
        "TextSession",
        "Vocabulary",
    },
    "vidrisk.calibration": {
        "PROFILES",
        "Budget",
        "Histogram",
        "Observed",
        "Profile",
        "Quantizer",
        "Recipe",
        "Search",
        "Statistics",
        "choose_int8_recipe",
        "fit_temperature",
        "match_temperature",
        "Outcome",
        "Point",
        "observe_statistics",
        "qdq_from_float",
        "range_from_histogram",
        "ranges_from_statistics",
        "search_precision",
    },
    "vidrisk.frames": {
        "MEDIA_SUFFIXES",
        "Clip",
        "Damage",
        "Decoder",
        "Frame",
        "FrameChoice",
        "FrameWindow",
        "Interval",
        "MediaInfo",
        "decoder_versions",
        "is_media",
        "kind_of",
        "probe",
        "read_clips",
        "read_frames",
    },
    "vidrisk.data": {
        "Case",
        "Cases",
        "Sample",
        "Scheme",
        "Table",
        "check_leaks",
        "contact_sheet",
        "guidance_from_table",
        "load_cases",
        "load_scheme",
        "load_table",
        "ratios_from_text",
        "split_cases",
        "split_table",
        "targets_from_table",
        "write_table",
    },
}


@pytest.mark.parametrize("module", SURFACE)
def test_exported_members(module: str) -> None:
    package = importlib.import_module(module)
    assert set(package.__all__) == SURFACE[module]
    assert all(hasattr(package, name) for name in package.__all__)
