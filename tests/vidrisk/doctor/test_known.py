from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vidrisk.doctor.asking import Probe
from vidrisk.doctor.check import Check
from vidrisk.doctor.facts import Facts, Gpu
from vidrisk.doctor.jetson import jetson_from_files
from vidrisk.doctor.known import trouble_checks


def checks_of(facts: Facts) -> dict[str, Check]:
    return {check.name: check for check in trouble_checks(facts)}


def test_a_machine_without_trouble_is_one_line() -> None:
    (check,) = trouble_checks(Facts(packages={"av": "18.1.0"}))
    assert (check.section, check.state) == ("known trouble", "ok") and "entries applies to this machine" in check.found


def test_an_orin_with_jetpack_6(board: Callable[..., Path]) -> None:
    root = board("orin nano super")
    facts = Facts(root, False, probes={"tensorrt": Probe({"version": "10.3.0"})}, jetson=jetson_from_files(root))
    checks = checks_of(facts)
    assert set(checks) == {"tensorrt-10.3-jetson", "jetson-linux-nvmap"}
    check = checks["tensorrt-10.3-jetson"]
    assert check.state == "warning" and check.fix.startswith("vidrisk verify BUNDLE --runtime tensorrt")
    assert (
        check.found.startswith("tensorrt 10.3.0: ViT, DINOv3")
        and "ros2-depth-anything-v3-trt#16 and 4 more)" in check.found
    )


def test_an_orin_in_a_container_whose_tensorrt_does_not_know_it() -> None:
    gpu = Gpu("Orin", "8.7", works=True)
    checks = checks_of(Facts(is_x86=False, probes={"tensorrt": Probe({"version": "10.13.3.9"})}, gpu=gpu))
    assert set(checks) == {"tensorrt-without-orin"} and "10.16.1.11-1+cuda13.2" in checks["tensorrt-without-orin"].fix
    fine = checks_of(Facts(is_x86=False, probes={"tensorrt": Probe({"version": "10.16.1.11"})}, gpu=gpu))
    assert set(fine) == {"known trouble"}


def test_what_a_probe_tells_counts_before_the_package(board: Callable[..., Path]) -> None:
    packages = {"onnxruntime": "1.27.0", "av": "17.0.1"}
    assert set(checks_of(Facts(is_x86=False, packages=packages))) == {"onnxruntime-1.27.0-sme", "pyav-17.0"}
    told = {"onnxruntime": Probe({"version": "1.27.1"}), "PyAV": Probe(problem="crashes (Segmentation fault)")}
    assert set(checks_of(Facts(is_x86=False, packages=packages, probes=told))) == {"pyav-17.0"}


def test_what_depends_on_the_engine_is_left_to_its_build() -> None:
    for version in ("10.10.0", "11.2.0"):
        assert set(checks_of(Facts(probes={"tensorrt": Probe({"version": version})}, gpu=Gpu("L4", "8.9")))) == {
            "known trouble"
        }


@pytest.mark.parametrize("version", ["", "unknown", "dev", "10.3.0.dev1+local.5", "1!10.3"])
def test_versions_that_nobody_expects(version: str) -> None:
    assert checks_of(Facts(packages={"av": version}, probes={"tensorrt": Probe({"version": version})}))


def test_the_doctor_reads_the_table_with_the_standard_library_alone() -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['numpy', 'pydantic', 'packaging', 'yaml']));"
        "from vidrisk.doctor.support import read_table; print(len(read_table()))"
    )
    end = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(end.stdout) > 10
