"""Check that engines on the GPU give the same results as ONNX Runtime on the processor, and as torch."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import numpy as np
from gpu_compare import FRAMES, WORKING, compare_alone, compare_answers, cosines, gpu_runtimes
from gpu_families import family_bundle, find_families
from gpu_place import AIMS, Part, Place, engine, say

VERIFY_LIMIT_S = 45.0
VERDICTS = {0: "equal", 3: "different", 4: "no golden samples"}


class DifferentError(Exception):
    """An engine gives other results, or no engine runs."""


def first(place: Place) -> Iterator[Part]:
    """Build and run one engine, compare it with ONNX Runtime, and replay the golden samples with ``vidrisk verify``.

    Later steps use the runtimes that worked here.

    Raises:
        DifferentError: no runtime has run, or the outputs of one differ.
    """
    bundle = family_bundle(place.work, place.families[0])
    (place.work / WORKING).unlink(missing_ok=True)
    found: dict[str, Part] = {}
    for runtime in gpu_runtimes(place):
        found[runtime] = compare_alone(place, bundle, runtime)
        yield {"runtimes": found, "headline": _headline(found)}
        if "problem" in found[runtime]:
            continue
        found[runtime]["verify"] = _verify(place, bundle.root, runtime)
        yield {"runtimes": found, "headline": _headline(found)}
    (place.work / WORKING).write_text(
        json.dumps([name for name, each in found.items() if each.get("equal")]), encoding="utf-8"
    )
    if different := [
        name
        for name, each in found.items()
        if each.get("equal") is False or each.get("verify", {}).get("verdict") == VERDICTS[3]
    ]:
        raise DifferentError(f"{', '.join(different)}: not what ONNX Runtime computes")
    if not any(each.get("equal") for each in found.values()):
        raise DifferentError("no runtime runs on this GPU")


def _headline(found: dict[str, Part]) -> str:
    return "; ".join(
        f"{name} {each['problem'] if 'problem' in each else 'equal' if each['equal'] else 'DIFFERENT'}"
        + (f", verify: {each['verify']['verdict']}" if "verify" in each else "")
        for name, each in found.items()
    )


def _verify(place: Place, bundle: Any, runtime: str) -> Part:
    command = [*place.program, "verify", str(bundle), "--runtime", runtime, "--json"]
    try:
        end = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=VERIFY_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return {"verdict": f"no answer within {VERIFY_LIMIT_S:.0f} s"}
    said = (end.stderr.strip().splitlines() or [""])[-1]
    try:
        told = json.loads(end.stdout)
    except ValueError:
        told = None
    return {"verdict": VERDICTS.get(end.returncode, f"did not run: {said}"), "code": end.returncode, "told": told}


def families(place: Place) -> Iterator[Part]:
    """Compare every family in every precision on every runtime; a runtime that fails at first is not tried again.

    Raises:
        DifferentError: an engine gives other results, or no engine runs.
    """
    found: dict[str, dict[str, dict[str, Part]]] = {}
    for runtime in gpu_runtimes(place):
        rows = found.setdefault(runtime, {})
        for family in find_families(place.work, place.families):
            bundle = family_bundle(place.work, family)
            for variant in bundle.manifest.variants:
                each = rows.setdefault(family, {})[variant] = compare_answers(bundle, runtime, variant)
                say(f"{runtime}, {family} {variant}: {each}")
                yield {"frames": FRAMES, "runtimes": found, "headline": _counts(found)}
            if not any("equal" in each for row in rows.values() for each in row.values()):
                break
    flat = [
        (f"{runtime} {family} {variant}", each)
        for runtime, rows in found.items()
        for family, row in rows.items()
        for variant, each in row.items()
    ]
    if different := [name for name, each in flat if each.get("equal") is False]:
        raise DifferentError(f"not what ONNX Runtime computes: {', '.join(different)}")
    if not any(each.get("equal") for _, each in flat):
        raise DifferentError("no runtime runs on this GPU")


def _counts(found: dict[str, dict[str, dict[str, Part]]]) -> str:
    words = []
    for runtime, rows in found.items():
        every = [each for row in rows.values() for each in row.values()]
        words.append(
            f"{runtime}: {sum(bool(each.get('equal')) for each in every)} of {len(every)} equal in {len(rows)} families"
        )
    return "; ".join(words)


def parity(place: Place) -> Iterator[Part]:
    """Measure the cosine of every variant's features with torch's in float32, per photo."""
    import torch
    from gpu_models import PARITY

    rows: dict[str, dict[str, dict[str, float]]] = {}
    for model in place.models:
        photos = model.photos(200, 8 if place.trial else PARITY)
        with torch.inference_mode():
            expected = model.encoder()(torch.from_numpy(photos)).numpy().astype(np.float64)
        for variant in ("fp32", "fp16", model.quantized):
            with engine(place, model, variant) as runner:
                found = cosines(runner.infer({"frames": photos})["features"].astype(np.float64), expected)
            rows.setdefault(model.name, {})[variant] = {
                name: round(float(each), 6) for name, each in (("least", found.min()), ("mean", found.mean()))
            }
        say(f"{model.name}: {rows[model.name]}")
    yield {"aim_fp16": AIMS["fp16_cosine"], "photos": PARITY, "models": rows}
