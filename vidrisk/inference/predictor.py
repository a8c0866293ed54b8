"""Python interface of a model: files or arrays in, predictions out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator, Iterable
from contextlib import closing
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from vidrisk.decode.messages import READ_STATES, Input
from vidrisk.decode.pool import DecodePool, default_workers
from vidrisk.frames.geometry import pixels_from_array
from vidrisk.frames.media import name_of
from vidrisk.inference.head import NO_ANSWER, Answer
from vidrisk.inference.model import Classifier
from vidrisk.inference.predictions import Prediction, prediction_from_probabilities
from vidrisk.inference.stream import read_settings_for, stream_answers
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.errors import RuntimeFailure, SettingsError, SpecError, UnreadableError
from vidrisk.runtimes.contract.stages import PIXELS

PathInput: TypeAlias = "str | os.PathLike[str]"
ArrayInput: TypeAlias = npt.NDArray[np.uint8]
OneInput: TypeAlias = "PathInput | ArrayInput"

ALLOWED_ARRAYS = "uint8 (H, W, 3), a photo, or uint8 (T, H, W, 3), a clip; RGB"
ALLOWED_INPUTS = "a path, a numpy array, or several of them"


class Model:
    """A model that predicts files and arrays. Use it as a context manager, or call ``close``.

    Files are decoded in sandboxed processes that stay until the model is closed, so that a photo takes milliseconds.
    Safe to use from several threads. It does not survive a fork: the child has to load it again.

    Attributes:
        classifier: the stages that answer.
        labels: labels of each target, in the model's order.
    """

    def __init__(self, classifier: Classifier, *, workers: int | None = None) -> None:
        """Start the decode processes.

        Args:
            classifier: the stages; closed with this object.
            workers: maximum number of decode processes; None takes one per core, at most 8.
        """
        self.classifier = classifier
        self.labels = {target.name: target.labels for target in classifier.contract.targets}
        self._process = os.getpid()
        self._is_closed = False
        self._pool = DecodePool(default_workers() if workers is None else workers)
        self._pool.warm_up()

    @property
    def contract(self) -> Contract:
        """Inputs and outputs of the model."""
        return self.classifier.contract

    @property
    def pool(self) -> DecodePool:
        """The decode processes.

        Raises:
            RuntimeFailure: the model is closed, or was loaded in another process.
        """
        self._refuse_unusable()
        return self._pool

    def predict(
        self, inputs: OneInput | Iterable[OneInput], *, window_s: float | None = None, stride_s: float | None = None
    ) -> list[Prediction]:
        """Predict a file or an array, or several.

        Args:
            inputs: paths of photos and videos; arrays ``uint8 (H, W, 3)`` of photos or ``(T, H, W, 3)`` of clips, RGB,
                of any size.
            window_s: length of the windows of a video, in seconds; None keeps the value of the training. An array is
                one window.
            stride_s: distance between the starts of windows, in seconds; None keeps the value of the training.

        Returns:
            In the order of the inputs, one prediction for a photo, a clip or an array, and one per window, in order of
            time.

        Raises:
            UnreadableError: a file cannot be read; holds its state and the reason. (``stream`` continues instead.)
            SpecError: an array of another shape or type; something that is neither a path nor an array.
            SettingsError: an invalid window or stride.
            RuntimeFailure: the model is closed, or was loaded in another process; the engine failed.
        """
        self._refuse_unusable()
        listed: list[OneInput] = (
            [inputs] if isinstance(inputs, str | os.PathLike | np.ndarray) else _list_inputs(inputs)
        )
        paths: dict[int, str] = {}
        arrays: dict[int, ArrayInput] = {}
        for place, one in enumerate(listed):
            if isinstance(one, np.ndarray):
                arrays[place] = _check_array(one)
            else:
                paths[place] = _path_of(one)
        if arrays and (window_s, stride_s) != (None, None):
            raise SpecError(
                "windows of an array, which has no clock", allowed="windows of files", fix="cut the array yourself"
            )
        found = {place: [self._of_array(array)] for place, array in arrays.items()}
        if paths:
            with closing(self._answers([Input(*item) for item in paths.items()], window_s, stride_s)) as answers:
                for answer in answers:
                    if answer.end.state not in READ_STATES:
                        raise UnreadableError(
                            f"{name_of(answer.input.path)} cannot be read ({answer.end.state}): {answer.end.reason}",
                            state=answer.end.state,
                        )
                    found[answer.input.id] = list(answer.predictions)
        return [prediction for place in range(len(listed)) for prediction in found[place]]

    def stream(
        self, paths: Iterable[PathInput], *, window_s: float | None = None, stride_s: float | None = None
    ) -> Generator[Prediction, None, None]:
        """Predict many files; yield predictions as they come. Close the generator to stop.

        The predictions of a file come together, in order of time; files end in any order. A file that cannot be read
        gives one prediction without a label, whose ``state`` and ``reason`` say why.

        Args:
            paths: consumed one by one, in this thread, ahead of their predictions: an iterable must not wait for the
                prediction of an earlier path. If it is slow, no prediction waits for a batch to be full.
            window_s: as in ``predict``.
            stride_s: as in ``predict``.

        Raises:
            SettingsError, SpecError, RuntimeFailure: as ``predict``.
        """
        self._refuse_unusable()
        inputs = (
            Input(number, _path_of(path))
            for number, path in enumerate(
                _list_inputs([paths] if isinstance(paths, str | os.PathLike) else paths, is_lazy=True)
            )
        )
        return self._stream(inputs, window_s, stride_s)

    def _stream(
        self, inputs: Iterable[Input], window_s: float | None, stride_s: float | None
    ) -> Generator[Prediction, None, None]:
        with closing(self._answers(inputs, window_s, stride_s)) as answers:
            for answer in answers:
                if answer.count:
                    yield from answer.predictions
                else:
                    yield Prediction(
                        answer.input.path,
                        None,
                        None,
                        "",
                        0.0,
                        None,
                        None,
                        None,
                        None,
                        {},
                        state=answer.end.state,
                        reason=answer.end.reason,
                    )

    def _answers(
        self, inputs: Iterable[Input], window_s: float | None, stride_s: float | None
    ) -> Generator[Answer, None, None]:
        settings = read_settings_for(self.classifier, window_s=window_s, stride_s=stride_s)
        return stream_answers(inputs, self.classifier, self._pool, settings)

    def _of_array(self, array: ArrayInput) -> Prediction:
        contract, plan = self.contract, self.classifier.plan
        clip = array if array.ndim == 4 else array[None]
        moments = contract.frames if contract.time else 1
        shown = ((np.arange(moments) + 0.5) * len(clip) / moments).astype(int)  # the centres of equal parts
        different, places = np.unique(shown, return_inverse=True)
        pixels = np.stack([pixels_from_array(clip[index], contract.pixel) for index in different])
        known: dict[str, npt.NDArray[Any]] = {PIXELS: pixels} if PIXELS in plan.frame_gives else {}
        if plan.frame:
            known |= self.classifier.encode(pixels)
        logits = self.classifier.logits_from_parts({name: values[places] for name, values in known.items()}, 1)
        scores = {name: of_target[0] for name, of_target in self.classifier.probabilities_from_logits(logits).items()}
        if not all(np.isfinite(of_target).all() for of_target in scores.values()):
            raise UnreadableError(f"the array {list(array.shape)}: {NO_ANSWER}")
        content = hashlib.sha256(repr(array.shape).encode() + b"\n")
        content.update(np.ascontiguousarray(array).data)
        return prediction_from_probabilities(
            contract,
            "",
            (None, None),
            scores,
            self.classifier.uncertainty,
            content=content.hexdigest(),
            decision=self.classifier.decision,
        )

    def _refuse_unusable(self) -> None:
        if os.getpid() != self._process:
            raise RuntimeFailure(
                "the model belongs to the process that this one was forked from", fix="load it after the fork"
            )
        if self._is_closed:
            raise RuntimeFailure("the model is closed", fix="load it again")

    def close(self) -> None:
        """End the decode processes and free the engine. Safe to call twice."""
        if self._is_closed or os.getpid() != self._process:
            return
        self._is_closed = True
        self._pool.close()
        self.classifier.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        classifier = self.classifier
        return f"Model({classifier.provenance.get('model', '')!r}, {classifier.runtime}, {classifier.variant})"


def _list_inputs(inputs: Iterable[Any], *, is_lazy: bool = False) -> Any:
    try:
        return iter(inputs) if is_lazy else list(inputs)
    except TypeError:
        raise SpecError(f"an input of type {type(inputs).__name__}", allowed=ALLOWED_INPUTS) from None


def _path_of(path: Any) -> str:
    """Return the absolute path of an input.

    Raises:
        SpecError: not a path.
        SettingsError: a folder.
    """
    if not isinstance(path, str | os.PathLike):
        raise SpecError(f"an input of type {type(path).__name__}", allowed=ALLOWED_INPUTS)
    absolute = os.path.abspath(os.fspath(path))  # noqa: PTH100 (keeps links, resolves "..")
    if os.path.isdir(absolute):  # noqa: PTH112 (never raises)
        raise SettingsError(f"{path} is a folder", allowed="files", fix="give its files, or use vidrisk.infer")
    return absolute


def _check_array(array: npt.NDArray[Any]) -> ArrayInput:
    """Return an array, after checking that it is a photo or a clip.

    Raises:
        SpecError: neither a photo nor a clip.
    """
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or array.shape[-1] != 3 or not array.size:
        raise SpecError(f"an array {array.dtype} {tuple(array.shape)}", allowed=ALLOWED_ARRAYS)
    return array
