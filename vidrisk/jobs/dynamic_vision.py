"""A run's vision tower with a dynamic grid, for other programs, in a folder that appears if the export succeeds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vidrisk.export.dynamic import write_dynamic_graph
from vidrisk.models.run import Run
from vidrisk.runtimes.contract.bundle import whole_folder
from vidrisk.runtimes.contract.progress import OnProgress, ignore_progress


@contextmanager
def dynamic_vision_folder(run: Path, out: Path | None, on_progress: OnProgress = ignore_progress) -> Iterator[None]:
    """Write the vision tower of a run as one graph for images of any size.

    The block runs once the graph has been judged.

    Args:
        run: with the vision tower.
        out: folder to make, which appears when the block succeeds; None makes none.
        on_progress: reports the steps.

    Raises:
        BundleError: ``out`` exists, or the run is damaged.
        GateRefused: the graph's results differ from the model's.
    """
    if out is None:
        yield
        return
    with whole_folder(out) as staging:
        _write(Run.open(run), staging, on_progress)
        yield


def _write(run: Run, folder: Path, on_progress: OnProgress) -> None:
    on_progress("reading the vision tower", 0, 1)
    graph = run.load_classifier().dynamic_vision()
    assert graph is not None, "check_folders refuses other families"
    write_dynamic_graph(graph, folder, on_progress)
