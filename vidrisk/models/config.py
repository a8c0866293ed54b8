"""The training configuration: ``config.yaml`` of a run, ``--config`` and ``--set key=value`` on the command line.

Every field has a default, so a configuration file holds only what differs. A run stores all of it, with the pixel and time
specs resolved, so that it can be repeated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from vidrisk.models import Pool
from vidrisk.runtimes.contract import versions
from vidrisk.runtimes.contract.choices import Task
from vidrisk.runtimes.contract.contract import Sealed
from vidrisk.runtimes.contract.errors import DataError, SettingsError, require

Augmentation = Literal["flip", "updown", "dihedral", "zoom", "light"]


class LoraSettings(Sealed, allow_inf_nan=False):
    """``last_blocks`` adapts only that many of the last blocks; 0 leaves the encoder frozen, null adapts all of them.

    What lies below the first adapted block of EfficientNet-Lite0 runs once per view (see ``views``), not once per epoch.
    """

    rank: int = Field(16, ge=1, le=512)
    alpha: float = Field(16.0, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    last_blocks: int | None = Field(5, ge=0)


class HeadSettings(Sealed):
    """``linear`` and ``mlp`` average the features over time; ``segments`` and ``attention`` see their order and motion.

    ``auto`` is ``segments`` for clips and ``linear`` for photos.
    """

    kind: Literal["auto", "linear", "mlp", "segments", "attention"] = "auto"
    hidden: int = Field(256, ge=8, le=4096)
    dropout: float = Field(0.3, ge=0, lt=1)


class OptimSettings(Sealed, allow_inf_nan=False):
    """AdamW with its own learning rate for LoRA and head, linear warm-up, cosine decay to zero."""

    epochs: int = Field(10, ge=1, le=10_000)
    batch_size: int = Field(16, ge=1)
    accumulate: int = Field(1, ge=1)
    lora_lr: float = Field(2e-4, ge=0)
    head_lr: float = Field(1e-3, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    warmup: float = Field(0.1, ge=0, le=1, description="fraction of all steps")
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    class_weights: Literal["none", "sqrt", "balanced"] = "none"
    clip_norm: float = Field(1.0, gt=0)
    patience: int | None = Field(None, ge=1, description="epochs without a better validation metric before stopping")
    metric: Literal["top1", "macro_f1"] = "top1"


class TrainConfig(Sealed):
    """All of a training run but the data itself."""

    task: Task = "action"
    backbone: str = "efficientnet-lite0"
    pool: Pool = "auto"
    pixel: dict[str, Any] = Field(default_factory=dict)
    frames: int = Field(8, ge=1, le=512, description="moments per clip; photos have one")
    jitter: Literal[1, 3, 5, 7, 9] = Field(1, description="moments read per moment used, to train on any of them")
    level_order: tuple[str, ...] | None = None
    lora: LoraSettings = LoraSettings()
    head: HeadSettings = HeadSettings()
    optim: OptimSettings = OptimSettings()
    augment: tuple[Augmentation, ...] | None = Field(None, description="none, and flip for photos of defects, unless given")
    seed: int = Field(0, ge=0, le=2**31)
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where the processor computes in it")
    gradient_checkpointing: bool = False
    workers: int = Field(0, ge=0)
    cache_mb: int = Field(2048, ge=0, description="decoded frames, or views, kept in memory between epochs")
    views: int = Field(4, ge=0, le=64, description="augmented views per sample carried once through the frozen layers; 0: none")
    group_by: str | None = None
    decoder: Literal["auto", "pyav", "decord"] = "auto"


def config_from_options(path: Path | None = None, assignments: Sequence[str] = (), settings: Mapping[str, object] | None = None,
                        **options: Any) -> TrainConfig:
    """Defaults, then the YAML file, then named options, then settings and ``key=value`` assignments; the later one wins.

    Args:
        path: a YAML file, or None.
        assignments: such as ``optim.epochs=3``; values are read as YAML, so lists and null work.
        settings: values by dotted names, such as ``{"optim.epochs": 3}``.
        options: top-level fields; None means not given.

    Raises:
        SettingsError: an unreadable file, an unknown key, or a value out of range, naming the key.
    """
    yaml: Any = require("yaml", "train")
    values: dict[str, Any] = {}
    try:
        if path is not None:
            loaded = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
            if not isinstance(loaded, Mapping):
                raise SettingsError(f"{path} holds a {type(loaded).__name__}", allowed="a mapping of settings")
            values.update(loaded)
            if options.get("backbone") not in (None, values.get("backbone")):
                values.pop("pixel", None)  # size, mean and deviation were the other backbone's
                values.pop("pool", None)
        values.update({key: value for key, value in options.items() if value is not None})
        for name, value in (settings or {}).items():
            _assign(values, name.split("."), value)
        for assignment in assignments:
            key, equals, text = assignment.partition("=")
            if not equals:
                raise SettingsError(f"the setting {assignment!r}", allowed="key=value, for example optim.epochs=3")
            _assign(values, key.strip().split("."), yaml.safe_load(text))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read {path}: {error}") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"not valid YAML: {error}") from error
    try:
        return versions.CONFIG.read_model(values, TrainConfig)
    except DataError as error:
        raise SettingsError(error.what, allowed=error.allowed, fix=error.fix) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        sections: dict[str, type[Sealed]] = {"lora": LoraSettings, "head": HeadSettings, "optim": OptimSettings}
        section = sections.get(str(first["loc"][0]), TrainConfig)
        known = ", ".join(section.model_fields) if first["type"] == "extra_forbidden" else None
        raise SettingsError(f"setting {where}: {first['msg']}", allowed=known) from error


def _assign(values: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        below = values.get(key)
        values[key] = dict(below) if isinstance(below, Mapping) else {}
        values = values[key]
    values[keys[-1]] = value


def write_config(config: TrainConfig, path: Path) -> None:
    yaml: Any = require("yaml", "train")
    values = versions.CONFIG.stamp(config.model_dump(mode="json"))
    path.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")
