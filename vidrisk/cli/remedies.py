"""Errors of the library in words of the command line: the library knows arguments, a user types flags."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vidrisk.runtimes.contract.errors import VidriskError

# Words of the library → words of the command line, in what is allowed and in the fix.
FLAGS = {
    "the window or the stride": "--window or --stride",
    "run it again with resume, which": "the same command with --resume",
    "run it again with resume": "run again with --resume",
    "resume=True continues": "--resume continues",
    "use fewer workers": "fewer --workers",
    "run infer with save_features": "vidrisk infer … --save-features",
    "runtime torch, variant fp32": "--runtime torch, --variant fp32",
    "another folder for move_done": "another folder for --move-done",
    "labelled data as val": "labelled data with --val",
    "leave val out": "leave --val out",
    "leave calib out": "leave --calib out",
    "give data as calib": "give data with --calib",
    "give more as calib, or a greater calib_samples": "give more with --calib or --calib-samples",
    "ask for wheels, or leave python out": "add --wheels, or leave --python out",
    "leave wheels out": "leave --wheels out",
    "give another python": "give another --python",
    "export it for TensorRT and the target": "vidrisk export RUN -o BUNDLE --int8 --trt --target",
}
# The same at the beginning of what is wrong, where names of files come later.
FLAGS_FIRST = {"python without wheels": "--python without --wheels", "python=": "--python ", "inbox=": "--inbox "}


@contextmanager
def as_flags() -> Iterator[None]:
    """Name flags in the errors of the block.

    Raises:
        VidriskError: as it was raised, in words of the command line.
    """
    try:
        yield
    except VidriskError as error:
        what = next((flags + error.what.removeprefix(words) for words, flags in FLAGS_FIRST.items()
                     if error.what.startswith(words)), error.what)
        VidriskError.__init__(error, what, allowed=_with_flags(error.allowed), fix=_with_flags(error.fix))
        raise


def _with_flags(text: str | None) -> str | None:
    for words, flags in FLAGS.items():
        text = text and text.replace(words, flags)
    return text
