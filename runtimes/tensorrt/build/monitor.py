"""Progress monitor of a build, which can also cancel it."""

from __future__ import annotations

from typing import Any

from vidrisk.runtimes.tensorrt.api import Api

PERCENT = 100


def new_monitor(api: Api) -> Any:
    """Create a progress monitor for TensorRT.

    ``percent`` is the progress of the build, assuming that all steps of a phase take equally long. Setting
    ``cancelled`` stops the build at its next step. TensorRT calls the monitor from its own threads.
    """
    trt: Any = api.trt

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)  # required by pybind11
            self.percent = 0
            self.cancelled = False
            self._phases: dict[str, tuple[str | None, int, int]] = {}  # phases in progress: parent, steps, steps done

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self._phases[phase] = parent, max(steps, 1), 0

        def step_complete(self, phase: str, step: int) -> bool:
            if phase in self._phases:
                parent, steps, _ = self._phases[phase]
                self._phases[phase] = parent, steps, min(step + 1, steps)
            self.percent = max(self.percent, int(PERCENT * self._part_done(None)))
            return not self.cancelled

        def phase_finish(self, phase: str) -> None:
            self._phases.pop(phase, None)

        def _part_done(self, parent: str | None) -> float:
            """Return the share of the current step of ``parent`` that its phases have completed."""
            under_way = [*self._phases.items()]
            parts = ((done + self._part_done(phase)) / steps for phase, (of, steps, done) in under_way if of == parent)
            return min(max(parts, default=0.0), 1.0)

    return Monitor()
