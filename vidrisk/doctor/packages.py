"""Checks of the libraries that read files, of the extras, and of packages that conflict."""

from __future__ import annotations

from collections.abc import Iterator

from vidrisk.doctor.check import Check
from vidrisk.doctor.facts import Facts, is_there
from vidrisk.doctor.runtimes import does_not_load

SECTION = "libraries"
# Distribution → (module to import, extra, purpose).
EXTRAS = {
    "cuda-python": ("cuda.bindings", "tensorrt", "engines on an NVIDIA GPU"),
    "pyarrow": ("pyarrow", "parquet", "Parquet"),
    "torch": ("torch", "train", "training, export, eval of runs"),
    "peft": ("peft", "train", "LoRA"),
    "accelerate": ("accelerate", "train", "the training loop"),
    "transformers": ("transformers", "train", "Hugging Face backbones"),
    "matplotlib": ("matplotlib", "train", "plots"),
    "onnx": ("onnx", "export", "export"),
    "elpv-dataset": ("elpv_dataset", "demo", "the data of vidrisk demo"),
}
# Distributions that write the same files: the one installed last overwrites the other.
RIVALS = (
    ("onnxruntime", "onnxruntime-gpu"),
    ("decord", "decord2"),
    ("tensorrt-cu12-bindings", "tensorrt-cu13-bindings"),
)


def package_checks(facts: Facts) -> Iterator[Check]:
    yield from _readers(facts)
    for one, other in RIVALS:
        if one in facts.packages and other in facts.packages:
            kept = "onnxruntime" if other == "onnxruntime-gpu" and not facts.has_gpu else other
            yield Check(
                SECTION,
                f"{one} and {other}",
                "broken",
                "both are installed and overwrite each other's files",
                f"pip uninstall -y {one} {other} && pip install {kept}",
            )
    for package, (module, extra, purpose) in EXTRAS.items():
        if is_there(module):
            yield Check("extras", package, "ok", facts.packages.get(package, "installed"))
        else:
            yield Check("extras", package, "optional", f"not installed ({purpose})", f"pip install 'vidrisk[{extra}]'")


def _readers(facts: Facts) -> Iterator[Check]:
    for name, package in (("numpy", "numpy"), ("Pillow", "pillow"), ("PyAV", "av")):
        probe = facts.probes.get(name)
        if probe is None or "No module named" in probe.problem:
            yield Check(SECTION, name, "missing", "not installed", f"pip install {package}")
        elif probe.problem:
            yield Check(
                SECTION, name, "missing", f"does not load: {probe.problem}", f"pip install --force-reinstall {package}"
            )
        elif probe.told.get("lacking"):
            yield Check(
                SECTION,
                name,
                "warning",
                f"{probe.told['version']}, without {', '.join(probe.told['lacking'])}",
                f"pip install --force-reinstall --only-binary :all: {package}",
            )
        else:
            yield Check(SECTION, name, "ok", probe.told["version"])
    probe = facts.probes.get("decord")
    if probe is None:
        yield Check(
            SECTION, "decord2", "optional", "not installed (the other video decoder)", "pip install 'vidrisk[decord]'"
        )
    elif probe.problem:
        yield does_not_load(SECTION, "decord2", "decord2", probe)
    else:
        yield Check(SECTION, "decord2", "ok", probe.told["version"])
