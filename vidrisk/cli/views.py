"""Tables that commands print."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidrisk.cli.console import say, say_json, say_table

if TYPE_CHECKING:
    from vidrisk.export.gate.report import GateReport
    from vidrisk.export.gate.text_report import TextHop
    from vidrisk.jobs.evaluate import Evaluation
    from vidrisk.runtimes.contract.bundle import Bundle


def print_training(run: Path, *, as_json: bool) -> None:
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    tune = run / "tune" / "tune.json"
    search = json.loads(tune.read_text(encoding="utf-8")) if tune.is_file() else None
    if as_json:
        say_json(json.dumps({**metrics, **({"tune": search} if search else {})}, ensure_ascii=False))
        return
    if search:
        _print_search(search)
    if "reports" in metrics:
        say_table(
            ("split", "conversations", "loss per token", "probability per token", "most probable"),
            (
                (
                    split,
                    str(metrics["samples"][split]),
                    f"{found['loss']:.3f}",
                    f"{found['metric']:.3f}",
                    _share(found["figures"]["token_accuracy"]),
                )
                for split, found in metrics["reports"].items()
            ),
        )
    else:
        say_table(
            ("split", "target", "samples", "top-1", "macro-F1", "mAP", "ECE"),
            (
                (split, target, *_scores(scores))
                for split in ("val", "test")
                for target, scores in metrics.get(split, {}).items()
            ),
        )
    compared = metrics.get("compared") or {"splits": {}, "says": []}
    if compared["splits"]:
        say_table(
            ("split", "target", "samples", "probe", "head alone", "LoRA + head", "p beside the head"),
            (
                (
                    split,
                    target,
                    str(found["n"]),
                    _share(found.get("probe")),
                    _share(found["head"]),
                    _share(found["lora"]),
                    f"{found['beside']['head']['p_value']:.2g}",
                )
                for split, targets in compared["splits"].items()
                for target, found in targets.items()
            ),
            title="right answers",
        )
    for line in compared["says"]:
        say(line)
    best = f"epoch {metrics['best_epoch']}" if metrics["best_epoch"] else "the probe that training began at"
    say(
        f"best: {best}, of {len(metrics['epochs'])} epochs, {metrics['seconds']:.0f} s, "
        f"{len(metrics['unreadable'])} unreadable samples → {run}"
    )


def _print_search(search: dict[str, Any]) -> None:
    ranked = sorted(search["trials"], key=lambda trial: (-trial["folds"], trial["loss"] is None, trial["loss"]))
    say_table(
        ("trial", "settings", "folds", "loss", search["metric"], "seconds"),
        (
            (
                ("→ " if trial["trial"] == search["chosen"] else "") + str(trial["trial"]),
                ", ".join(f"{name}={_setting(value)}" for name, value in trial["settings"].items()) or "default",
                str(trial["folds"]),
                _with_error(trial["loss"], trial["loss_error"]),
                _share(trial["metric"]),
                f"{trial['seconds']:.0f}",
            )
            for trial in ranked
            if trial["folds"]
        ),
        title=f"search on {search['folds']} folds of the training split",
    )
    say(f"trial {search['chosen']} is taken: {search['why']}")
    if search["time_was_up"]:
        begun, trials = sum(trial["folds"] > 0 for trial in ranked), len(ranked)
        told = [f"{trials - begun} of {trials} trials were not begun"] if begun < trials else []
        if begun > 1:
            told.append(f"those that were left are compared on {search['compared_on']} of {search['folds']} folds")
        say(f"time was up: {'; '.join(told)}")


def _setting(value: object) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)


def _with_error(loss: float | None, error: float | None) -> str:
    return "failed" if loss is None else f"{loss:.4f}" if error is None else f"{loss:.4f} ± {error:.4f}"


def print_evaluation(evaluation: Evaluation, *, as_json: bool) -> None:
    if as_json:
        say_json(evaluation.to_json())
        return
    say_table(
        ("target", "samples", "top-1", "macro-F1", "mAP", "ECE"),
        ((target, *_scores(metrics.to_dict())) for target, metrics in evaluation.metrics.items()),
    )
    if evaluation.one_view:
        say_table(
            ("target", "samples", "top-1", "macro-F1", "mAP", "ECE"),
            ((target, *_scores(metrics.to_dict())) for target, metrics in evaluation.one_view.items()),
            title=f"one view, beside the mean of {evaluation.views.count} above",
        )
    say_table(
        ("target", "class", "precision", "recall", "F1", "samples"),
        (
            (
                target,
                one.label,
                f"{one.precision:.3f}",
                *((f"{one.recall:.3f}", f"{one.f1:.3f}") if one.support else ("–", "–")),
                str(one.support),
            )
            for target, metrics in evaluation.metrics.items()
            for one in metrics.per_class
        ),
    )
    say_table(
        ("target", "coverage (95 %)", "kept", "top-1 of kept (95 %)", "of all", "mean error by share kept"),
        (
            (
                target,
                _with_interval(one.coverage, one.coverage_interval),
                _share(one.kept),
                _with_interval(one.accuracy_of_kept, one.accuracy_of_kept_interval),
                _share(one.accuracy),
                f"{one.curve.area:.4f}",
            )
            for target, one in evaluation.certainty.items()
        ),
    )
    _say_lacks((target, one.reason) for target, one in evaluation.certainty.items())
    say(describe_splits(len(evaluation.rows), evaluation.splits))
    say(f"{evaluation.runtime} {evaluation.variant}; {len(evaluation.unreadable)} samples could not be read")


def describe_splits(samples: int, splits: Mapping[str, int]) -> str:
    """Say which splits the scored samples are from."""
    if not splits:
        return f"{samples:,} samples: DATA has no splits, so the training may have used them"
    said = ", ".join(f"{count:,} of the {split} split" for split, count in splits.items())
    learnt = ", which the model may have learnt from" if set(splits) & {"train", "val"} else ""
    return f"{samples:,} samples: {said}{learnt}"


def print_text_gate(report: GateReport, *, as_json: bool, bundle: Bundle | None = None) -> None:
    """Print the losses of every hop of a model that writes reports, and the location of the bundle.

    Without a bundle, the gate has refused it.
    """
    if as_json:
        say_json(json.dumps(report.to_dict(), ensure_ascii=False, allow_nan=False))
        return
    say_table(
        ("hop", "KL", "top-1", "perplexity", "whole answers", "level", "accuracy lost", ""),
        (
            (
                hop.name,
                *_token_figures(hop),
                *_field_figures(hop),
                "passed" if hop.passed and not hop.reason else hop.reason,
            )
            for hop in report.text_hops
        ),
    )
    for verdict in report.verdicts:
        if not verdict.shipped:
            say(f"{verdict.variant} is left out: {verdict.reason}")
    if bundle is not None:
        sizes = sum(file.bytes for file in bundle.manifest.files.values()) / 2**20
        say(f"{', '.join(bundle.manifest.variants)}; {sizes:.0f} MB → {bundle.root}")


def _token_figures(hop: TextHop) -> tuple[str, str, str]:
    tokens = hop.tokens
    return (
        ("", "", "")
        if tokens is None
        else (
            f"{tokens.kl:.2g}",
            _share(tokens.top1),
            f"{tokens.perplexity_before:.2f} → {tokens.perplexity_after:.2f}",
        )
    )


def _field_figures(hop: TextHop) -> tuple[str, str, str]:
    found = hop.fields
    return (
        ("", "", "")
        if found is None
        else (_share(found.complete_after), _share(found.level_agreement), f"{found.drop_points:.1f} points")
    )


def print_gate(report: GateReport, *, as_json: bool, bundle: Bundle | None = None) -> None:
    """Print the losses of every hop, and the location of the bundle; without a bundle, the gate has refused it."""
    from vidrisk.export.gate.race import speed_in_words

    if as_json:
        where = {"bundle": str(bundle.root), "digest": bundle.digest} if bundle else {"bundle": None}
        say_json(json.dumps({**where, **report.to_dict()}, ensure_ascii=False))
        return
    if "pixels because" in report.source:
        say(f"{report.source['model']} takes {report.source['pixels']}: {report.source['pixels because']}")
    hops = []
    for hop in report.hops:
        worst = max(hop.changes, key=lambda change: change.drop_points, default=None)
        interval = f" ({worst.interval_points[0]:+.1f} … {worst.interval_points[1]:+.1f})" if worst else ""
        compared = (f"{hop.agreement:.1%}", f"{hop.largest_logit_difference:.2g}") if hop.agreement >= 0 else ("–", "–")
        hops.append(
            (
                hop.name,
                hop.runtime,
                compared[0],
                f"{hop.drop_points:+.2f}{interval}",
                compared[1],
                hop.reason or "passed",
            )
        )
    say_table(
        ("hop", "runtime", "agreement", "drop in points (95 %)", "largest Δ logit", "gate"),
        hops,
        last_styles=["" if not hop.reason else "yellow" if hop.passed else "red" for hop in report.hops],
    )
    if report.search:
        kept = [row for row in report.search if row["precision"] == "float"]
        say_table(
            ("block in floating point", "share of the noise", "costs ms/frame"),
            ((row["block"], f"{row['noise_share']:.1%}", f"{row['float_ms']:.3f}") for row in kept),
        )
        quantized = sorted({row["precision"].upper() for row in report.search} - {"FLOAT"})
        say(
            f"{len(report.search) - len(kept)} of {len(report.search)} blocks are in {' or '.join(quantized) or 'INT8'}"
        )
    if report.laps:
        say_table(
            ("variant", "runtime", "ms/frame", "frames/s", "MB"),
            (
                (
                    lap.variant,
                    lap.runtime,
                    f"{lap.ms_per_frame:.2f}",
                    f"{lap.frames_per_s:.0f}",
                    f"{lap.bytes / 1e6:.1f}",
                )
                for lap in report.laps
            ),
        )
    fits = [(variant, target, fit) for variant, targets in report.coverage.items() for target, fit in targets.items()]
    if fits:
        say_table(
            ("variant", "target", "coverage", "kept", "top-1 of kept", "of all"),
            (
                (variant, target, _interval(fit.interval), *map(_share, (fit.kept, fit.accuracy_of_kept, fit.accuracy)))
                for variant, target, fit in fits
            ),
        )
    _say_lacks((target, fit.reason) for _, target, fit in fits)
    for speed in report.speeds:
        say(f"{speed.variant} beside fp32: {speed_in_words(speed)}")
    if report.note:
        say(report.note)
    if bundle is None:
        return
    size_mb = sum(file.bytes for file in bundle.manifest.files.values()) / 1e6
    say(f"{', '.join(bundle.passed)} → {bundle.root} ({size_mb:.1f} MB); the report: {bundle.root / 'gate.html'}")


def _say_lacks(reasons: Iterable[tuple[str, str]]) -> None:
    """Print, once per target, why it has no threshold."""
    for line in dict.fromkeys(f"no threshold for {target}: {reason}" for target, reason in reasons if reason):
        say(line)


def _share(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _interval(shares: tuple[float, float] | None) -> str:
    return "–" if shares is None else f"{shares[0]:.1%} … {shares[1]:.1%}"


def _with_interval(share: float | None, shares: tuple[float, float] | None) -> str:
    return "–" if share is None else f"{_share(share)} ({_interval(shares)})"


def _scores(scores: dict[str, Any]) -> tuple[str, ...]:
    mean_ap = scores["mean_average_precision"]
    right = scores.get("top1", scores.get("exact_match"))
    return (
        str(scores["n"]),
        _share(right),
        f"{scores['macro_f1']:.3f}",
        "–" if mean_ap is None else f"{mean_ap:.3f}",
        f"{scores['ece']:.3f}",
    )
