"""Facts about the machine before anything is judged: files, installed packages, and results of the probes."""

from __future__ import annotations

import importlib.util
import platform
import re
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path

from vidrisk.doctor.asking import Probe, answer_of, run_probes
from vidrisk.doctor.jetson import Jetson, jetson_from_files, mode_from_query
from vidrisk.runtimes.gpu import driver_from_text, text_of
from vidrisk.runtimes.tensorrt.api import MODULES

# CUDA major → first driver that supports it. Below CUDA 13 a driver also runs all programs built with a later minor
# version (docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html, table 1).
FIRST_DRIVER = {13: 580, 12: 525, 11: 450}
SMI_FIELDS = ("name", "driver_version", "memory.total", "memory.free", "compute_cap")
# Import name → probe. Only installed libraries are probed, and numpy always, as everything else needs it.
LIBRARIES = {"PIL": "Pillow", "av": "PyAV", "decord": "decord", "onnxruntime": "onnxruntime", "openvino": "openvino"}


@dataclass(frozen=True)
class Gpu:
    """The GPU that is used; empty or None where unknown.

    Attributes:
        driver: its version, ``580.95.05``.
        cuda: newest CUDA version that the driver supports: ``12.8``, or the major alone.
        works: CUDA has just used it.
        problem: why CUDA cannot use it.
    """

    name: str = ""
    compute_capability: str = ""
    total_bytes: int | None = None
    free_bytes: int | None = None
    driver: str = ""
    cuda: str = ""
    works: bool = False
    problem: str = ""

    @property
    def cuda_major(self) -> int | None:
        return int(self.cuda.partition(".")[0]) if self.cuda else None


@dataclass(frozen=True)
class Environment:
    """The running Python.

    Attributes:
        python: its version, ``major.minor``.
        folder: its folder.
        is_closed: whether that is a virtual environment without the system's packages.
    """

    python: str
    folder: Path
    is_closed: bool

    @classmethod
    def current(cls) -> Environment:
        config = text_of(Path(sys.prefix) / "pyvenv.cfg")
        closed = sys.prefix != sys.base_prefix and not re.search(
            r"^include-system-site-packages *= *true", config, re.M | re.I
        )
        return cls(f"{sys.version_info.major}.{sys.version_info.minor}", Path(sys.prefix), closed)


@dataclass(frozen=True)
class Facts:
    """Everything that the checks judge.

    Attributes:
        root: of the file system; a folder other than ``/`` in tests.
        packages: installed distributions, normalized name → version.
        probes: results of ``probes`` for what is installed.
        gpu: None if there is neither an NVIDIA GPU nor a driver.
        jetson: None on any other machine.
    """

    root: Path = Path("/")
    is_x86: bool = True
    environment: Environment = Environment("3.10", Path("/usr"), False)
    packages: dict[str, str] = field(default_factory=dict)
    probes: dict[str, Probe] = field(default_factory=dict)
    gpu: Gpu | None = None
    jetson: Jetson | None = None

    @property
    def has_gpu(self) -> bool:
        """Whether there is a GPU for an engine to run on, whatever the source of that fact."""
        return self.gpu is not None and bool(self.gpu.works or self.gpu.name or self.jetson)


def gather_facts(root: Path = Path("/")) -> Facts:
    """Examine this machine. Takes seconds, as libraries are loaded in processes of their own."""
    installed = ["numpy", *(probe for module, probe in LIBRARIES.items() if is_there(module))]
    installed += [kind for kind, modules in MODULES.items() if any(is_there(module) for module in modules)]
    probes = run_probes([*installed, "GPU", "workers", "sandbox", "cache", "verified"])
    jetson = jetson_from_files(root)
    if jetson is not None and not jetson.power_mode:
        jetson = replace(jetson, power_mode=mode_from_query(answer_of(["nvpmodel", "-q"]).stdout))
    gpu = _gpu(root, probes["GPU"], is_expected=jetson is not None)
    if gpu is not None and is_there("torch"):
        probes |= run_probes(["torch"])
    return Facts(
        root,
        platform.machine() in ("x86_64", "AMD64"),
        Environment.current(),
        installed_packages(),
        probes,
        gpu,
        jetson,
    )


def installed_packages() -> dict[str, str]:
    """Return versions by normalized name (PEP 503), without broken distributions."""
    found = {}
    for distribution in metadata.distributions():
        with suppress(Exception):  # unreadable metadata raises many kinds of errors
            found[re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()] = distribution.version
    return found


def is_there(module: str) -> bool:
    """Tell whether a package with code in it is installed.

    A folder of type stubs can be imported but contains no code.
    """
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None


def cuda_majors(packages: dict[str, str]) -> dict[str, int]:
    """Return the major version of CUDA by package, for packages that contain or need a CUDA runtime.

    cuda-python contains one, too, but engines do not use it: they query the driver itself.
    """
    found = {}
    for name, version in packages.items():
        match = re.search(r"-cu(\d\d)(?=-|$)", name)
        if name == "nvidia-cuda-runtime":
            match = re.match(r"(\d+)\.", version)
        elif name == "torch":
            match = re.search(r"\+cu(\d\d)", version)
        if match:
            found[name] = int(match[1])
    return found


def _gpu(root: Path, probe: Probe, *, is_expected: bool) -> Gpu | None:
    """Return the GPU as seen by CUDA if that works, else by ``nvidia-smi``, else by the kernel."""
    version = text_of(root / "proc/driver/nvidia/version")
    driver = driver_from_text(version)
    if not probe.problem:
        told = probe.told
        return Gpu(
            told["name"],
            told["compute_capability"],
            told["total_bytes"],
            told["free_bytes"],
            driver,
            told["driver"],
            True,
        )
    problem = probe.problem
    if shutil.which("nvidia-smi"):
        answer = answer_of(["nvidia-smi", f"--query-gpu={','.join(SMI_FIELDS)}", "--format=csv,noheader,nounits"])
        gpu = gpu_from_smi(answer.stdout, problem)
        if gpu and not answer.problem:
            return gpu
        problem = f"nvidia-smi: {answer.problem}" if answer.problem else problem
    name = next(
        (name_from_information(text_of(path)) for path in (root / "proc/driver/nvidia/gpus").glob("*/information")), ""
    )
    if not (is_expected or version or name or _is_on_pci_bus(root)):
        return None
    return Gpu(name, driver=driver, cuda=cuda_from_driver(driver), problem=problem)


def gpu_from_smi(text: str, problem: str) -> Gpu | None:
    """Parse the first line of ``nvidia-smi --query-gpu``; None if it has another form.

    A Jetson reports ``[N/A]`` for most fields.
    """
    values = [value.strip() for value in text.partition("\n")[0].split(",")]
    if len(values) != len(SMI_FIELDS):
        return None
    name, driver, total, free, capability = (
        "" if "N/A" in value or "Not Supported" in value else value for value in values
    )
    return Gpu(name, capability, _mib(total), _mib(free), driver, cuda_from_driver(driver), problem=problem)


def name_from_information(text: str) -> str:
    """Return the model from ``/proc/driver/nvidia/gpus/*/information``, or ''."""
    match = re.search(r"^Model:\s*(\S.*)$", text, re.M)
    return match[1].strip() if match else ""


def cuda_from_driver(driver: str) -> str:
    """Return the newest CUDA major that a version of the driver supports."""
    if not driver:
        return ""
    number = int(driver.partition(".")[0])
    return next((str(cuda) for cuda, first in FIRST_DRIVER.items() if number >= first), "10")


def _is_on_pci_bus(root: Path) -> bool:
    """Tell whether the PCI bus has a display controller (class 0x03) of NVIDIA (vendor 0x10de)."""
    return any(
        text_of(path).strip() == "0x10de" and text_of(path.with_name("class")).startswith("0x03")
        for path in (root / "sys/bus/pci/devices").glob("*/vendor")
    )


def _mib(text: str) -> int | None:
    return int(float(text) * 2**20) if re.fullmatch(r"\d+(\.\d+)?", text) else None
