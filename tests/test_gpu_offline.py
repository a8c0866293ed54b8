"""Tests of the GPU run without a network, as far as it works without a GPU.

They run its steps on the fake GPU of the tests, and cover possible failures.
"""

from __future__ import annotations

import ensurepip
import hashlib
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vidrisk.runtimes.contract.errors import is_installed
from vidrisk.runtimes.gpu import visible_gpu

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "benchmarks" / "gpu_offline.sh"


@pytest.fixture(scope="module")
def benchmarks() -> Iterator[SimpleNamespace]:
    """Yield the modules of the GPU run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        names = ("gpu", "gpu_compare", "gpu_place", "gpu_steps", "gpu_parts", "gpu_wheels")
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(SCRIPT), *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHON": sys.executable, **environment},
    )


@pytest.mark.slow(minutes=5)
def test_a_dry_run_runs_every_step_and_keeps_what_it_finds(tmp_path: Path, benchmarks: SimpleNamespace) -> None:
    end = run("--dry-run", tmp_path / "out", GPU_FAMILIES="vit")
    told = {
        step.name: json.loads((tmp_path / "out" / f"{step.name}.json").read_text(encoding="utf-8"))
        for step in benchmarks.gpu_steps.STEPS
    }
    assert {name: (one["state"], one.get("error")) for name, one in told.items()} == dict.fromkeys(
        told, ("ok", None)
    ), end.stdout
    assert end.returncode == 0 and "(a dry run: no figure in it is one of a GPU)" in end.stdout
    assert all(one["fake"] and one["headline"] for one in told.values())
    assert told["first"]["machine"]["gpu"] == "Fake GPU" and told["first"]["result"]["runtimes"]["tensorrt"]["equal"]
    rows = told["families"]["result"]["runtimes"]["tensorrt"]["vit"]
    assert {"fp32", "fp16"} < set(rows) and len(rows) == 3 and all(each["equal"] for each in rows.values())
    runner = told["runner"]["result"]
    assert all(runner[part]["right"] for part in ("copies", "cuda_graphs", "out_of_memory"))
    assert any("from now on at most 32" in line for line in runner["out_of_memory"]["said"])
    for model in told["throughput"]["result"]["models"].values():
        assert {"tensorrt fp16", "torch eager fp16", "ONNX Runtime CUDA fp16, bound"} <= set(model["frames_per_s"])
        assert set(model["beside_torch_compile"]) == {"tensorrt fp16", "torch.compile fp16"}
        assert len(model["ratios"]) == 4
    assert set(told["second_start"]["result"]["models"]) == set(told["throughput"]["result"]["models"])
    vlm = told["vlm"]["result"]
    assert set(vlm["training"]) == {"without checkpointing", "with checkpointing"}
    assert {"torch bf16", "tensorrt fp16", "tensorrt int8", "torch.compile bf16"} <= set(vlm["prefill_ms"]["vision"])
    assert {"torch bf16", "tensorrt fp16", "torch.compile bf16"} <= set(vlm["prefill_ms"]["text"])
    assert min(cosine for of_stage in vlm["cosine"].values() for cosine in of_stage.values()) > 0.99
    served = told["server"]["result"]
    has_server = all(is_installed(name) for name in ("fastapi", "uvicorn", "openai"))
    assert not served["missing"] and {*served["servers"].get("transformers", ())} == (
        {"1", "8", "32"} if has_server else set()
    )
    assert set(told["tests"]["result"]["tests"].values()) == {"skipped" if visible_gpu() is None else "passed"}
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert [one["step"] for one in summary["steps"]] == list(told)


def test_the_steps_are_those_of_the_benchmark_and_fit_into_ten_minutes_with_what_matters(
    benchmarks: SimpleNamespace,
) -> None:
    steps = benchmarks.gpu_steps.STEPS
    assert [step.name for step in steps] == list(benchmarks.gpu.STEPS)
    without = {step.__name__ for step in benchmarks.gpu.WITHOUT_GPU}
    assert {step.name for step in steps if not step.sees_gpu} == without
    names = [step.name for step in steps]
    assert names.index("first") < names.index("families") < names.index("runner") < names.index("throughput")
    assert sum(step.limit_s for step in steps[:4]) < benchmarks.gpu_steps.SECONDS


# -- steps that go wrong


@pytest.fixture
def steps_of(benchmarks: SimpleNamespace, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Return a function that runs one program per step, within time limits, and returns the report of each step.

    A program has ``out``, the path of its JSON file, and ``write``, which writes that file.
    """

    def run_them(programs: dict[str, str], *, seconds: float = 60, limit_s: float = 20) -> dict[str, Any]:
        program = tmp_path / "program.py"
        cases = "".join(
            f"if step == {name!r}:\n{textwrap.indent(textwrap.dedent(code), '    ')}\n"
            for name, code in programs.items()
        )
        program.write_text(
            textwrap.dedent("""\
            import json, os, subprocess, sys, time
            from pathlib import Path
            step, out = sys.argv[2], Path(sys.argv[4])
            def write(**told): out.write_text(json.dumps({"step": step, **told}))
            """)
            + cases,
            encoding="utf-8",
        )
        steps = [benchmarks.gpu_steps.Step(name, limit_s) for name in programs]
        told = benchmarks.gpu_steps.run_steps(steps, tmp_path / "out", [sys.executable, str(program)], seconds)
        for one in told:
            assert json.loads((tmp_path / "out" / f"{one['step']}.json").read_text(encoding="utf-8")) == one
        summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
        assert [(each["step"], each["state"]) for each in summary["steps"]] == [
            (one["step"], one["state"]) for one in told
        ]
        return {one["step"]: one for one in told}

    return run_them


def test_a_step_that_hangs_is_ended_with_all_that_it_started_and_costs_no_other(
    steps_of: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    begin = time.monotonic()
    told = steps_of(
        {
            "hangs": f"""
            import signal
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            child = subprocess.Popen(["sleep", "300"])
            Path({str(tmp_path / "child")!r}).write_text(str(child.pid))
            write(state="running", result={{"measured": 1}}, headline="one of two")
            time.sleep(300)
        """,
            "next": 'write(state="ok", headline="fine")',
        },
        limit_s=2,
    )
    assert told["hangs"]["state"] == "timed out" and told["hangs"]["result"] == {"measured": 1}
    assert "not at its end after 2 s" in told["hangs"]["error"] and told["next"]["state"] == "ok"
    assert time.monotonic() - begin < 30
    state = Path(f"/proc/{(tmp_path / 'child').read_text(encoding='utf-8')}/stat")
    assert not state.exists() or state.read_text(encoding="utf-8").rpartition(")")[2].split()[0] in "ZX"


def test_steps_that_crash_fail_or_say_nothing(steps_of: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    told = steps_of(
        {
            "crashes": 'write(state="running", result=[1]); os.abort()',
            "raises": 'write(state="running"); raise ValueError("a typo")',
            "fails": 'write(state="failed", error="different"); sys.exit(1)',
            "silent": "pass",
            "half": 'out.write_text("{"); sys.exit(0)',
            "liar": 'write(state="ok"); sys.exit(3)',
            "fine": 'write(state="ok")',
        }
    )
    assert {name: one["state"] for name, one in told.items()} == {
        "crashes": "crashed",
        "raises": "crashed",
        "fails": "failed",
        "silent": "crashed",
        "half": "crashed",
        "liar": "crashed",
        "fine": "ok",
    }
    assert "Aborted" in told["crashes"]["error"] and told["crashes"]["result"] == [1]
    assert told["raises"]["error"] == "exit code 1: ValueError: a typo"
    assert told["silent"]["error"] == "exit code 0: it said nothing"


def test_what_no_time_is_left_for_is_left_out(steps_of: Callable[..., dict[str, Any]]) -> None:
    told = steps_of({"slow": "time.sleep(60)", "late": 'write(state="ok")'}, seconds=6)
    assert told["slow"]["state"] == "timed out" and told["slow"]["seconds"] < 15
    assert (told["late"]["state"], told["late"]["error"]) == ("left out", "no time was left of 6 s")


def test_what_an_earlier_run_has_left_is_not_taken_for_this_one(
    steps_of: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "dies.json").write_text('{"step": "dies", "state": "ok", "result": "old"}', encoding="utf-8")
    told = steps_of({"dies": "os.kill(os.getpid(), 9)"})
    assert told["dies"]["state"] == "crashed" and "result" not in told["dies"]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP])
def test_whoever_stops_the_run_stops_its_step_and_keeps_the_rest(how: signal.Signals, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_steps.py"), str(out), "--dry-run", "--families", "vit"]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: signal.signal(how, signal.SIG_DFL),
    ) as process:  # the tests may run under nohup
        until = time.monotonic() + 60
        while not (out / "bundles.json").exists() and time.monotonic() < until:
            time.sleep(0.05)
        process.send_signal(how)
        _, error = process.communicate(timeout=30)
    assert process.returncode == 130 and error == f"stopped; what was found is in {out}\n"
    assert json.loads((out / "bundles.json").read_text(encoding="utf-8"))["state"] == "running"


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("kill -SEGV $$", "crashes (Segmentation fault)"),
        ("echo 'ImportError: no libnvinfer' >&2; exit 1", "ImportError: no libnvinfer"),
        ("echo not JSON", "exit code 0"),
        ("sleep 60", "no answer within 1 s"),
        ("echo warning; echo '{\"equal\": true}'", None),
    ],
)
def test_a_library_that_crashes_on_this_gpu_is_a_line_and_not_the_end(
    program: str, says: str | None, benchmarks: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{program}\n", encoding="utf-8")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(benchmarks.gpu_compare, "ALONE_LIMIT_S", 1.0)
    place = benchmarks.gpu_place.Place(tmp_path, None, True)
    found = benchmarks.gpu_compare.compare_alone(place, SimpleNamespace(root=tmp_path), "tensorrt-rtx")
    assert found == ({"problem": says} if says else {"equal": True})


# -- wheels and their parts


def write_wheel(folder: Path, name: str, version: str = "1.0", metadata: Sequence[str] = (), padding: int = 0) -> Path:
    """Write a wheel with one module and return its path.

    The wheel also holds ``padding`` bytes that do not compress, which can make it large.
    """
    stem = f"{name}-{version}"
    files = {
        f"{name}.py": b"",
        f"{name}.bin": os.urandom(padding),
        f"{stem}.dist-info/METADATA": "\n".join(
            ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *metadata, ""]
        ).encode(),
        f"{stem}.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inner, content in files.items():
            archive.writestr(inner, content)
        archive.writestr(
            f"{stem}.dist-info/RECORD", "".join(f"{inner},,\n" for inner in (*files, f"{stem}.dist-info/RECORD"))
        )
    return path


OWN = (
    *(f"Provides-Extra: {extra}" for extra in ("cpu", "tensorrt", "tensorrt-rtx", "demo", "gpu", "dev")),
    "Requires-Dist: small>=1",
    'Requires-Dist: onnxruntime; extra == "cpu"',
    'Requires-Dist: onnxruntime-gpu; extra == "gpu"',
    'Requires-Dist: pytest>=8; extra == "dev"',
    'Requires-Dist: mypy; extra == "dev"',
    'Requires-Dist: hypothesis>=6; extra == "dev"',
    'Requires-Dist: vidrisk[cpu]; extra == "demo"',
)


@pytest.fixture
def wheels(tmp_path: Path, benchmarks: SimpleNamespace) -> Path:
    """Return a folder as ``--collect`` leaves it, but with small files.

    It holds one whole wheel, one wheel in three parts, and the checksums.
    """
    folder = tmp_path / "wheels"
    folder.mkdir()
    write_wheel(folder, "vidrisk", "0.1.0", OWN)
    write_wheel(folder, "small", padding=2500)
    benchmarks.gpu_parts.split(folder, 1500)
    assert len([*folder.glob("*.part*")]) == 3 and len([*folder.glob("*.whl")]) == 1
    return folder


PARTED = "small-1.0-py3-none-any.whl"


def joined(wheels: Path, into: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "gpu_wheels.py"), "join", str(wheels), str(into)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_parts_become_the_wheels_that_they_were(wheels: Path, tmp_path: Path) -> None:
    assert joined(wheels, tmp_path / "whole").returncode == 0
    sums = dict(reversed(line.split("  ")) for line in (wheels / "SHA256SUMS").read_text(encoding="utf-8").splitlines())
    for path in (tmp_path / "whole").iterdir():
        assert (
            hashlib.sha256(path.read_bytes()).hexdigest() == sums[path.name] and zipfile.ZipFile(path).testzip() is None
        )


@given(content=st.binary(min_size=1, max_size=400), part_bytes=st.integers(10, 500))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_cut_is_joined(
    benchmarks: SimpleNamespace, tmp_path: Path, content: bytes, part_bytes: int
) -> None:
    folder, whole = tmp_path / "cut", tmp_path / "joined"
    for old in (folder, whole):
        shutil.rmtree(old, ignore_errors=True)
    folder.mkdir()
    (folder / "a.whl").write_bytes(content)
    benchmarks.gpu_parts.split(folder, part_bytes)
    assert all(path.stat().st_size <= part_bytes for path in folder.iterdir() if path.name != "SHA256SUMS")
    benchmarks.gpu_parts.join(folder, whole)
    assert (whole / "a.whl" if len(content) > part_bytes else folder / "a.whl").read_bytes() == content


def test_a_second_cut_leaves_nothing_of_the_first(wheels: Path, tmp_path: Path, benchmarks: SimpleNamespace) -> None:
    whole = write_wheel(wheels, "small", padding=2500)
    content = whole.read_bytes()
    benchmarks.gpu_parts.split(wheels, 2000)
    assert len([*wheels.glob("*.part*")]) == 2 and joined(wheels, tmp_path / "whole").returncode == 0
    assert (tmp_path / "whole" / PARTED).read_bytes() == content


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (
            lambda folder: (folder / f"{PARTED}.part01").unlink(),
            rf"{PARTED}\.part01 is missing in .*; fix: copy it again",
        ),
        (lambda folder: (folder / f"{PARTED}.part02").unlink(), rf"{PARTED}\.part02 is missing"),
        (lambda folder: [path.unlink() for path in folder.glob(f"{PARTED}.part*")], rf"{PARTED} is missing"),
        (
            lambda folder: (folder / f"{PARTED}.part01").write_bytes(b"else"),
            rf"{PARTED}\.part01 is not what SHA256SUMS says",
        ),
        (lambda folder: (folder / "SHA256SUMS").write_text("no sum\n"), "has the line 'no sum'"),
        (shutil.rmtree, "is no folder"),
        (
            lambda folder: [path.unlink() for path in folder.iterdir()],
            "has no wheels; fix: benchmarks/gpu_offline.sh --collect",
        ),
    ],
)
def test_damaged_wheels_are_one_line(wheels: Path, tmp_path: Path, damage: Callable[[Path], object], says: str) -> None:
    damage(wheels)
    end = joined(wheels, tmp_path / "whole")
    assert (end.returncode, end.stderr.count("\n")) == (1, 1) and re.match(f"error: .*{says}", end.stderr), end.stderr


def test_without_sums_gaps_are_seen_and_wholes_are_compared_with_what_there_is(wheels: Path, tmp_path: Path) -> None:
    lines = (wheels / "SHA256SUMS").read_text(encoding="utf-8").splitlines(keepends=True)
    (wheels / "SHA256SUMS").write_text("".join(line for line in lines if ".part" not in line), encoding="utf-8")
    last = wheels / f"{PARTED}.part02"
    last.write_bytes(last.read_bytes()[:-1])
    assert f"{PARTED}, joined, is not what SHA256SUMS says" in joined(wheels, tmp_path / "whole").stderr
    (wheels / "SHA256SUMS").unlink()
    (wheels / f"{PARTED}.part00").unlink()
    assert f"{PARTED}.part00 is missing" in joined(wheels, tmp_path / "whole").stderr


def test_what_is_installed_is_what_the_wheel_says(tmp_path: Path, benchmarks: SimpleNamespace) -> None:
    write_wheel(tmp_path, "vidrisk", "0.1.0", OWN)
    groups = {group.name: group.requirements for group in benchmarks.gpu_wheels.groups(tmp_path)}
    own = tmp_path / "vidrisk-0.1.0-py3-none-any.whl"
    assert groups["vidrisk"] == (f"{own}[cpu,tensorrt]",) and groups["pytest"] == ("pytest>=8", "hypothesis>=6")
    assert any(need.startswith("torch==") for need in groups["torch and the exporter"])


def installed_with(benchmarks: SimpleNamespace, python: Path, folder: Path) -> tuple[list[str], set[str]]:
    left_out = benchmarks.gpu_wheels.install(python, [folder])
    code = "from importlib.metadata import distributions as d; print(*(each.metadata['Name'] for each in d()))"
    names = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True).stdout
    return left_out, set(names.split())


def test_groups_are_installed_from_the_folder_alone_and_what_is_not_there_is_left_out(
    tmp_path: Path, benchmarks: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "elsewhere"))  # of the machine: it must not count
    (tmp_path / "elsewhere").mkdir()
    write_wheel(tmp_path / "elsewhere", "pytest", "9.0")
    write_wheel(tmp_path / "elsewhere", "hypothesis", "6.1")
    folder = tmp_path / "wheels"
    folder.mkdir()
    write_wheel(folder, "vidrisk", "0.1.0", OWN)
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    with pytest.raises(benchmarks.gpu_parts.WheelsError, match=r"requirement (small|onnxruntime)\b"):
        benchmarks.gpu_wheels.install(python, [folder])
    for name in ("small", "onnxruntime", "onnxruntime_gpu"):
        write_wheel(folder, name)
    left_out, names = installed_with(benchmarks, python, folder)
    assert {"vidrisk", "small", "onnxruntime_gpu"} <= {
        name.replace("-", "_") for name in names
    } and "onnxruntime" not in names
    assert [line.partition(":")[0] for line in left_out] == ["TensorRT", "torch and the exporter", "pytest"]
    assert all("Could not find a version that satisfies the requirement" in line for line in left_out)


@pytest.fixture
def bare_python(tmp_path: Path) -> Path:
    """Return a Python with venv but without pip, as on a Debian without python3-venv."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    return tmp_path / "venv" / "bin" / "python"


def test_a_python_without_pip_takes_that_of_the_wheels(
    bare_python: Path, tmp_path: Path, benchmarks: SimpleNamespace
) -> None:
    folder = tmp_path / "it's a folder"
    folder.mkdir()
    write_wheel(folder, "vidrisk", "0.1.0", OWN)
    for name in ("small", "onnxruntime"):
        write_wheel(folder, name)
    with pytest.raises(benchmarks.gpu_parts.WheelsError, match=r"no pip, and the wheels have none either; fix: "):
        benchmarks.gpu_wheels.install(bare_python, [folder])
    (pip,) = Path(ensurepip.__file__).with_name("_bundled").glob("pip-*.whl")
    shutil.copy(pip, folder)
    _, names = installed_with(benchmarks, bare_python, folder)
    assert {"pip", "vidrisk", "small", "onnxruntime"} <= names


def test_wheels_that_take_too_long_are_one_line_and_not_left_out(tmp_path: Path, benchmarks: SimpleNamespace) -> None:
    write_wheel(tmp_path, "vidrisk", "0.1.0", OWN)
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\ncase $* in *--version) ;; *) exec sleep 60 ;; esac\n", encoding="utf-8")
    slow.chmod(0o755)
    begin = time.monotonic()
    with pytest.raises(benchmarks.gpu_wheels.OutOfTimeError, match=r"not installed within 1 s; fix: give it more time"):
        benchmarks.gpu_wheels.install(slow, [tmp_path], 1.0)
    assert time.monotonic() - begin < 20


# -- the script


@pytest.mark.skipif(visible_gpu() is not None, reason="there is a GPU")
def test_without_a_gpu_it_ends_at_once_in_one_line(wheels: Path, tmp_path: Path) -> None:
    end = run(wheels, tmp_path / "out")
    assert (end.returncode, end.stdout, end.stderr.count("\n")) == (1, "", 1)
    assert end.stderr.startswith("error: no NVIDIA GPU is visible: nothing is installed, nothing measured; fix: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(visible_gpu() is not None, reason="there is a GPU")
def test_it_runs_from_a_folder_of_any_name(tmp_path: Path) -> None:
    checkout = tmp_path / "it's a checkout"
    for name in (SCRIPT.relative_to(ROOT), Path("runtimes", "gpu.py")):
        (checkout / name).parent.mkdir(parents=True)
        shutil.copy(ROOT / name, checkout / name)
    end = subprocess.run(
        [str(checkout / SCRIPT.relative_to(ROOT)), "wheels"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHON": sys.executable},
    )
    assert (end.returncode, end.stderr.count("\n")) == (1, 1), end.stderr
    assert end.stderr.startswith("error: no NVIDIA GPU is visible")


@pytest.mark.parametrize("seconds", ["10m", "-5", "6e2"])
def test_a_time_that_is_none_is_one_line_before_anything_is_done(seconds: str, wheels: Path, tmp_path: Path) -> None:
    end = run(wheels, tmp_path / "out", GPU_SECONDS=seconds)
    assert (end.returncode, end.stdout) == (1, "") and not (tmp_path / "out").exists()
    assert end.stderr == f"error: GPU_SECONDS={seconds}; allowed: whole seconds, such as 600\n"


@pytest.mark.parametrize("arguments", [(), ("--collect",), ("--help",), ("a", "b", "c")])
def test_wrong_usage_shows_the_right_one(arguments: tuple[str, ...]) -> None:
    end = run(*arguments)
    assert (end.returncode, end.stdout) == (2, "") and "benchmarks/gpu_offline.sh WHEELS [OUT]" in end.stderr


def test_a_python_that_is_none_is_one_line(wheels: Path, tmp_path: Path) -> None:
    end = run(wheels, tmp_path / "out", PYTHON=str(tmp_path / "none"))
    assert end.returncode == 1 and end.stderr.splitlines()[-1].startswith(f"error: {tmp_path / 'none'} cannot be run")


def test_the_script_is_shellcheck_clean(shellcheck: str) -> None:
    end = subprocess.run([shellcheck, str(SCRIPT)], capture_output=True, text=True, check=False)
    assert end.returncode == 0, end.stdout


def test_a_step_takes_its_file_and_no_section(benchmarks: SimpleNamespace) -> None:
    gpu: ModuleType = benchmarks.gpu
    for arguments in (
        ["--step", "first"],
        ["--out", "x"],
        ["--step", "first", "--out", "x", "parity"],
        ["--fake"],
        ["nothing"],
        ["--step", "first", "--out", "x", "--families", "resnet"],
    ):
        end = subprocess.run(
            [sys.executable, gpu.__file__ or "", *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert end.returncode == 2 and "error: " in end.stderr, arguments


def test_the_whole_way_with_wheels_that_hold_too_little(
    wheels: Path, tmp_path: Path, benchmarks: SimpleNamespace
) -> None:
    """Without numpy every step crashes and says so, and the run still writes the summary.

    The Python of the test claims that a GPU is visible.
    """
    claiming = tmp_path / "python"
    claiming.write_text(
        "#!/bin/sh\ncase $2 in *visible_gpu*) echo 'Claimed GPU, CUDA 13.0' ;; "
        f'*) exec {sys.executable} "$@" ;; esac\n',
        encoding="utf-8",
    )
    claiming.chmod(0o755)
    for name in ("onnxruntime", "onnxruntime_gpu"):
        write_wheel(wheels, name)
    brought = tmp_path / "bundles" / "full" / "families" / "vit.bundle"
    brought.mkdir(parents=True)
    for installs in (True, False):
        end = run(wheels, tmp_path / "out", PYTHON=str(claiming))
        assert end.returncode == 4 and end.stdout.startswith("Claimed GPU, CUDA 13.0\ninstalled after "), end
        assert ("left out: torch and the exporter: ERROR: " in end.stderr) == installs
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert {one["state"] for one in summary["steps"]} == {"crashed"} and len(summary["steps"]) == len(
        benchmarks.gpu_steps.STEPS
    )
    assert all("No module named 'numpy'" in one["error"] for one in summary["steps"])
    assert (tmp_path / "out" / "work" / "full" / "families" / "vit.bundle").is_dir()
    assert not (tmp_path / "out" / "wheels").exists()
