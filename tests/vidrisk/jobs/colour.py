"""A colour classifier in pure numpy, for tests of the pipeline without a model.

As a script it predicts a folder: ``colour.py OUT PATH… [--resume] [--slow]``. Tests kill it, fill its disk
and press Ctrl-C.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vidrisk.inference.model import Classifier
from vidrisk.jobs.run_folder import run_folder
from vidrisk.jobs.run_settings import InferSettings
from vidrisk.jobs.sources import find_inputs
from vidrisk.runtimes.contract.contract import Contract, Guidance, Target
from vidrisk.runtimes.contract.errors import VidriskError
from vidrisk.runtimes.contract.specs import PixelSpec, TimeSpec
from vidrisk.runtimes.contract.stages import frame_encoder_stages
from vidrisk.runtimes.runner import Array, Arrays, FakeRunner
from vidrisk.runtimes.uncertainty import Uncertainty

COLOURS = ("red", "green", "blue")
PIXEL = PixelSpec(height=32, width=32)
ACTION = Contract(task="action", pixel=PIXEL, time=TimeSpec(frames=4), targets=(Target(name="action", labels=COLOURS),))
RISK = Contract(
    task="risk",
    pixel=PIXEL,
    targets=(
        Target(name="defect", labels=COLOURS),
        Target(name="level", labels=("轻微", "中等", "严重"), ordered=True, severity=(0, 50, 100)),
    ),
    guidance=(
        Guidance(defect="red", level="严重", risk="坍塌", advice="立即停工。", description="墙体有贯穿裂缝。"),
        Guidance(level="轻微", advice="定期检查。"),
    ),
)


def colour_classifier(
    contract: Contract,
    *,
    digest: str = "0" * 64,
    threshold: float | None = 0.4,
    seconds_per_batch: float = 0.0,
    batch_sizes: list[int] | None = None,
    is_concurrent: bool = False,
) -> Classifier:
    """Return a classifier whose label is the dominant colour.

    The level depends on the colour: red is severe, blue is minor. Every row is computed alone, so that a result
    does not depend on its batch.

    Args:
        contract: ``ACTION`` or ``RISK``.
        digest: digest in place of a bundle's digest.
        threshold: threshold of every label of the first target, fitted for a coverage of 90 %; None for a model
            without thresholds.
        seconds_per_batch: time that the encoder takes for a batch.
        batch_sizes: list to which the length of every batch of frames is appended.
        is_concurrent: whether two batches may be encoded at once.
    """

    def encode(feed: Mapping[str, Array]) -> Arrays:
        time.sleep(seconds_per_batch)
        if batch_sizes is not None:
            batch_sizes.append(len(feed["frames"]))
        means = [frame.mean((0, 1), dtype=np.float64) for frame in feed["frames"]]
        return {"features": np.stack(means).astype(np.float32)}

    def judge(feed: Mapping[str, Array]) -> Arrays:
        logits = np.stack([clip.mean(0, dtype=np.float64) for clip in feed["features"]]).astype(np.float32) / 32
        return {f"{t.name}_logits": logits[:, ::-1] if t.name == "level" else logits for t in contract.targets}

    first, *others = contract.targets
    stages = frame_encoder_stages(contract, 3)
    runners = [
        FakeRunner(stage.inputs, stage.outputs, function)
        for stage, function in zip(stages, (encode, judge), strict=True)
    ]
    for runner in runners:
        runner.is_concurrent = is_concurrent
    return Classifier(
        stages,
        runners,
        contract,
        variant="fp32",
        provenance={"model": "colours.bundle", "digest": digest, "made with numpy": np.__version__},
        uncertainty=None
        if threshold is None
        else Uncertainty(
            0.9, {first.name: (threshold,) * len(first.labels)}, {target.name: "no samples" for target in others}
        ),
    )


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--slow", action="store_true", help="so slow that a signal finds it at work")
    parser.add_argument("--file-timeout", type=float, default=20.0)
    parser.add_argument("--max-file-bytes", type=int, help="stands for a full disk")
    options = parser.parse_args()
    if options.max_file_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (options.max_file_bytes, options.max_file_bytes))
    settings = InferSettings(workers=2, batch_frames=8, file_timeout_s=options.file_timeout, resume=options.resume)
    try:
        seconds = 0.05 if options.slow else 0.0
        with colour_classifier(ACTION, seconds_per_batch=seconds, is_concurrent=True) as classifier:
            run_folder(
                classifier,
                find_inputs(options.paths),
                options.out,
                settings,
                on_progress=lambda progress: print(progress.files, flush=True),
            )
    except VidriskError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
