from __future__ import annotations

from pathlib import Path

import pytest

from vidrisk.doctor import packages
from vidrisk.doctor.asking import Probe
from vidrisk.doctor.check import Check
from vidrisk.doctor.facts import Facts, Gpu, installed_packages
from vidrisk.doctor.packages import EXTRAS, package_checks

READERS = {
    "numpy": Probe({"version": "2.4.6"}),
    "Pillow": Probe({"version": "13.0.0", "lacking": []}),
    "PyAV": Probe({"version": "18.1.0", "lacking": []}),
}


def checks_of(facts: Facts) -> dict[str, Check]:
    return {check.name: check for check in package_checks(facts)}


def test_a_bare_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "is_there", lambda module: False)
    checks = checks_of(Facts(probes=READERS))
    assert not any(check.is_red for check in checks.values())
    assert {name for name, check in checks.items() if check.state == "optional"} == {"decord2", *EXTRAS}
    assert checks["torch"].fix == "pip install 'vidrisk[train]'"


def test_extras_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "is_there", {"torch", "peft"}.__contains__)
    checks = checks_of(Facts(packages={"torch": "2.13.0"}, probes={**READERS, "decord": Probe({"version": "3.4.0"})}))
    assert [checks[name].found for name in ("torch", "peft", "decord2")] == ["2.13.0", "installed", "3.4.0"]
    assert checks["onnx"].state == "optional"


def test_what_is_installed_here_is_found() -> None:
    checks, installed = checks_of(Facts(packages=installed_packages(), probes=READERS)), installed_packages()
    assert {name for name in EXTRAS if checks[name].state == "ok"} == EXTRAS.keys() & installed.keys()


def test_every_extra_is_one_of_the_project() -> None:
    project = (Path(__file__).resolve().parents[3] / "pyproject.toml").read_text(encoding="utf-8")
    assert all(f"\n{extra} = [" in project for _, extra, _ in EXTRAS.values())


@pytest.mark.parametrize(("name", "package"), [("numpy", "numpy"), ("Pillow", "pillow"), ("PyAV", "av")])
def test_what_infer_cannot_do_without(name: str, package: str) -> None:
    gone = checks_of(Facts(probes={key: probe for key, probe in READERS.items() if key != name}))[name]
    assert (gone.state, gone.fix) == ("missing", f"pip install {package}")
    broken = checks_of(Facts(probes={**READERS, name: Probe(problem="crashes (Illegal instruction)")}))[name]
    assert (broken.state, broken.fix) == ("missing", f"pip install --force-reinstall {package}")


def test_a_decoder_that_lacks_codecs() -> None:
    check = checks_of(Facts(probes={**READERS, "PyAV": Probe({"version": "18.1.0", "lacking": ["hevc", "av1"]})}))[
        "PyAV"
    ]
    assert check == Check(
        "libraries",
        "PyAV",
        "warning",
        "18.1.0, without hevc, av1",
        "pip install --force-reinstall --only-binary :all: av",
    )


def test_a_decord_that_crashes() -> None:
    check = checks_of(Facts(probes={**READERS, "decord": Probe(problem="crashes (Aborted)")}))["decord2"]
    assert (check.state, check.fix) == ("broken", "pip install --force-reinstall decord2")


@pytest.mark.parametrize(("gpu", "kept"), [(None, "onnxruntime"), (Gpu("Tesla T4", works=True), "onnxruntime-gpu")])
def test_packages_that_overwrite_each_other(gpu: Gpu | None, kept: str) -> None:
    packages = {"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.22.0"}
    check = checks_of(Facts(packages=packages, probes=READERS, gpu=gpu))["onnxruntime and onnxruntime-gpu"]
    assert check.is_red and check.fix == f"pip uninstall -y onnxruntime onnxruntime-gpu && pip install {kept}"
