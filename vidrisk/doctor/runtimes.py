"""Checks of the runtimes: whether each loads, its version, and the devices it would run on."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from vidrisk.doctor.asking import Probe
from vidrisk.doctor.check import Check
from vidrisk.doctor.facts import Facts

SECTION = "runtimes"


def runtime_checks(facts: Facts) -> Iterator[Check]:
    on_processor, on_gpu = (_onnxruntime(facts), _openvino(facts)), (_tensorrt(facts), _tensorrt_rtx(facts))
    yield from (*on_processor, *on_gpu)
    works = any(check.state in ("ok", "warning") for check in on_processor)
    if not works and not (facts.has_gpu and any(check.state == "ok" for check in on_gpu)):
        yield Check(SECTION, "inference runtime", "missing", "none", "pip install 'vidrisk[cpu]'")
    if "torch" in facts.probes:
        yield _torch(facts, facts.probes["torch"])


def _onnxruntime(facts: Facts) -> Check:
    probe = facts.probes.get("onnxruntime")
    if probe is None:
        return Check(SECTION, "onnxruntime", "optional", "not installed", "pip install 'vidrisk[cpu]'")
    package = "onnxruntime-gpu" if "onnxruntime-gpu" in facts.packages else "onnxruntime"
    if probe.problem:
        return does_not_load(SECTION, "onnxruntime", package, probe)
    found = f"{probe.told['version']}: {', '.join(probe.told['providers'])}"
    fallen_back = ", ".join(probe.told["fallen_back"])
    if fallen_back and facts.has_gpu:
        libraries = sorted(set(re.findall(r"(lib[\w+-]+\.so[.\d]*): cannot open", probe.stderr)))
        why = f": {', '.join(libraries)} not found" if libraries else ""
        return Check(
            SECTION,
            "onnxruntime",
            "warning",
            f"{found}; {fallen_back} falls back to the processor{why}",
            f"pip install '{package}[cuda,cudnn]'",
        )
    return Check(SECTION, "onnxruntime", "ok", found)


def _openvino(facts: Facts) -> Check:
    probe = facts.probes.get("openvino")
    if probe is None:
        return Check(
            SECTION, "openvino", "optional", "not installed", "pip install 'vidrisk[cpu]'" if facts.is_x86 else ""
        )
    if probe.problem:
        return does_not_load(SECTION, "openvino", "openvino", probe)
    if "CPU" not in probe.told["devices"]:
        return Check(
            SECTION,
            "openvino",
            "broken",
            f"{probe.told['version']}, without its CPU device",
            "pip install --force-reinstall openvino",
        )
    return Check(SECTION, "openvino", "ok", f"{probe.told['version']}: {', '.join(probe.told['devices'])}")


def _tensorrt(facts: Facts) -> Check:
    probe = facts.probes.get("tensorrt")
    if probe is not None:
        if probe.problem:
            return does_not_load(SECTION, "tensorrt", "tensorrt", probe)
        return Check(SECTION, "tensorrt", "ok", probe.told["version"])
    stubs = ", only its type stubs" if "tensorrt-stubs" in facts.packages else ""
    hidden = _check_hidden_tensorrt(facts)
    if hidden is not None:
        return hidden
    if not facts.has_gpu:
        return Check(SECTION, "tensorrt", "optional", f"not installed{stubs}; it needs an NVIDIA GPU")
    if facts.jetson:
        fix = "sudo apt update && sudo apt install nvidia-jetpack"
    else:
        fix = f"pip install tensorrt-cu{(facts.gpu.cuda_major if facts.gpu else None) or 12}"
    return Check(SECTION, "tensorrt", "warning", f"not installed{stubs}", fix)


def _check_hidden_tensorrt(facts: Facts) -> Check | None:
    """Check for a system package of TensorRT that this Python does not see.

    It may come from JetPack or ``python3-libnvinfer``.
    """
    found = sorted(facts.root.glob("usr/lib/python3*/dist-packages/tensorrt/__init__.py"))
    if not found:
        return None
    pythons = [path.parts[-4].removeprefix("python") for path in found]
    environment = facts.environment
    if not {environment.python, "3"} & set(pythons):
        return Check(
            SECTION,
            "tensorrt",
            "broken",
            f"the system has it for Python {', '.join(pythons)}, this is {environment.python}",
            f"python{pythons[-1]} -m venv --system-site-packages {shlex.quote(f'{environment.folder}-{pythons[-1]}')}",
        )
    if environment.is_closed:
        return Check(
            SECTION,
            "tensorrt",
            "broken",
            "the system has it, but this virtual environment does not see it",
            f"sed -i '/^include-system-site-packages/s/false/true/' {shlex.quote(f'{environment.folder}/pyvenv.cfg')}",
        )
    return None


def _tensorrt_rtx(facts: Facts) -> Check:
    probe = facts.probes.get("tensorrt-rtx")
    if probe is None:
        return Check(
            SECTION,
            "tensorrt-rtx",
            "optional",
            "not installed",
            "pip install 'vidrisk[tensorrt-rtx]'" if facts.is_x86 else "",
        )
    if probe.problem:
        return does_not_load(
            SECTION, "tensorrt-rtx", "onnxruntime-ep-nv-tensorrt-rtx-cu13 tensorrt-rtx-cu13-bindings", probe
        )
    return Check(
        SECTION, "tensorrt-rtx", "ok", probe.told["version"] + ("" if facts.has_gpu else ", to build ahead of time")
    )


def _torch(facts: Facts, probe: Probe) -> Check:
    """Check torch, which is probed only if there is a GPU to train on."""
    if probe.problem:
        return does_not_load(SECTION, "torch on the GPU", "torch", probe)
    if probe.told["sees_gpu"] or not facts.has_gpu:
        return Check(SECTION, "torch on the GPU", "ok", probe.told["version"])
    return Check(
        SECTION,
        "torch on the GPU",
        "warning",
        f"{probe.told['version']} does not see the GPU",
        "pip uninstall -y torch && pip install torch"
        if "+cpu" in probe.told["version"]
        else "pip install --force-reinstall torch",
    )


def does_not_load(section: str, name: str, packages: str, probe: Probe) -> Check:
    """Return the check for a library that is installed but crashes, hangs or raises an error."""
    said = f"{probe.problem} {probe.stderr}"
    # numpy's own words for an extension that was built for numpy 1.
    if "NumPy 1.x" in said or "_ARRAY_API not found" in said:
        return Check(
            section, name, "broken", "was built for numpy 1, but numpy 2 is installed", "pip install 'numpy<2'"
        )
    fix = (
        probe.fix
        if "pip install" in probe.fix or "JetPack" in probe.fix
        else f"pip install --force-reinstall {packages}"
    )
    return Check(section, name, "broken", f"does not load: {probe.problem}", fix)
