from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidrisk.doctor.jetson import (
    JETPACK,
    Clock,
    dpkg_version,
    jetpack_from_l4t,
    jetson_from_files,
    l4t_from_release,
    mode_from_query,
    modes_from_conf,
)


def test_an_orin_nano_says_what_it_is(board: Callable[..., Path]) -> None:
    jetson = jetson_from_files(board("orin nano super"))
    assert jetson is not None
    assert jetson.model == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert (jetson.l4t, jetson.jetpack, jetson.has_jetpack, jetson.is_too_old) == ("36.4.7", "6.2.1", True, False)
    assert (jetson.power_mode, jetson.fastest_mode) == ("25W", (2, "MAXN_SUPER"))
    assert jetson.clocks == (Clock("GPU", 306, 1020), Clock("CPU 0", 729, 1344))
    assert not any(clock.is_locked for clock in jetson.clocks)
    assert (jetson.hot, jetson.overcurrents, jetson.hottest_c) == ((), {}, 52.125)


def test_a_thor_that_is_hot(board: Callable[..., Path]) -> None:
    jetson = jetson_from_files(board("agx thor"))
    assert jetson is not None
    assert (jetson.l4t, jetson.jetpack, jetson.has_jetpack) == ("38.2.0", "7.0", False)
    assert jetson.clocks == (Clock("GPU", 1575, 1575),) and jetson.clocks[0].is_locked
    assert (jetson.hot, jetson.hottest_c) == (("gpu-throttle-alert",), 99.5)
    assert (jetson.power_mode, jetson.fastest_mode) == ("", None)


def test_a_package_that_was_removed_is_not_installed(board: Callable[..., Path]) -> None:
    jetson = jetson_from_files(board("agx orin, jetpack 7"))
    assert jetson is not None and (jetson.jetpack, jetson.has_jetpack) == ("7.2", False)


def test_overcurrents_are_counted(board: Callable[..., Path]) -> None:
    counter = "sys/devices/platform/soctherm-oc-event/hwmon/hwmon3/oc3_event_cnt"
    jetson = jetson_from_files(board("orin nano super", {counter: "813\n"}))
    assert jetson is not None and jetson.overcurrents == {"oc3": 813}


@pytest.mark.parametrize(
    ("l4t", "is_too_old"), [("32.5.1", True), ("36.3.0", True), ("36.4.0", False), ("39.2.1", False)]
)
def test_jetpack_6_1_is_the_oldest_for_engines(board: Callable[..., Path], l4t: str, is_too_old: bool) -> None:
    major, _, revision = l4t.partition(".")
    release = f"# R{major} (release), REVISION: {revision}, GCID: 1, BOARD: generic\n"
    jetson = jetson_from_files(board("orin nano super", {"etc/nv_tegra_release": release}))
    assert jetson is not None and (jetson.l4t, jetson.is_too_old) == (l4t, is_too_old)


def test_other_machines_are_no_jetson(write_tree: Callable[..., Path]) -> None:
    assert jetson_from_files(write_tree({"proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0"})) is None
    assert jetson_from_files(Path("/nonexistent")) is None


@pytest.mark.parametrize(
    ("l4t", "jetpack"),
    [
        ("36.4.3", "6.2"),
        ("36.4.4", "6.2.1"),
        ("36.4.0", "6.1"),
        ("36.5.0", "6.2.2"),
        ("36.3.0", "6.0"),
        ("38.4.0", "7.1"),
        ("39.2.0", "7.2"),
        ("39.2.1", "7.2.1"),
        ("35.6.1", "5"),
        ("99.1", ""),
        ("", ""),
    ],
)
def test_jetpack_by_release(l4t: str, jetpack: str) -> None:
    assert jetpack_from_l4t(l4t) == jetpack


@pytest.mark.parametrize("text", ["", "Ubuntu", "# R36 (release)", "# R36 (release), REVISION: x, GCID: 1"])
def test_no_release(text: str) -> None:
    assert l4t_from_release(text) == ""


def test_power_modes() -> None:
    conf = "< POWER_MODEL ID=0 NAME=MAXN >\n  <POWER_MODEL  ID=11 NAME=MODE_40W>\n# < POWER_MODEL ID=3 NAME=x >\n"
    assert modes_from_conf(conf) == {0: "MAXN", 11: "MODE_40W"}
    assert mode_from_query("NVPM WARN: fan mode is not set!\nNV Power Mode: MAXN\n0\n") == "MAXN"
    assert mode_from_query("") == ""


def test_a_mode_that_the_configuration_does_not_name(board: Callable[..., Path]) -> None:
    jetson = jetson_from_files(board("orin nano super", {"var/lib/nvpmodel/status": "pmode:0009"}))
    assert jetson is not None and jetson.power_mode == "mode 9"


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
def test_no_text_is_too_strange(text: str) -> None:
    assert jetpack_from_l4t(l4t_from_release(text)) in {"", *JETPACK.values()}
    assert all(number >= 0 and name for number, name in modes_from_conf(text).items())
    assert " " not in dpkg_version(text, "nvidia-jetpack") + mode_from_query(text)
