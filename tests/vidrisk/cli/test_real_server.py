"""Test of a merged checkpoint on a real OpenAI-compatible server.

Transformers' own server runs in a separate process.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from risk_tables import draw
from small_report_bundle import report_bundle
from trained_reporters import COMMON, write_photo_of
from vlms import save_llava_hf

from vidrisk.inference.predictions import read_predictions
from vidrisk.runtimes.contract.errors import EXIT_ERROR, EXIT_OK, EXIT_SOME_FAILED

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"


@pytest.mark.slow(minutes=1)
def test_a_run_is_merged_and_served_and_answers_about_photos(
    cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for needed in ("fastapi", "uvicorn", "openai"):
        pytest.importorskip(needed, reason="transformers[serving] is not installed")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from gpu_server import TRANSFORMERS, run_server

    (tmp_path / "llava").mkdir()
    save_llava_hf(tmp_path / "llava")
    for number in range(8):
        write_photo_of(tmp_path / "pictures" / f"{number}.png", "minor" if number % 2 else "severe", number)
    (tmp_path / "talks.json").write_text(
        json.dumps(
            [
                {
                    "id": str(n),
                    "image": f"pictures/{n}.png",
                    "conversations": [
                        {"from": "human", "value": "<image>\nWhich colour?"},
                        {"from": "gpt", "value": "blue" if n % 2 else "red"},
                    ],
                }
                for n in range(8)
            ]
        ),
        encoding="utf-8",
    )
    settings = [
        word for each in (*COMMON, "optim.epochs=1") for word in ("--set", each) if not each.startswith("pixel")
    ]
    end = cli(
        "train",
        tmp_path / "talks.json",
        "-o",
        tmp_path / "run",
        "--task",
        "report",
        "--backbone",
        tmp_path / "llava",
        *settings,
    )
    assert end.code == EXIT_OK, end
    assert cli("export", tmp_path / "run", "-o", tmp_path / "merged", "--merged").code == EXIT_OK
    for number in range(3):
        draw(tmp_path / "photos" / f"{number}.png", number)
    with run_server(
        [sys.executable, "-c", TRANSFORMERS, "serve", str(tmp_path / "merged")], tmp_path / "log.txt"
    ) as url:
        options = ("--text-server", url, "--text-model", tmp_path / "merged", "--answer-tokens", "6")
        infer = ("infer", report_bundle(), tmp_path / "photos", "-o")
        end = cli(*infer, tmp_path / "out", *options, "--question", "Which colour?")
        assert "3 inputs: 3 " in end.stdout, end
        refused = cli(*infer, tmp_path / "reports", *options)
        other = cli(*infer, tmp_path / "other", "--text-server", url, "--text-model", "b")
    reports = [prediction.report for prediction in read_predictions(tmp_path / "out")]
    assert all(
        report
        and report["prompt_tokens"] > 10
        and report["answer_tokens"] > 0
        and report["finish"] in ("stop", "length")
        for report in reports
    )
    # It takes no notice of a schema: answers that are no reports are said to be none.
    assert refused.code == EXIT_SOME_FAILED and " ok" not in refused.stdout, refused
    reasons = [
        json.loads(line)["reason"]
        for line in (tmp_path / "reports" / "predictions.jsonl").read_text("utf-8").splitlines()
    ]
    assert len(reasons) == 3 and all("does not parse" in reason or "not JSON" in reason for reason in reasons)
    assert other.code == EXIT_ERROR and f"{url} has no model 'b'; allowed: {tmp_path / 'merged'}" in other.stderr
