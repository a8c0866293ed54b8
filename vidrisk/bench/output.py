"""Output files of a benchmark: JSON, and a plot beside it."""

from __future__ import annotations

from pathlib import Path

from vidrisk.bench.measurements import Bench
from vidrisk.runtimes.contract.errors import SettingsError, is_installed
from vidrisk.runtimes.contract.outputs import refuse_below_file


def check_output(path: Path) -> None:
    """Refuse a path that ``write_bench`` could not write, before time is spent.

    Raises:
        SettingsError: it is a folder, lies below a file, or is the name that the plot will have.
    """
    refuse_below_file(path)
    if path.is_dir():
        raise SettingsError(f"{path} is a folder", allowed="a JSON file to write")
    if path.suffix.lower() == ".png":
        raise SettingsError(f"{path} is where the plot would go", allowed="a JSON file to write")


def write_bench(bench: Bench, path: Path) -> None:
    """Write the JSON and, if matplotlib is installed, a plot of latency and throughput beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(bench.to_json() + "\n", encoding="utf-8")
    if is_installed("matplotlib"):
        from vidrisk.bench.speed_plot import plot_bench  # only with matplotlib

        plot_bench(path.with_suffix(".png"), bench)
