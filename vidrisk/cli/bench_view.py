"""The tables that ``vidrisk bench`` ends with."""

from __future__ import annotations

import typer
from rich.console import Console
from rich.table import Table

from vidrisk.bench.result import Bench, DataResult, Row
from vidrisk.bench.speed import Latency


def print_bench(bench: Bench, *, as_json: bool) -> None:
    if as_json:
        typer.echo(bench.to_json())
        return
    console = Console()
    measured = [row for row in bench.rows if not row.problem]
    console.print(_speed(bench, measured))
    typer.echo("ms: median / 95th percentile, one at a time; a frame: the encoder alone, the other: with the head; "
               "MB: peak of a process by itself")
    if bench.data:
        console.print(_end_to_end(measured))
        if not bench.data.unlabelled:
            console.print(_accuracy(measured))
        _say_data(bench.data)
    for row in bench.rows:
        if row.problem:
            typer.echo(f"{row.runtime} {row.variant} does not run here: {row.problem}")
    for name, peak in bench.peaks.items():
        typer.echo(f"{name} peak: {_number(peak.gmac_per_s, '.0f')} GMAC/s ({peak.how})")
    if bench.macs_per_frame is None:
        typer.echo("the bundle does not say how much its encoder computes; one that is exported again does")
    best = bench.fastest
    if best.throughput:
        typer.echo(f"fastest: {best.runtime} {best.variant}, {best.throughput.best_frames_per_s:.0f} frames/s in batches of "
                   f"{best.throughput.best_batch}")


def _speed(bench: Bench, rows: list[Row]) -> Table:
    one = f"clip of {bench.frames_per_clip}" if bench.frames_per_clip > 1 else "photo"
    table = _table("ms per\nframe", f"ms per\n{one}", "frames/s\n(batch)", "MB", "GMAC/s\n(of peak)")
    for row in rows:
        rate = f"{row.throughput.best_frames_per_s:.0f} ({row.throughput.best_batch})" if row.throughput else "–"
        table.add_row(f"{row.runtime} {row.variant}", _ms(row.frame), _ms(row.clip), rate, _number(row.memory_mb, ".0f"),
                      f"{_number(row.gmac_per_s, '.0f')} ({_number(row.of_peak, '.0%')})")
    return table


def _end_to_end(rows: list[Row]) -> Table:
    table = _table("clips/s", "encoding alone", "of the\nslower stage", "of both\nin turn")
    for row in rows:
        if row.end_to_end:
            way = row.end_to_end
            table.add_row(f"{row.runtime} {row.variant}", f"{way.clips_per_s:.1f}", f"{way.encode_clips_per_s:.1f}",
                          f"{way.of_slower_stage:.0%}", f"{way.of_both_stages:.0%}")
    return table


def _accuracy(rows: list[Row]) -> Table:
    table = _table("target", "samples", "top-1", "macro-F1", "ECE")
    for row in rows:
        for target, scores in row.accuracy.items():
            table.add_row(f"{row.runtime} {row.variant}", target, str(scores["n"]), f"{scores['top1']:.1%}",
                          f"{scores['macro_f1']:.3f}", f"{scores['ece']:.3f}")
    return table


def _say_data(data: DataResult) -> None:
    held, decode = data.decode.held, data.decode
    failed = f", {held.unreadable} could not be read" if held.unreadable else ""
    typer.echo(f"{data.used:,} of {data.found:,} files: {held.clips:,} clips, {held.frames:,} frames{failed}; only reading them: "
               f"{decode.clips_per_s:.1f} clips/s with {decode.workers} workers")
    if data.unlabelled:
        typer.echo(f"no accuracy: {data.unlabelled}")


def _table(*columns: str) -> Table:
    table = Table("")
    for name in columns:
        table.add_column(name, justify="right")
    return table


def _ms(latency: Latency | None) -> str:
    if latency is None:
        return "–"
    digits = 0 if latency.p95_ms >= 100 else 1
    return f"{latency.p50_ms:.{digits}f} / {latency.p95_ms:.{digits}f}"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
