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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vidrisk.data import Sample, Table
from vidrisk.models.classifier import ClipClassifier
from vidrisk.models.encoders import build_encoder, default_pixel, pixel_spec
from vidrisk.models.heads import Head, HeadKind
from vidrisk.models.lora import add_lora, load_adapter, save_adapter
from vidrisk.models.weights import load_tensors, save_tensors
from vidrisk.runtimes.contract import Contract, Guidance, Sealed, Target
from vidrisk.runtimes.errors import BundleError, SettingsError, SpecError, require
from vidrisk.runtimes.specs import PixelSpec, TimeSpec
from vidrisk.train.config import TrainConfig, config_from_options, write_config

CONFIG, LABELS, ADAPTER, HEAD, SPLIT, METRICS = (
    "config.yaml", "labels.json", "adapter", "head.safetensors", "split.parquet", "metrics.json")


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
            labels = Labels.model_validate_json((root / LABELS).read_bytes())
        except (ValidationError, SpecError) as error:
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

    def load_classifier(self) -> ClipClassifier:
        """The trained model on the CPU, adapter unmerged, in evaluation mode.

        Raises:
            BundleError: weights are missing or do not fit the configuration.
        """
        model = build_classifier(self.config, self.contract, with_lora=False)
        if (self.root / ADAPTER).is_dir():
            load_adapter(model.encoder, self.root / ADAPTER)
        elif self.config.lora.last_blocks != 0:
            raise BundleError(f"{self.root} lacks its {ADAPTER} folder", fix="copy the run whole, or train it again")
        weights = load_tensors(self.root / HEAD)
        try:
            model.head.load_state_dict(weights)
        except RuntimeError as error:
            raise BundleError(f"{self.root / HEAD} does not fit the run: {str(error).splitlines()[0]}",
                              fix="copy the run whole, or train it again") from error
        return model.eval()

    def save(self, model: ClipClassifier) -> None:
        """Write configuration, labels and trained weights."""
        self.root.mkdir(parents=True, exist_ok=True)
        write_config(self.config, self.root / CONFIG)
        (self.root / LABELS).write_text(self.labels.model_dump_json(indent=2) + "\n", encoding="utf-8")
        if self.config.lora.last_blocks != 0:
            save_adapter(model.encoder, self.root / ADAPTER)
        save_tensors(model.head.state_dict(), self.root / HEAD)

    def write_split(self, table: Table) -> None:
        """Record who was in which split: absolute path, name, labels, split."""
        pa: Any = require("pyarrow", "train")
        parquet: Any = require("pyarrow.parquet", "train")
        rows = [{"path": str(s.path), "name": s.name, "split": s.split, "group": s.group, **s.labels} for s in table.samples]
        parquet.write_table(pa.Table.from_pylist(rows), self.root / SPLIT)

    def read_split(self) -> Table:
        """The table that the run was trained on, splits included.

        Raises:
            BundleError: ``split.parquet`` is missing or damaged.
        """
        parquet: Any = require("pyarrow.parquet", "train")
        try:
            rows = parquet.read_table(self.root / SPLIT).to_pylist()
            samples = tuple(Sample(path=Path(row["path"]), name=row["name"], split=row["split"], group=row["group"],
                                   labels={t.name: row[t.name] for t in self.labels.targets}) for row in rows)
        except (OSError, ValueError, KeyError) as error:
            raise BundleError(f"{self.root / SPLIT} cannot be read: {error}",
                              fix="copy the run whole, or train it again") from error
        return Table(root=self.root, task=self.config.task, samples=samples)

    def write_metrics(self, metrics: dict[str, Any]) -> None:
        (self.root / METRICS).write_text(json.dumps(metrics, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


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


def build_classifier(config: TrainConfig, contract: Contract, *, with_lora: bool) -> ClipClassifier:
    """A model with pretrained encoder and fresh head; ``with_lora`` adds fresh adapters and freezes the rest."""
    encoder = build_encoder(config.backbone, pixel=dataclasses.asdict(contract.pixel), pool=config.pool)
    encoder.requires_grad_(False)
    encoder.is_frozen = config.lora.last_blocks == 0
    if with_lora and not encoder.is_frozen:
        lora = config.lora
        add_lora(encoder, rank=lora.rank, alpha=lora.alpha, dropout=lora.dropout, last_blocks=lora.last_blocks)
    kind: HeadKind = config.head.kind if config.head.kind != "auto" else ("segments" if contract.time else "linear")
    head = Head(kind, width=encoder.width, frames=contract.frames, targets=contract.targets, hidden=config.head.hidden,
                dropout=config.head.dropout)
    return ClipClassifier(encoder, head)
