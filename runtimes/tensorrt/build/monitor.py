"""How far a build is, and how to stop it."""

from __future__ import annotations

from typing import Any

from vidrisk.runtimes.tensorrt.api import Api

PERCENT = 100


def new_monitor(api: Api) -> Any:
    """A progress monitor for TensorRT. ``percent`` says how far the build is, as if all steps of a phase took equally long; with
    ``cancelled`` set it ends at its next step. TensorRT calls it from threads of its own.
    """
    trt: Any = api.trt

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)  # pybind11 wants it called by name
            self.percent = 0
            self.cancelled = False
            self._phases: dict[str, tuple[str | None, int, int]] = {}  # those under way: parent, steps, steps done

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
            """How much of the present step of ``parent`` its phases have done."""
            under_way = [*self._phases.items()]
            parts = ((done + self._part_done(phase)) / steps for phase, (of, steps, done) in under_way if of == parent)
            return min(max(parts, default=0.0), 1.0)

    return Monitor()
