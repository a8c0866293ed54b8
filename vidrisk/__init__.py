"""Turn a folder of labelled clips or defect photos into a verified INT8 model and a report per folder.

    model = vidrisk.load("fights.bundle")
    model.predict("clip.mp4")[0].label

Names are imported lazily: ``import vidrisk`` loads neither numpy nor torch.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from vidrisk.runtimes.telemetry import silence_telemetry

if TYPE_CHECKING:
    from vidrisk.api import evaluate, export, infer, load, train
    from vidrisk.export.trained import ExportOptions
    from vidrisk.inference.predictions import Prediction
    from vidrisk.inference.predictor import Model
    from vidrisk.jobs.run_settings import InferSettings
    from vidrisk.runtimes.contract import errors
    from vidrisk.runtimes.contract.errors import VidriskError

__version__ = "0.2.0"

__all__ = [
    "ExportOptions",
    "InferSettings",
    "Model",
    "Prediction",
    "VidriskError",
    "errors",
    "evaluate",
    "export",
    "infer",
    "load",
    "train",
]

_HOME = {
    "ExportOptions": "vidrisk.export.trained",
    "InferSettings": "vidrisk.jobs.run_settings",
    "Model": "vidrisk.inference.predictor",
    "Prediction": "vidrisk.inference.predictions",
    "VidriskError": "vidrisk.runtimes.contract.errors",
    **dict.fromkeys(("evaluate", "infer", "load"), "vidrisk.api"),
}
_MODULES = {"errors": "vidrisk.runtimes.contract.errors", "export": "vidrisk.export", "train": "vidrisk.train"}

silence_telemetry()  # before any library that sends telemetry is imported


class _Callable(ModuleType):
    """A package that can be called: ``vidrisk.train`` holds modules, and ``vidrisk.train(…)`` trains."""

    @property
    def _function(self) -> Any:
        return getattr(import_module("vidrisk.api"), self.__name__.rpartition(".")[2])

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._function(*arguments, **options)

    @property
    def __signature__(self) -> Any:
        """Signature that ``help`` and editors show."""
        from inspect import signature

        return signature(self._function)


class _Package(ModuleType):
    """Module type that makes the sub-packages ``export`` and ``train`` callable, whoever imports them first."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("export", "train") and type(value) is ModuleType:
            value.__class__ = _Callable
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


if not TYPE_CHECKING:  # mypy would accept every name

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return import_module(_MODULES[name])
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
