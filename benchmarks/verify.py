"""Measure `vidrisk verify`: the size of a bundle's golden samples, and the time of the process, minimum of five.

python benchmarks/verify.py BUNDLE...
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from machine import describe_machine
from quiet import measure_quietly

from vidrisk.runtimes.contract.bundle import Bundle
from vidrisk.runtimes.golden import GOLDEN, read_golden

RESULT = Path(__file__).parent / "results" / "verify.json"
RUNS = 5
LIMITS_MB = {"photos": 2.0, "clips": 8.0}
LIMIT_S = 5.0


def verify(path: Path) -> tuple[float, str]:
    """Return the seconds of ``vidrisk verify`` and what it printed."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", "vidrisk", "verify", str(path), "--json"]
    end = subprocess.run(command, capture_output=True, text=True, check=True)
    return round(time.perf_counter() - begin, 2), end.stdout


def measure_bundle(path: Path) -> dict[str, Any]:
    bundle = Bundle.open(path)
    golden = read_golden(bundle)
    if golden is None:
        raise SystemExit(f"{path} has no golden samples")
    ends = [measure_quietly(lambda: verify(path)) for _ in range(RUNS)]
    seconds, rows = [each for each, _ in ends], json.loads(ends[-1][1])["rows"]
    kind = "photos" if bundle.contract.frames == 1 else "clips"
    return {
        "bundle": path.resolve().name,
        "kind": kind,
        "side": bundle.contract.pixel.height,
        "frames": bundle.contract.frames,
        "samples": golden.told.samples,
        "golden_mb": round((bundle.root / GOLDEN).stat().st_size / 1e6, 2),
        "limit_mb": LIMITS_MB[kind],
        "seconds": min(seconds),
        "runs_s": seconds,
        "limit_s": LIMIT_S,
        "asked": [f"{row['runtime']} {row['variant']}" for row in rows],
        "largest": {f"{row['runtime']} {row['variant']}": row["largest"] for row in rows},
    }


def main() -> None:
    if not sys.argv[1:]:
        raise SystemExit(__doc__)
    rows = [measure_bundle(Path(argument)) for argument in sys.argv[1:]]
    RESULT.write_text(json.dumps({"rows": rows, "machine": describe_machine()}, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
