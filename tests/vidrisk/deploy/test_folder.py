from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidrisk.deploy.deployment import FILES, unit_word, write_deployment
from vidrisk.deploy.devices import TARGETS, TargetName
from vidrisk.frames import probe
from vidrisk.runtimes import Bundle
from vidrisk.runtimes.contract.bundle import sha256_of
from vidrisk.runtimes.contract.errors import EXIT_GATE, BundleError, SettingsError, VidriskError

WRITTEN = {
    "Dockerfile",
    "LICENSES.txt",
    "README.md",
    "SHA256SUMS",
    "bundle",
    "deploy.conf",
    "install.sh",
    "requirements.txt",
    "smoke.mp4",
    "uninstall.sh",
    "vidrisk-watch.service",
}
# Of 10, by systemd's own count, per engine; a service that takes no care has 9.6.
MOST_EXPOSED = {"": 1.0, "tensorrt": 2.5, "tensorrt-rtx": 2.5}


def settings_of(out: Path) -> dict[str, str]:
    """Return the settings that a shell reads from deploy.conf."""
    end = subprocess.run(
        [
            "bash",
            "-c",
            '. "$1"; for name in ${!VIDRISK_@}; do printf "%s=%s\\0" "$name" "${!name}"; done',
            "-",
            str(out / "deploy.conf"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(entry.split("=", 1) for entry in end.stdout.split("\0") if entry)


def test_targets_are_those_that_the_type_names() -> None:
    assert tuple(TARGETS) == get_args(TargetName)


@pytest.mark.parametrize("name", TARGETS)
def test_everything_is_there_and_sealed(
    folders: dict[str, Path], bundle: Path, odd_inbox: str, name: TargetName
) -> None:
    out = folders[name]
    settings = settings_of(out)
    assert {path.name for path in out.iterdir()} == WRITTEN | {settings["VIDRISK_WHEEL"]}
    assert (
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=out, check=False).returncode
        == 0
    )
    listed = {line.split("  ", 1)[1] for line in (out / "SHA256SUMS").read_text(encoding="utf-8").splitlines()}
    assert listed == {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} - {"SHA256SUMS"}
    assert Bundle.open(out / "bundle" / bundle.name).digest == Bundle.open(bundle).digest
    assert all(os.access(out / script, os.X_OK) for script in ("install.sh", "uninstall.sh"))
    assert (settings["VIDRISK_TARGET"], settings["VIDRISK_INBOX"]) == (name, odd_inbox)
    assert settings["VIDRISK_BUNDLE"] == bundle.name and settings["VIDRISK_WHEELS_PYTHON"] == ""
    assert probe(out / "smoke.mp4").frames == 8


def test_jetsons_know_their_releases(folders: dict[str, Path]) -> None:
    orin, thor, pc = (settings_of(folders[name]) for name in ("jetson-orin", "jetson-thor", "x86-gpu"))
    assert orin["VIDRISK_L4T"].split() == ["36.4", "39.2"] and thor["VIDRISK_L4T"].split() == ["38.2", "39.2"]
    assert (orin["VIDRISK_ENGINE"], pc["VIDRISK_ENGINE"]) == ("tensorrt", "tensorrt-rtx")
    assert (pc["VIDRISK_L4T"], pc["VIDRISK_DRIVER"], orin["VIDRISK_DRIVER"]) == ("", "580", "")


@pytest.mark.parametrize("name", TARGETS)
def test_the_dockerfile_names_its_base_and_what_it_runs(
    folders: dict[str, Path], bundle: Path, name: TargetName
) -> None:
    text = (folders[name] / "Dockerfile").read_text(encoding="utf-8")
    assert f"ARG BASE_IMAGE={TARGETS[name].base_image}\nFROM ${{BASE_IMAGE}}\n" in text
    command = json.loads(next(line for line in text.splitlines() if line.startswith("CMD ")).removeprefix("CMD "))
    assert command[:2] == ["-v", "watch"] and f"/opt/vidrisk/current/bundle/{bundle.name}" in command
    assert (command[-1] == TARGETS[name].engine) == bool(TARGETS[name].engine)


@pytest.mark.parametrize("name", TARGETS)
def test_the_readme_says_where_things_are(folders: dict[str, Path], odd_inbox: str, name: TargetName) -> None:
    text = (folders[name] / "README.md").read_text(encoding="utf-8")
    assert f"`{odd_inbox}`" in text and "sudo ./install.sh" in text and "{{" not in text
    assert max(map(len, text.splitlines())) < 160


def test_the_scripts_are_shellcheck_clean(shellcheck: str) -> None:
    scripts = sorted(FILES.glob("*.sh"))
    assert [script.name for script in scripts] == ["install.sh", "uninstall.sh"]
    end = subprocess.run([shellcheck, *scripts], capture_output=True, text=True, check=False)
    assert end.returncode == 0, end.stdout


@pytest.fixture
def analyze(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs ``systemd-analyze VERB`` on a unit.

    ``verify`` runs in a root that contains only the unit and its interpreter. The other verbs read the file
    offline.
    """
    program = shutil.which("systemd-analyze")
    if not program:
        pytest.skip("systemd-analyze is not installed: apt-get install systemd")

    def start(verb: str, unit: str, *options: str) -> subprocess.CompletedProcess[str]:
        python = tmp_path / "opt/vidrisk/current/venv/bin/python"
        (tmp_path / "etc/systemd/system").mkdir(parents=True, exist_ok=True)
        python.parent.mkdir(parents=True, exist_ok=True)
        python.touch(0o755)
        path = tmp_path / "etc/systemd/system/vidrisk-watch.service"
        path.write_text(unit, encoding="utf-8")
        what = [f"--root={tmp_path}", "vidrisk-watch.service"] if verb == "verify" else ["--offline=yes", str(path)]
        return subprocess.run([program, verb, *options, *what], capture_output=True, text=True, check=False)

    return start


@pytest.mark.parametrize("name", TARGETS)
def test_systemd_takes_the_unit(
    folders: dict[str, Path], name: TargetName, analyze: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    unit = (folders[name] / "vidrisk-watch.service").read_text(encoding="utf-8")
    end = analyze("verify", unit, "--man=no", "--recursive-errors=no")
    assert (end.returncode, end.stdout, end.stderr) == (0, "", "")
    broken = analyze("verify", unit.replace("KillMode=", "KilMode="), "--man=no", "--recursive-errors=no")
    assert "KilMode" in broken.stderr  # it would say so
    assert "StateDirectory" not in unit and "UMask=0027" in unit and " -I -m vidrisk " in unit
    exposed = re.search(r"exposure level for .*: ([0-9.]+)", analyze("security", unit, "--no-pager").stdout)
    assert exposed and float(exposed[1]) <= MOST_EXPOSED[TARGETS[name].engine]
    assert ("PrivateDevices=yes" in unit) == (not TARGETS[name].engine)  # it would hide a GPU
    assert f"\nRestartPreventExitStatus={EXIT_GATE}\n" in unit  # answers that differ


def test_an_inbox_at_home_can_be_seen(bundle: Path, tmp_path: Path) -> None:
    for inbox, protection in (("/home/me/in", "read-only"), ("/mnt/home/in", "yes")):
        out = write_deployment(bundle, "cpu", tmp_path / protection, inbox=inbox).folder
        assert f"\nProtectHome={protection}\n" in (out / "vidrisk-watch.service").read_text(encoding="utf-8")


@given(st.text(st.characters(exclude_categories=("C", "Z"))))
def test_words_of_a_unit_come_back_whole(text: str) -> None:
    """Undoing the quoting rules of systemd.service(5) and systemd.unit(5) gives back the original word."""
    word = unit_word(text)
    assert word[0] == word[-1] == '"'
    inner = word[1:-1].replace("%%", "%").replace("$$", "$")
    assert re.sub(r"\\(.)", r"\1", inner) == text
    assert not re.search(r'(?<!\\)(?:\\\\)*"', word[1:-1])


@pytest.mark.slow
def test_with_wheels_no_network_is_needed(deployed: Path, wheelhouse: Path) -> None:
    settings = settings_of(deployed)
    assert settings["VIDRISK_WHEELS_PYTHON"] == TARGETS["cpu"].pythons[0]
    assert {path.name for path in (deployed / "wheels").iterdir()} == {path.name for path in wheelhouse.iterdir()}
    assert "No network is needed" in (deployed / "README.md").read_text(encoding="utf-8")
    assert "wheels/numpy" in (deployed / "SHA256SUMS").read_text(encoding="utf-8")


@pytest.mark.slow
def test_wheels_are_pinned_and_their_licences_named(deployed: Path) -> None:
    lines = (deployed / "requirements.txt").read_text(encoding="utf-8").splitlines()[1:]
    wheels = [*deployed.glob("*.whl"), *(deployed / "wheels").iterdir()]
    assert sorted(line.split("--hash=sha256:")[1] for line in lines) == sorted(map(sha256_of, wheels))
    assert any(re.match(r"vidrisk\[cpu\]==", line) for line in lines)
    text = (deployed / "LICENSES.txt").read_text(encoding="utf-8")
    assert len(re.findall(r"^\S+ \S+: \S", text, re.MULTILINE)) == len(wheels)
    assert re.search(r"^av .*\n    holds libx264 and libx265: GNU GPL 2.0 or later", text, re.MULTILINE)
    assert "vidrisk " in text and "Apache-2.0" in text


def test_without_wheels_it_says_that_versions_are_not_pinned(folders: dict[str, Path]) -> None:
    out = folders["x86-gpu"]
    assert "in the versions available at that time" in " ".join((out / "README.md").read_text(encoding="utf-8").split())
    assert "NVIDIA" in (out / "LICENSES.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inbox": "in"}, "absolute path"),
        ({"inbox": "/"}, "absolute path"),
        ({"inbox": "/a/../b"}, "absolute path"),
        ({"inbox": "/a\nExecStart=/bin/sh"}, "printable"),
        ({"inbox": "/tmp/in"}, "a /tmp of its own.*/data/inbox"),
        ({"inbox": "/var/tmp/a/in"}, "/var/tmp of its own"),
        ({"inbox": "/dev/shm/in"}, "/dev of its own"),
        ({"inbox": "//tmp/in"}, "absolute path"),
        ({"inbox": "/var/lib/vidrisk/out/in"}, "what the service itself keeps"),
        ({"inbox": "/var/lib/vidrisk"}, "itself keeps"),
        ({"python": "3.12"}, "python without wheels; fix: ask for wheels"),
        ({"python": "3.9", "wheels": True}, r"python=3\.9; allowed: 3\.10, 3\.12"),
    ],
)
def test_wrong_values_are_one_line(bundle: Path, tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        write_deployment(bundle, "jetson-orin", tmp_path / "out", **options)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_that_is_damaged_or_has_an_odd_name_is_refused(bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "a.bundle"
    shutil.copytree(bundle, copy)
    odd = copy.rename(tmp_path / "a\nb.bundle")
    with pytest.raises(SettingsError, match="the name of the bundle"):
        write_deployment(odd, "cpu", tmp_path / "out")
    (odd / "head.fp32.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match="was changed after export"):
        write_deployment(odd, "cpu", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("target", "engines"), [("cpu", "any"), ("any", "processor")])
def test_int8_for_processors_does_not_go_to_tensorrt(bundle: Path, tmp_path: Path, target: str, engines: str) -> None:
    """A deployment for TensorRT refuses INT8 for processors, also when only the gate states the target.

    The target may stand in the gate, as before, or in the variant itself. INT8 for TensorRT in the same bundle is
    accepted.
    """
    quantised = tmp_path / "q.bundle"
    quantised.mkdir()
    manifest = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    int8 = {**manifest["variants"]["fp32"], "precision": {"encoder": "int8", "head": "fp32"}}
    manifest["variants"]["int8"] = {**int8, "engines": engines}
    gate = json.dumps({"target": target}).encode()
    manifest["files"]["gate.json"] = {"sha256": hashlib.sha256(gate).hexdigest(), "bytes": len(gate)}
    for file in ("encoder.fp32.onnx", "head.fp32.onnx", "golden.zip"):
        shutil.copy(bundle / file, quantised / file)
    (quantised / "gate.json").write_bytes(gate)
    (quantised / "bundle.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(
        BundleError, match=r"has int8 for processors, which TensorRT refuses.*for TensorRT and the target jetson"
    ):
        write_deployment(quantised, "jetson-thor", tmp_path / "out")
    assert write_deployment(quantised, "cpu", tmp_path / "out").folder.is_dir()
    if target == "any":
        manifest["variants"]["int8"]["precision"]["encoder"] = "int4"  # in floating point to TensorRT, on purpose
        (quantised / "bundle.json").write_text(json.dumps(manifest), encoding="utf-8")
        assert write_deployment(quantised, "jetson-thor", tmp_path / "packed").folder.is_dir()
        fp32 = manifest["variants"].pop("fp32")
        (quantised / "bundle.json").write_text(json.dumps(manifest), encoding="utf-8")
        with pytest.raises(BundleError, match="has int8 for processors, which TensorRT refuses"):  # and nothing else
            write_deployment(quantised, "jetson-thor", tmp_path / "alone")
        manifest["variants"]["fp32"] = fp32
        manifest["variants"]["int8-tensorrt"] = {**int8, "engines": "tensorrt"}
        (quantised / "bundle.json").write_text(json.dumps(manifest), encoding="utf-8")
        assert write_deployment(quantised, "jetson-thor", tmp_path / "thor").folder.is_dir()


def test_nothing_is_overwritten_and_nothing_half_is_left(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(SettingsError, match="exists already"):
        write_deployment(bundle, "cpu", tmp_path / "out")
    (tmp_path / "out").rmdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # an index that has nothing
    with pytest.raises(VidriskError, match="has no wheel"):
        write_deployment(bundle, "cpu", tmp_path / "out", wheels=True)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(SettingsError, match=r"file is a file, so .*out cannot be written"):
        write_deployment(bundle, "cpu", tmp_path / "file" / "out")
    with pytest.raises(VidriskError, match=r"cannot write to .*link: File exists"):
        write_deployment(bundle, "cpu", tmp_path / "link" / "out")


def test_a_deployment_can_be_made_from_the_bundle_of_another(folders: dict[str, Path], tmp_path: Path) -> None:
    inner = next((folders["cpu"] / "bundle").iterdir())
    again = write_deployment(inner, "cpu", tmp_path / "再" / "out")
    assert again.bundle == inner.name and shlex.quote(inner.name) in (again.folder / "deploy.conf").read_text(
        encoding="utf-8"
    )
