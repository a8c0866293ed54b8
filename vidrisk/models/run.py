"""A run directory: the results of training, and everything needed to repeat, resume, evaluate or export it.

The files:

    config.yaml          the whole configuration, pixel and time specs resolved
    labels.json          targets and guidance: with config.yaml, the contract
    adapter/             LoRA, and the row of a token (PEFT, safetensors); absent if the backbone stayed frozen
    head.safetensors     the head
    projector.safetensors, prompt.json    of a vision-language model
    base/                weights of the earlier run that this one started from, merged first; may itself have a base
    metrics.json         best epoch, validation and test metrics
    split.parquet        samples in train, val and test
    checkpoints/         last epoch, for --resume
    tensorboard/, plots/
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vidrisk.data import Sample, Table
from vidrisk.data.scheme import Scheme
from vidrisk.data.scheme_file import load_scheme
from vidrisk.data.table import Label
from vidrisk.files.paths import is_unicode
from vidrisk.frames import Interval
from vidrisk.models.bases import BASE, bases_of, load_bases, start_digest, weight_files
from vidrisk.models.classifier import ADAPTER, HEAD
from vidrisk.models.config import TrainConfig, config_from_options, write_config
from vidrisk.models.pretrained import Labels, build_classifier, build_reporter, contract_from_config
from vidrisk.models.trainable import Trainable, TrainableModel
from vidrisk.models.vlm.reporter import CHAT, Reporter
from vidrisk.models.weights import COPY_WHOLE
from vidrisk.runtimes.contract import versions
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.errors import BundleError, DataError, SettingsError, SpecError, require

CONFIG, LABELS, SPLIT, METRICS, SCHEME = "config.yaml", "labels.json", "split.parquet", "metrics.json", "scheme.json"
# Settings that depend on the data of a run.
OF_DATA = ("group_by", "report.scheme", "report.photos", "report.longest_answer", "optim.class_weights")
SOURCE = "data.json"  # of a run of task report: location of its data, and the split of each sample


@dataclass(frozen=True)
class Run:
    """Configuration and contract of a run directory.

    The weights are read by ``load_classifier`` or ``load_reporter``.
    """

    root: Path
    config: TrainConfig
    labels: Labels

    @classmethod
    def open(cls, root: str | Path) -> Run:
        """Read a run directory.

        Raises:
            BundleError: not a run directory, incomplete or damaged.
        """
        root = Path(root)
        trained = CHAT if (root / CHAT).is_file() else HEAD
        missing = [name for name in (CONFIG, LABELS, trained) if not (root / name).is_file()]
        if missing:
            raise BundleError(
                f"{root} is not a finished run: it lacks {', '.join(missing)}", fix="vidrisk train DATA -o RUN"
            )
        try:
            labels = versions.LABELS.read_model(json.loads((root / LABELS).read_bytes()), Labels)
        except (ValueError, SpecError, DataError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            raise BundleError(f"{root / LABELS} is damaged: {reason}", fix="train the run again") from error
        try:
            config = config_from_options(root / CONFIG)
        except SettingsError as error:
            raise BundleError(f"{root / CONFIG} is damaged: {error}", fix="train the run again") from error
        return cls(root, config, labels)

    @property
    def contract(self) -> Contract:
        return contract_from_config(self.config, self.labels)

    @property
    def digest(self) -> str:
        """sha256 over the trained weights: head, adapter, then the others by name."""
        first = [self.root / HEAD, self.root / ADAPTER / "adapter_model.safetensors"]
        digest = hashlib.sha256()
        for path in [*first, *(path for path in weight_files(self.root) if path not in first)]:
            digest.update(path.read_bytes() if path.is_file() else b"")
        return digest.hexdigest()

    @property
    def bases(self) -> list[Path]:
        """Folders of the runs that this one started from, the earliest first."""
        return bases_of(self.root)

    def load_classifier(self) -> TrainableModel:
        """Load the trained model on the CPU, adapter unmerged, in evaluation mode.

        Its backbone must be on this machine: the run may be from an untrusted source, and must not choose what is
        downloaded.

        Raises:
            BundleError: weights are missing or do not fit the configuration.
        """
        if self.config.task == "report":
            raise BundleError(
                f"{self.root} is a run that writes reports, not a classifier", fix="vidrisk export RUN -o BUNDLE"
            )
        model = build_classifier(self._config_in_float32, self.contract, local_only=True)
        self._load_backbone(model)
        model.load_head(self.root)
        return model.eval()

    def load_reporter(self, *, merged: bool = False) -> Reporter:
        """Load the trained model that writes reports, on the CPU, in evaluation mode.

        Its backbone must be on this machine.

        Args:
            merged: merge the adapter into the weights.

        Raises:
            BundleError: weights are missing or do not fit the configuration, the tokenizer is a different one, or the
                run is that of a classifier.
        """
        if self.config.task != "report":
            raise BundleError(
                f"{self.root} is a run of a classifier and does not write reports",
                allowed="runs of task report",
                fix="vidrisk train DATA -o RUN --task report",
            )
        model = build_reporter(self._config_in_float32, self.contract.pixel, local_only=True)
        self._load_backbone(model)
        model.check_folder(self.root)
        if merged:
            model.merge()
        return model.eval()

    @property
    def _config_in_float32(self) -> TrainConfig:
        """The configuration with weights in float32, regardless of their type in training."""
        return self.config.model_copy(update={"vlm": self.config.vlm.model_copy(update={"weights": "float32"})})

    def _load_backbone(self, model: Trainable) -> None:
        if self.config.start != (start_digest(self.root / BASE) if self.bases else None):
            raise BundleError(f"{self.root / BASE} is not what the run started from", fix=COPY_WHOLE)
        load_bases(model, self.bases)
        if self.config.lora.last_blocks != 0 and not (self.root / ADAPTER).is_dir():
            raise BundleError(f"{self.root} lacks its {ADAPTER} folder", fix=COPY_WHOLE)
        model.load_backbone(self.root)

    @property
    def scheme(self) -> Scheme | None:
        """Scheme of a run that writes reports; None for one trained on instruction data, and for a classifier.

        Raises:
            DataError: it is damaged.
        """
        path = self.root / SCHEME
        return load_scheme(path) if path.is_file() else None

    def save(self, model: Trainable) -> None:
        """Write configuration, labels and trained weights."""
        self.root.mkdir(parents=True, exist_ok=True)
        write_config(self.config, self.root / CONFIG)
        labels = versions.LABELS.stamp(self.labels.model_dump(mode="json"))
        (self.root / LABELS).write_text(json.dumps(labels, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        model.save(self.root)

    def write_split(self, table: Table) -> None:
        """Record the split of every sample: absolute path, name, interval, labels, split.

        Paths and names are bytes if any of them is not UTF-8. An unknown label is null; several labels are a list.
        """
        pa: Any = require("pyarrow", "train")
        parquet: Any = require("pyarrow.parquet", "train")
        encoded = str if is_unicode(str(s.path) for s in table.samples) else os.fsencode
        rows = [
            {
                "path": encoded(str(s.path)),
                "name": encoded(s.name),
                "split": s.split,
                "group": s.group,
                **{target: s.labels.get(target) for target in table.target_names},
                **_interval_fields(s.interval),
            }
            for s in table.samples
        ]
        table_of_rows = pa.Table.from_pylist(rows).replace_schema_metadata(
            {f"vidrisk.{versions.VERSION}": str(versions.SPLIT)}
        )
        parquet.write_table(table_of_rows, self.root / SPLIT)

    def read_split(self) -> Table:
        """Read the table that the run was trained on, splits included.

        Raises:
            BundleError: ``split.parquet`` is missing or damaged.
        """
        parquet: Any = require("pyarrow.parquet", "train")
        if self.config.task == "report":
            raise BundleError(
                f"{self.root} is a run that writes reports, without a table of labels",
                fix="vidrisk export RUN -o BUNDLE",
            )
        try:
            found = parquet.read_table(self.root / SPLIT)
            version = (found.schema.metadata or {}).get(f"vidrisk.{versions.VERSION}".encode())
            versions.SPLIT.is_newer(
                version.decode("utf-8", "replace") if version else None
            )  # other columns are not read
            rows = found.to_pylist()
            samples = tuple(
                Sample(
                    path=Path(os.fsdecode(row["path"])),
                    name=os.fsdecode(row["name"]),
                    split=row["split"],
                    group=row["group"],
                    labels={
                        t.name: _label_from_cell(row[t.name]) for t in self.labels.targets if row[t.name] is not None
                    },
                    interval=_interval_from_fields(row),
                )
                for row in rows
            )
        except (OSError, ValueError, KeyError, TypeError, SpecError, DataError) as error:
            raise BundleError(f"{self.root / SPLIT} cannot be read: {error}", fix=COPY_WHOLE) from error
        return Table(root=self.root, task=self.config.task, samples=samples)

    def write_metrics(self, metrics: dict[str, Any]) -> None:
        text = json.dumps(versions.METRICS.stamp(metrics), indent=2, ensure_ascii=False)
        staged = self.root / f"{METRICS}.tmp"
        staged.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
        staged.replace(self.root / METRICS)  # written last: it marks the run as finished


def open_start(
    start: str | os.PathLike[str] | None,
    config: str | os.PathLike[str] | None,
    assignments: Sequence[str] = (),
    settings: Mapping[str, object] | None = None,
    **options: Any,
) -> tuple[Run | None, TrainConfig]:
    """Open the run to start from, if any, and return it with the configuration of the new run.

    Args:
        start: directory of the run to start from, or None.
        config: a YAML file; None takes the settings of the run to start from, except those that depend on its data.
        assignments: see ``config_from_options``.
        settings: see ``config_from_options``.
        **options: see ``config_from_options``.

    Raises:
        BundleError: not a run directory, incomplete or damaged.
        SettingsError: as in ``config_from_options``.
    """
    run = None if start is None else Run.open(Path(start))
    if run is None or config is not None:
        return run, config_from_options(None if config is None else Path(config), assignments, settings, **options)
    return run, config_from_options(run.root / CONFIG, assignments, settings, without=OF_DATA, **options)


def _label_from_cell(cell: str | list[str]) -> Label:
    return cell if isinstance(cell, str) else tuple(cell)


def _interval_fields(interval: Interval | None) -> dict[str, Any]:
    """Return the interval columns of ``split.parquet``; runs of earlier versions have none."""
    values = (None, None, None) if interval is None else (float(interval.start), float(interval.end), interval.unit)
    return dict(zip(("interval_start", "interval_end", "interval_unit"), values, strict=True))


def _interval_from_fields(row: Mapping[str, Any]) -> Interval | None:
    if row.get("interval_unit") is None:
        return None
    return Interval(row["interval_start"], row["interval_end"], row["interval_unit"])
