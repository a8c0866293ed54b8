"""Settings of a run of reports: what to ask about every case, and how to write the answers."""

from __future__ import annotations

from dataclasses import dataclass, field

from vidrisk.decode.pool import default_workers
from vidrisk.inference.prompt_builders import MAX_MEMORY_MB
from vidrisk.inference.queries import check_question
from vidrisk.jobs.checks import check_instance, check_number


@dataclass(frozen=True)
class ReportSettings:
    """Settings of a run of reports.

    Attributes:
        workers: decode processes.
        file_timeout_s: a decoder that sends nothing for so long is killed.
        max_memory_mb: that a decode process may allocate.
        resume: continue the run in the output folder.
        parquet: also write ``predictions.parquet``.
        question: free-form question about the photos of every case; None for a report by the bundle's scheme.

    Raises:
        SettingsError: a value that is not allowed.
    """

    workers: int = field(default_factory=default_workers)
    file_timeout_s: float = 60.0
    max_memory_mb: int = MAX_MEMORY_MB
    resume: bool = False
    parquet: bool = False
    question: str | None = None

    def __post_init__(self) -> None:
        check_number(self, "workers", 1, 64, kind=int)
        check_number(self, "file_timeout_s", 0.1, 86_400)
        check_number(self, "max_memory_mb", 64, 1_048_576, kind=int)
        for name in ("resume", "parquet"):
            check_instance(self, name, bool, "True, False")
        check_instance(self, "question", str | None, "a text")
        if self.question is not None:
            check_question(self.question)
