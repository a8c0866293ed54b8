"""The tables that ``vidrisk bench`` prints."""

from __future__ import annotations

from vidrisk.bench.measurements import Bench, DataResult, Row
from vidrisk.bench.speed import Latency
from vidrisk.cli.console import say, say_json, say_table


def print_bench(bench: Bench, *, as_json: bool) -> None:
    if as_json:
        say_json(bench.to_json())
        return
    measured = [row for row in bench.rows if not row.problem]
    _say_speed(bench, measured)
    say(
        "ms: median / 95th percentile, one at a time; per frame: the encoder alone, the other: with the head; "
        "MB: peak of a separate process"
    )
    if bench.data:
        _say_end_to_end(measured)
        if not bench.data.unlabelled:
            _say_accuracy(measured)
        _say_data(bench.data)
    for row in bench.rows:
        if row.problem:
            say(f"{row.runtime} {row.variant} does not run here: {row.problem}")
    for name, peak in bench.peaks.items():
        say(f"{name} peak: {_number(peak.gmac_per_s, '.0f')} GMAC/s ({peak.how})")
    if bench.macs_per_frame is None:
        say("the bundle does not record how much its encoder computes; export it again to add that")
    best = bench.fastest
    if best.throughput:
        say(
            f"fastest: {best.runtime} {best.variant}, {best.throughput.best_frames_per_s:.0f} frames/s in batches of "
            f"{best.throughput.best_batch}"
        )


def _say_speed(bench: Bench, rows: list[Row]) -> None:
    one = f"clip of {bench.frames_per_clip}" if bench.frames_per_clip > 1 else "photo"
    say_table(
        ("", "ms per\nframe", f"ms per\n{one}", "frames/s\n(batch)", "MB", "GMAC/s\n(of peak)"),
        (
            (
                f"{row.runtime} {row.variant}",
                _ms(row.frame),
                _ms(row.clip),
                f"{row.throughput.best_frames_per_s:.0f} ({row.throughput.best_batch})" if row.throughput else "–",
                _number(row.memory_mb, ".0f"),
                f"{_number(row.gmac_per_s, '.0f')} ({_number(row.of_peak, '.0%')})",
            )
            for row in rows
        ),
        right_from=1,
    )


def _say_end_to_end(rows: list[Row]) -> None:
    say_table(
        ("", "clips/s", "encoding alone", "of the\nslower stage", "of both\nin turn"),
        (
            (
                f"{row.runtime} {row.variant}",
                f"{way.clips_per_s:.1f}",
                f"{way.encode_clips_per_s:.1f}",
                f"{way.of_slower_stage:.0%}",
                f"{way.of_both_stages:.0%}",
            )
            for row in rows
            if (way := row.end_to_end)
        ),
        right_from=1,
    )


def _say_accuracy(rows: list[Row]) -> None:
    say_table(
        ("", "target", "samples", "top-1, or mAP", "macro-F1", "ECE"),
        (
            (
                f"{row.runtime} {row.variant}",
                target,
                str(scores["n"]),
                _number(scores.get("top1", scores.get("mean_average_precision")), ".1%"),
                f"{scores['macro_f1']:.3f}",
                f"{scores['ece']:.3f}",
            )
            for row in rows
            for target, scores in row.accuracy.items()
        ),
        right_from=1,
    )


def _say_data(data: DataResult) -> None:
    held, decode = data.decode.held, data.decode
    failed = f", {held.unreadable} could not be read" if held.unreadable else ""
    say(
        f"{data.used:,} of {data.found:,} files: {held.clips:,} clips, {held.frames:,} frames{failed}; reading alone: "
        f"{decode.clips_per_s:.1f} clips/s with {decode.workers} workers"
    )
    if data.unlabelled:
        say(f"no accuracy: {data.unlabelled}")


def _ms(latency: Latency | None) -> str:
    if latency is None:
        return "–"
    digits = 0 if latency.p95_ms >= 100 else 1
    return f"{latency.p50_ms:.{digits}f} / {latency.p95_ms:.{digits}f}"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
