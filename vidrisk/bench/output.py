"""The files that a bench is written to: JSON, and a plot beside it."""

from __future__ import annotations

from pathlib import Path

from vidrisk.bench.measurements import Bench
from vidrisk.runtimes.contract.errors import SettingsError, is_installed


def check_output(path: Path) -> None:
    """Refuse what ``write_bench`` could not write, before the time is spent.

    Raises:
        SettingsError: a folder, or the name that the plot will have.
    """
    if path.is_dir():
        raise SettingsError(f"{path} is a folder", allowed="a JSON file to write")
    if path.suffix.lower() == ".png":
        raise SettingsError(f"{path} is where the plot would go", allowed="a JSON file to write")


def write_bench(bench: Bench, path: Path) -> None:
    """Write the JSON, and beside it a plot of latency and throughput where matplotlib is installed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(bench.to_json() + "\n", encoding="utf-8")
    if is_installed("matplotlib"):
        from vidrisk.bench.speed_plot import plot_bench  # only where matplotlib is

        plot_bench(path.with_suffix(".png"), bench)
