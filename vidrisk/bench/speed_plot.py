"""Plot of a benchmark as PNG: latency and throughput of every runtime and variant."""

from __future__ import annotations

from pathlib import Path

from vidrisk.bench.measurements import Bench
from vidrisk.metrics.plots import new_figure, save_figure


def plot_bench(path: Path, bench: Bench) -> None:
    """Plot latency at batch 1 (median, 95th percentile) on the left, throughput by batch on the right.

    Latency is of a frame, or of a clip if no stage runs per frame.
    """
    has_frames = any(row.frame for row in bench.rows)
    latencies = [(row, row.frame if has_frames else row.clip) for row in bench.rows]
    rows = [
        (f"{row.runtime} {row.variant}", latency, row.throughput)
        for row, latency in latencies
        if latency and row.throughput
    ]
    figure = new_figure(11, max(3.5, 0.45 * len(rows) + 2))
    left, right = figure.subplots(1, 2)
    for place, (name, latency, throughput) in enumerate(rows):
        colour = f"C{place}"
        left.barh(place, latency.p50_ms, color=colour)
        left.plot((latency.p50_ms, latency.p95_ms), (place, place), color="black", marker="|", markersize=9)
        batches = list(throughput.frames_per_s)
        right.plot(batches, throughput.frames_per_s.values(), color=colour, marker="o", markersize=4, label=name)
        right.plot(throughput.best_batch, throughput.best_frames_per_s, color=colour, marker="*", markersize=12)
    left.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    left.invert_yaxis()
    unit = "frame" if has_frames else "clip"
    left.set(xlabel=f"ms per {unit} at batch 1: median, and line to the 95th percentile", xlim=(0, None))
    right.set_xscale("log", base=2)
    right.xaxis.set_major_formatter("{x:.0f}")
    right.set(xlabel="batch", ylabel="frames/s", ylim=(0, None))
    if rows:
        right.legend()
    figure.suptitle(f"{bench.bundle} on {bench.machine['processor']}", parse_math=False)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    save_figure(figure, path)
