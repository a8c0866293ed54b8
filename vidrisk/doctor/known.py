"""Known problems of this machine, and of engines about to be built: entries of the table → checks and lines."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vidrisk.doctor.check import Check
from vidrisk.doctor.facts import Facts
from vidrisk.doctor.jetson import Jetson, jetson_from_files
from vidrisk.doctor.support import read_table
from vidrisk.doctor.trouble import Machine, Situation, find_troubles
from vidrisk.runtimes.contract.errors import VidriskError

if TYPE_CHECKING:
    from vidrisk.runtimes.contract.bundle import Bundle, VariantName
    from vidrisk.runtimes.tensorrt.api import Kind
    from vidrisk.runtimes.tensorrt.build.builder import BuildOptions

SECTION = "known trouble"
MACHINES: dict[str, Machine] = {"x86_64": "x86-64", "AMD64": "x86-64", "aarch64": "arm64", "arm64": "arm64"}
# Component of the table → the probe that returns its version; for others it is that of the installed package.
PROBES = {
    "av": "PyAV",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt-rtx",
    "torch": "torch",
}


def trouble_checks(facts: Facts) -> Iterator[Check]:
    """Yield a check per entry that applies, or one that says that none does."""
    situation = situation_from_facts(facts)
    found = find_troubles(read_table(), situation)
    for trouble in found:
        is_slow = trouble.severity == "slow"
        yield Check(
            SECTION, trouble.id, "optional" if is_slow else "warning", trouble.describe(situation), trouble.remedy
        )
    if not found:
        yield Check(SECTION, "known trouble", "ok", f"none of {len(read_table())} entries applies to this machine")


def situation_from_facts(facts: Facts) -> Situation:
    """Return the situation that the doctor knows, without anything about engines to be built."""
    told = {
        component: facts.probes[probe].told.get("version", "")
        for component, probe in PROBES.items()
        if probe in facts.probes
    }
    versions = {**facts.packages, **{component: version for component, version in told.items() if version}}
    if facts.gpu is not None and facts.gpu.driver:
        versions["driver"] = facts.gpu.driver
    capability = facts.gpu.compute_capability if facts.gpu else ""
    return Situation(
        {**versions, **_board_versions(facts.jetson)},
        "x86-64" if facts.is_x86 else "arm64",
        (capability,) if capability else (),
    )


def lines_before_build(
    bundle: Bundle, options: BuildOptions, kind: Kind | None, variants: Sequence[VariantName] | None
) -> list[str]:
    """Return known problems of engines like these, to print before minutes are spent on the build.

    Args:
        bundle: that engines are built from.
        options: of the build.
        kind: of TensorRT; None takes what is installed.
        variants: to build; None takes those that passed the gate.

    Returns:
        A line per entry, with its remedy.

    Raises:
        MissingExtra, RuntimeFailure: no TensorRT.
        SettingsError: it cannot build for these GPUs.
    """
    from vidrisk.runtimes.tensorrt.api import open_api
    from vidrisk.runtimes.tensorrt.device import current_device

    api, board = open_api(kind), None
    capabilities = options.compute_capabilities
    if capabilities:
        api.check_compute_capabilities(capabilities)
    else:
        board = jetson_from_files(Path("/"))
        try:
            capabilities = (current_device().compute_capability,)
        except VidriskError:
            capabilities = ()  # the build explains why it needs one
    lines: dict[str, str] = {}
    for variant in variants or bundle.passed:
        if variant not in bundle.manifest.variants:
            continue  # the build lists the existing ones
        situation = Situation(
            {api.kind: api.version, **_board_versions(board)},
            MACHINES.get(platform.machine()),
            capabilities,
            (variant,),
            options.batches.opt,
            max(bundle.path(stage.name, variant).stat().st_size for stage in bundle.stages) / 1e6,
            options.dla,
        )
        for trouble in find_troubles(read_table(), situation):
            lines.setdefault(trouble.id, f"{trouble.describe(situation)}; {trouble.remedy}")
    return list(lines.values())


def _board_versions(jetson: Jetson | None) -> dict[str, str]:
    found = {"jetpack": jetson.jetpack, "jetson-linux": jetson.l4t} if jetson else {}
    return {component: version for component, version in found.items() if version}
