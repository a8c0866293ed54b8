"""Faults that the answers of all runtimes and variants show when taken together."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from vidrisk.runtimes.contract.bundle import Bundle, Variant
from vidrisk.runtimes.golden import EXPORT_AGAIN, Golden
from vidrisk.runtimes.registry import ENGINE_KINDS, GPU_RUNTIMES
from vidrisk.verify.result import Fault, Row

NEARLY_ALL = 0.8  # of the samples: noise, rounding or another kernel does not affect so many
SAME_TEMPERATURE = 1e-6  # relative


def faults_of(bundle: Bundle, golden: Golden, rows: Sequence[Row]) -> tuple[Fault, ...]:
    """Return the faults, or nothing if every answer is the expected one."""
    foreign = list(_foreign_graphs(bundle, golden))
    explained = {fault.variant for fault in foreign}
    ran = [row for row in rows if not row.problem]
    answers = _answers([row for row in ran if row.variant not in explained], golden.told.samples, bundle)
    stale = [fault for fault in _stale_temperatures(bundle, golden) if fault.variant not in explained]
    return (*foreign, *stale, *answers, *_precisions(ran, bundle))


def _foreign_graphs(bundle: Bundle, golden: Golden) -> Iterator[Fault]:
    for name, expected in golden.told.variants.items():
        here, then = _files_of(bundle, bundle.manifest.variants[name]), expected.files
        for file in sorted(here.keys() | then.keys()):
            if here.get(file) != then.get(file):
                ours, theirs = (f"{digests.get(file, 'missing')[:12]}" for digests in (here, then))
                said = f"sha256 of {file} is {ours}, and was {theirs} when they were sealed"
                yield Fault(
                    "another model", f"the golden samples are of another model: {said}; {EXPORT_AGAIN}", variant=name
                )


def _files_of(bundle: Bundle, variant: Variant) -> dict[str, str]:
    """Return the sha256 of a variant's graphs and of the weights beside them."""
    names = [
        name for file in variant.files.values() for name in (file, f"{file}.data") if name in bundle.manifest.files
    ]
    return {name: bundle.manifest.files[name].sha256 for name in names}


def _stale_temperatures(bundle: Bundle, golden: Golden) -> Iterator[Fault]:
    for name, expected in golden.told.variants.items():
        for target in bundle.contract.targets:
            ours, theirs = (of.temperature.get(target.name, 1.0) for of in (bundle.manifest.variants[name], expected))
            if abs(ours - theirs) > SAME_TEMPERATURE * theirs:
                yield Fault(
                    "stale temperature",
                    f"{name} has the temperature {ours:.4g} for {target.name}, and its answers were "
                    f"sealed with {theirs:.4g}; {EXPORT_AGAIN}",
                    variant=name,
                )


def _answers(rows: Sequence[Row], samples: int, bundle: Bundle) -> Iterator[Fault]:
    """Yield faults of engines, as far as they can be told from a fault in the expected answers."""
    foreign = [row for row in rows if row.wrong >= NEARLY_ALL * samples and not row.unanswered]
    if len(foreign) == len(rows) and len({row.runtime for row in rows}) > 1:
        least = min(row.wrong for row in rows)
        yield Fault(
            "another model",
            f"every runtime and variant gives other answers to {least} of {samples} golden samples or more: "
            f"the samples or the graphs belong to another model; {EXPORT_AGAIN}",
        )
        return
    for row in rows:
        if row.unanswered:
            yield _fault(
                "not finite",
                row,
                f"{row} loads, but its answers to {row.unanswered} of {samples} golden samples are not "
                "finite; use another runtime or variant, and report it",
            )
        elif row in foreign:
            yield _fault(
                "another graph",
                row,
                f"{row} does not run this graph: it gives other answers to {row.wrong} of {samples} "
                f"golden samples; {_rebuild(row, bundle)}",
            )
        elif row.wrong:
            how = f"probabilities differ by up to {row.largest:.3f}, logits by up to {row.largest_logit_error:.0%}"
            yield _fault(
                "answers differ",
                row,
                f"{row} gives other answers to {row.wrong} of {samples} golden samples: {how}; "
                "use another runtime or variant, and report it",
            )


def _fault(name: str, row: Row, said: str) -> Fault:
    return Fault(name, said, row.runtime, row.variant)


def _rebuild(row: Row, bundle: Bundle) -> str:
    if row.runtime not in ENGINE_KINDS:
        return "install the runtime again, or use another one"
    from vidrisk.runtimes.tensorrt.cache import engine_store, graph_sha256  # only with a GPU

    variant = next(name for name in bundle.manifest.variants if name == row.variant)
    folder = shlex.quote(str(engine_store().folder))
    graphs = dict.fromkeys(graph_sha256(bundle.path(stage.name, variant)) for stage in bundle.stages)
    return f"rebuild its engines: rm {' '.join(f'{folder}/{sha256[:16]}*' for sha256 in graphs)}, and start again"


def _precisions(rows: Sequence[Row], bundle: Bundle) -> Iterator[Fault]:
    """Yield a fault for each row that does not run in the precision of its variant.

    Not reported: a processor computes FP16 in float32, which is as good, and ONNX Runtime has no INT8 for a GPU. Any
    other mismatch loses speed and accuracy for nothing.
    """
    precisions: dict[str, str] = {name: variant.lowest_precision for name, variant in bundle.manifest.variants.items()}
    for row in rows:
        if row.note and (
            row.runtime in ENGINE_KINDS or (row.runtime in GPU_RUNTIMES and precisions[row.variant] == "fp16")
        ):
            yield _fault("precision", row, f"{row} does not run in its own precision: {row.note}")
