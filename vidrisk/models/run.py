"""A run directory: what training leaves, and everything needed to repeat it, go on, evaluate or export.

    config.yaml          the whole configuration, pixel and time specs resolved
    labels.json          targets and guidance: with config.yaml, the contract
    adapter/             LoRA (PEFT, safetensors); absent when the encoder stayed frozen
    head.safetensors     the head
    metrics.json         best epoch, validation and test metrics
    split.parquet        who was in train, val and test
    checkpoints/         last epoch, for --resume
    tensorboard/, plots/
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vidrisk.data import Sample, Table
from vidrisk.files.paths import is_unicode
from vidrisk.frames import Interval
from vidrisk.models.classifier import ADAPTER, HEAD, ClipClassifier
from vidrisk.models.config import TrainConfig, config_from_options, write_config
from vidrisk.models.encoders import build_encoder, default_pixel, pixel_spec
from vidrisk.models.families import Source, family_of
from vidrisk.models.heads import Head, HeadKind
from vidrisk.models.lora import add_lora
from vidrisk.models.trainable import TrainableModel
from vidrisk.runtimes.contract import versions
from vidrisk.runtimes.contract.contract import Contract, Guidance, Sealed, Target
from vidrisk.runtimes.contract.errors import BundleError, DataError, SettingsError, SpecError, require
from vidrisk.runtimes.contract.specs import PixelSpec, TimeSpec

CONFIG, LABELS, SPLIT, METRICS = "config.yaml", "labels.json", "split.parquet", "metrics.json"


class Labels(Sealed):
    """Content of ``labels.json``."""

    targets: tuple[Target, ...]
    guidance: tuple[Guidance, ...] = ()
    clips: bool


@dataclass(frozen=True)
class Run:
    """Configuration and contract of a run directory; the weights are read by ``load_classifier``."""

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
        missing = [name for name in (CONFIG, LABELS, HEAD) if not (root / name).is_file()]
        if missing:
            raise BundleError(f"{root} is no finished run: it lacks {', '.join(missing)}", fix="vidrisk train DATA -o RUN")
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
        """sha256 over the trained weights: head, then adapter."""
        digest = hashlib.sha256((self.root / HEAD).read_bytes())
        adapter = self.root / ADAPTER / "adapter_model.safetensors"
        digest.update(adapter.read_bytes() if adapter.is_file() else b"")
        return digest.hexdigest()

    def load_classifier(self) -> TrainableModel:
        """The trained model on the CPU, adapter unmerged, in evaluation mode. Its backbone must be on this machine: the run may be
        a stranger's, and chooses nothing that is fetched.

        Raises:
            BundleError: weights are missing or do not fit the configuration.
        """
        model = build_classifier(self.config, self.contract, with_lora=False, local_only=True)
        model.load(self.root)
        return model.eval()

    def save(self, model: TrainableModel) -> None:
        """Write configuration, labels and trained weights."""
        self.root.mkdir(parents=True, exist_ok=True)
        write_config(self.config, self.root / CONFIG)
        labels = versions.LABELS.stamp(self.labels.model_dump(mode="json"))
        (self.root / LABELS).write_text(json.dumps(labels, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        model.save(self.root)

    def write_split(self, table: Table) -> None:
        """Record who was in which split: absolute path, name, interval, labels, split. Paths and names are bytes where one is no
        UTF-8."""
        pa: Any = require("pyarrow", "train")
        parquet: Any = require("pyarrow.parquet", "train")
        encoded = str if is_unicode(str(s.path) for s in table.samples) else os.fsencode
        rows = [{"path": encoded(str(s.path)), "name": encoded(s.name), "split": s.split, "group": s.group, **s.labels,
                 **_interval_fields(s.interval)} for s in table.samples]
        table_of_rows = pa.Table.from_pylist(rows).replace_schema_metadata({f"vidrisk.{versions.VERSION}": str(versions.SPLIT)})
        parquet.write_table(table_of_rows, self.root / SPLIT)

    def read_split(self) -> Table:
        """The table that the run was trained on, splits included.

        Raises:
            BundleError: ``split.parquet`` is missing or damaged.
        """
        parquet: Any = require("pyarrow.parquet", "train")
        try:
            found = parquet.read_table(self.root / SPLIT)
            version = (found.schema.metadata or {}).get(f"vidrisk.{versions.VERSION}".encode())
            versions.SPLIT.is_newer(version.decode("utf-8", "replace") if version else None)  # other columns are not read
            rows = found.to_pylist()
            samples = tuple(Sample(path=Path(os.fsdecode(row["path"])), name=os.fsdecode(row["name"]),
                                   split=row["split"], group=row["group"],
                                   labels={t.name: row[t.name] for t in self.labels.targets},
                                   interval=_interval_from_fields(row)) for row in rows)
        except (OSError, ValueError, KeyError, TypeError, SpecError, DataError) as error:
            raise BundleError(f"{self.root / SPLIT} cannot be read: {error}",
                              fix="copy the run whole, or train it again") from error
        return Table(root=self.root, task=self.config.task, samples=samples)

    def write_metrics(self, metrics: dict[str, Any]) -> None:
        text = json.dumps(versions.METRICS.stamp(metrics), indent=2, ensure_ascii=False)
        (self.root / METRICS).write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def _interval_fields(interval: Interval | None) -> dict[str, Any]:
    """Columns of ``split.parquet``; runs of earlier versions have none."""
    values = (None, None, None) if interval is None else (float(interval.start), float(interval.end), interval.unit)
    return dict(zip(("interval_start", "interval_end", "interval_unit"), values, strict=True))


def _interval_from_fields(row: Mapping[str, Any]) -> Interval | None:
    if row.get("interval_unit") is None:
        return None
    return Interval(row["interval_start"], row["interval_end"], row["interval_unit"])


def resolved(config: TrainConfig, *, clips: bool) -> TrainConfig:
    """The configuration with nothing left to defaults or to the folder it was run in.

    Mean, deviation, size and filter are the backbone's own. Clips are cropped, so that the aspect ratio of a camera does not
    give the label away; photos are squashed, so that a defect at the rim is not cut off.
    """
    pixel = pixel_spec(default_pixel(config.backbone), {"resize": "crop" if clips else "squash", **config.pixel})
    # A mirrored swipe to the left is a swipe to the right: clips are augmented only when asked for.
    augment = config.augment if config.augment is not None else ("flip",) if config.task == "risk" else ()
    folder = Path(config.backbone)
    backbone = str(folder.resolve()) if folder.is_dir() else config.backbone
    return config.model_copy(update={"backbone": backbone, "pixel": dataclasses.asdict(pixel), "augment": augment})


def contract_from_config(config: TrainConfig, labels: Labels) -> Contract:
    """The contract of a resolved configuration."""
    pixel = {key: tuple(value) if isinstance(value, list) else value for key, value in config.pixel.items()}
    return Contract(task=config.task, pixel=pixel_spec(PixelSpec(), pixel), targets=labels.targets,
                    time=TimeSpec(config.frames) if labels.clips else None, guidance=labels.guidance)


def build_classifier(config: TrainConfig, contract: Contract, *, with_lora: bool, local_only: bool = False) -> TrainableModel:
    """Build a pretrained model with a fresh head; ``with_lora`` adds fresh adapters and freezes the rest.

    Args:
        local_only: see ``build_encoder``.
    """
    build = family_of(Source(config.backbone, local_only)).build or build_clip_classifier
    return build(config, contract, with_lora=with_lora, local_only=local_only)


def build_clip_classifier(config: TrainConfig, contract: Contract, *, with_lora: bool, local_only: bool = False) -> ClipClassifier:
    """Build an encoder and a head: what a family without a ``build`` of its own is."""
    encoder = build_encoder(config.backbone, pixel=dataclasses.asdict(contract.pixel), pool=config.pool, frames=contract.frames,
                            local_only=local_only)
    encoder.requires_grad_(False)
    encoder.is_frozen = config.lora.last_blocks == 0
    if with_lora and not encoder.is_frozen:
        lora = config.lora
        add_lora(encoder, rank=lora.rank, alpha=lora.alpha, dropout=lora.dropout, last_blocks=lora.last_blocks)
    sees_order = contract.time is not None and not encoder.sees_windows  # a window encoder has seen it
    kind: HeadKind = config.head.kind if config.head.kind != "auto" else ("segments" if sees_order else "linear")
    frames = None if encoder.sees_windows else contract.frames
    head = Head(kind, width=encoder.width, frames=frames, targets=contract.targets, hidden=config.head.hidden,
                dropout=config.head.dropout)
    return ClipClassifier(encoder, head)
