"""Tests of the predictions of an input after its windows are answered."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from colour import ACTION, colour_classifier

from vidrisk.decode.messages import Input, InputEnd
from vidrisk.inference.head import predict
from vidrisk.inference.meter import Meter
from vidrisk.inference.predictions import Prediction
from vidrisk.inference.windows import EncodedEnd, EncodedWindow


def predictions_of(path: Path, end: InputEnd) -> list[Prediction]:
    """Return the predictions for a file with one window and this end."""
    frame = np.zeros(3, np.float32)
    window = EncodedWindow(0, (0.0, 1.0), (0, 1, 2, 3), {"features": (frame,) * 4})
    (answer,) = predict([[window, EncodedEnd(Input(0, os.fspath(path)), end)]], colour_classifier(ACTION), Meter())
    return list(answer.predictions)


def test_a_file_whose_worker_was_lost_is_not_opened_here(tmp_path: Path) -> None:
    """A file whose worker was lost is not opened in this process.

    Opening a pipe blocks for ever, and a network share on which the decoder timed out would hold up the run.
    """
    (tmp_path / "a.mp4").write_bytes(b"content")
    os.mkfifo(tmp_path / "b.mp4")
    for name in ("a.mp4", "b.mp4"):
        (found,) = predictions_of(
            tmp_path / name, InputEnd("partial", "decoder timed out after 60 s; read up to 1.00 s")
        )
        assert (found.state, found.id) == ("partial", "")
    (found,) = predictions_of(tmp_path / "a.mp4", InputEnd("ok", content="0" * 64))
    assert len(found.id) == 32
