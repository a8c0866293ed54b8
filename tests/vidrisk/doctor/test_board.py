from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vidrisk.doctor.board import board_checks
from vidrisk.doctor.check import Check
from vidrisk.doctor.facts import Facts
from vidrisk.doctor.jetson import jetson_from_files

COUNTER = "sys/devices/platform/soctherm-oc-event/hwmon/hwmon3/oc3_event_cnt"


def checks_of(root: Path) -> dict[str, Check]:
    return {check.name: check for check in board_checks(Facts(root, jetson=jetson_from_files(root)))}


def test_other_machines_have_no_board() -> None:
    assert list(board_checks(Facts())) == []


def test_an_orin_nano(board: Callable[..., Path]) -> None:
    checks = checks_of(board("orin nano super"))
    assert {name: check.state for name, check in checks.items()} == {
        "board": "ok",
        "JetPack": "ok",
        "power mode": "optional",
        "clocks": "optional",
        "throttling": "ok",
    }
    assert checks["JetPack"].found == "6.2.1, Jetson Linux 36.4.7"
    assert checks["power mode"].fix == "sudo nvpmodel -m 2" and checks["power mode"].found.startswith("25W; MAXN_SUPER")
    assert (
        checks["clocks"].fix == "sudo jetson_clocks"
        and "GPU 306 to 1020 MHz, CPU 0 729 to 1344 MHz" in checks["clocks"].found
    )
    assert checks["throttling"].found == "none; 52 °C at the hottest"


def test_at_full_speed(board: Callable[..., Path]) -> None:
    fast = {
        "var/lib/nvpmodel/status": "pmode:0002",
        "sys/class/devfreq/17000000.gpu/min_freq": "1020000000\n",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq": "1344000\n",
    }
    checks = checks_of(board("orin nano super", fast))
    assert (checks["power mode"].state, checks["power mode"].found) == ("ok", "MAXN_SUPER")
    assert (checks["clocks"].state, checks["clocks"].found) == ("ok", "locked: GPU 1020 MHz, CPU 0 1344 MHz")


def test_a_thor_that_is_hot_and_lacks_jetpack(board: Callable[..., Path]) -> None:
    checks = checks_of(board("agx thor"))
    assert checks["throttling"].state == "warning" and "gpu-throttle-alert" in checks["throttling"].found
    assert (checks["JetPack"].state, checks["JetPack"].fix) == (
        "optional",
        "sudo apt update && sudo apt install nvidia-jetpack",
    )
    assert "7.0, Jetson Linux 38.2.0" in checks["JetPack"].found and "power mode" not in checks


def test_too_little_current(board: Callable[..., Path]) -> None:
    check = checks_of(board("orin nano super", {COUNTER: "813\n"}))["throttling"]
    assert check.state == "warning" and "oc3 813 times" in check.found and check.fix


def test_a_jetpack_that_is_too_old(board: Callable[..., Path]) -> None:
    check = checks_of(board("nano"))["JetPack"]
    assert check.state == "warning" and "4, Jetson Linux 32.5.1" in check.found and "6.1" in check.fix


def test_a_board_that_tells_nothing_but_its_name(write_tree: Callable[..., Path]) -> None:
    checks = checks_of(write_tree({"proc/device-tree/model": "NVIDIA Jetson Orin NX\0"}))
    assert set(checks) == {"board", "JetPack"} and checks["JetPack"].found.startswith("unknown, Jetson Linux unknown")
