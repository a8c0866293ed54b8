"""Remedies of the library, as options of the command line: the library knows arguments, a user types flags."""

from __future__ import annotations

from vidrisk.runtimes.contract.errors import VidriskError

FLAGS = {"the window or the stride": "--window or --stride", "run it again with resume, which": "the same command with --resume",
         "use fewer workers": "fewer --workers", "use another runtime": "use another --runtime",
         "use tensorrt-rtx": "use --engine tensorrt-rtx", "the target any": "--target any",
         "name compute capabilities, such as 8.6, of other GPUs": "--compute-capability 8.6,8.9 builds for GPUs that are elsewhere",
         "a smaller batch": "a smaller --batch",
         "export for TensorRT": "export with --trt", "another variant": "another --variant",
         "do without the DLA": "leave --dla out",
         "the runtime auto": "--runtime auto", "qat_steps": "--qat-steps",
         "give more calibration samples": "give more with --calib or --calib-samples",
         "give a labels file": "--labels labels.txt",
         "give some as val, and as calib for INT8": "give some with --val, and with --calib for --int8",
         "say it in a pixel file": "say it with --pixel pixel.yaml"}


def line_from_error(error: VidriskError) -> str:
    """Return an error as the line that a user reads, its remedy in words of the command line."""
    fix = error.fix
    for words, flags in FLAGS.items():
        fix = fix and fix.replace(words, flags)
    return str(VidriskError(error.what, allowed=error.allowed, fix=fix))
