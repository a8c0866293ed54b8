"""Results of a benchmark: one row per runtime and variant, the limits for comparison, and the JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from vidrisk.bench.conditions import Peak
from vidrisk.bench.data import DecodeLimit, EndToEnd
from vidrisk.bench.speed import Latency, Throughput
from vidrisk.runtimes.contract import versions


@dataclass(frozen=True)
class Row:
    """Measurements of one runtime and variant; None if not measured.

    Attributes:
        problem: why it does not run here; then nothing was measured.
        memory_mb: peak of a process that runs it alone, in batches of ``Bench.memory_batch`` frames.
        frame: latency of the stages that run per frame, on one frame.
        clip: latency of all stages on one clip.
        gmac_per_s: 10⁹ multiply-accumulates per second at the best batch.
        of_peak: that rate relative to the processor's fastest matrix product in this precision; None on a GPU.
        accuracy: per target: n, top1, macro_f1, ece.
    """

    runtime: str
    variant: str
    problem: str = ""
    memory_mb: float | None = None
    frame: Latency | None = None
    clip: Latency | None = None
    throughput: Throughput | None = None
    gmac_per_s: float | None = None
    of_peak: float | None = None
    end_to_end: EndToEnd | None = None
    accuracy: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class DataResult:
    """The files that candidates were run on: ``used`` of ``found``.

    Attributes:
        unlabelled: why there is no accuracy.
    """

    found: int
    used: int
    unlabelled: str
    decode: DecodeLimit


@dataclass(frozen=True)
class Bench:
    """Everything that was measured.

    Attributes:
        threads: of the engines; None leaves it to them, as ``infer`` does.
        macs_per_frame: of the work whose throughput is measured; None for bundles that do not record it.
        peaks: ``fp32`` and ``int8``: the fastest matrix products measured before and after everything else.
    """

    bundle: str
    digest: str
    machine: Mapping[str, Any]
    threads: int | None
    frames_per_clip: int
    macs_per_frame: int | None
    memory_batch: int
    peaks: Mapping[str, Peak]
    data: DataResult | None
    rows: tuple[Row, ...]

    @property
    def fastest(self) -> Row:
        """The row with the highest throughput."""
        return max(self.rows, key=lambda row: row.throughput.best_frames_per_s if row.throughput else 0.0)

    def to_json(self) -> str:
        return json.dumps(versions.BENCH.stamp(asdict(self)), indent=2, ensure_ascii=False, allow_nan=False)
