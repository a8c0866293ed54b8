"""Training configuration: ``config.yaml`` of a run, ``--config``, and ``--set key=value`` on the command line.

Every field has a default, so a configuration file holds only what differs. A run stores the whole configuration, with
the pixel and time specs resolved, so that it can be repeated.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationError

from vidrisk.models import Pool
from vidrisk.runtimes.contract import versions
from vidrisk.runtimes.contract.choices import Task
from vidrisk.runtimes.contract.contract import Sealed
from vidrisk.runtimes.contract.errors import DataError, SettingsError, require

Metric = Literal["top1", "macro_f1"]
Augmentation = Literal[
    "flip", "updown", "dihedral", "zoom", "crop", "light", "colour", "still", "erase", "rand", "speed"
]


class LoraSettings(Sealed, allow_inf_nan=False):
    """LoRA adapters: which layers they adapt, and how.

    ``last_blocks`` adapts only that many of the last blocks; 0 leaves the encoder frozen, null adapts all of them.
    Layers below the first adapted block of EfficientNet-Lite0 run once per view (see ``views``), not once per epoch.
    ``targets`` are ends of layers' paths, such as ``q_proj``; null uses the family's default. ``parts`` selects the
    parts of a vision-language model to adapt; with 0 blocks, the embedding row of its token is not trained either.
    """

    rank: int = Field(16, ge=1, le=512)
    alpha: float = Field(16.0, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    last_blocks: int | None = Field(5, ge=0)
    dora: bool = Field(False, description="DoRA (Liu et al. 2024): magnitude and direction of weights apart")
    rslora: bool = Field(False, description="rank-stabilised scaling, alpha / sqrt(rank) (Kalajdzievski 2023)")
    targets: tuple[str, ...] | None = Field(None, min_length=1)
    parts: tuple[Literal["language", "vision"], ...] = Field(("language",), min_length=1)


class HeadSettings(Sealed):
    """The head behind an encoder or a vision-language model.

    ``linear`` and ``mlp`` average the features over time; ``segments`` and ``attention`` see their order and motion;
    ``motion`` and ``transformer`` see only order and motion, and nothing that stays constant throughout a clip.
    ``auto`` is ``linear`` for photos; for clips it is ``motion``, or ``segments`` if that is significantly better.

    Behind a vision-language model, ``linear``, ``mlp`` and ``transformer_no_vision`` see the state at its token;
    ``transformer`` also sees the visual tokens; ``auto`` is ``linear``.
    """

    kind: Literal[
        "auto", "linear", "mlp", "segments", "motion", "attention", "transformer", "transformer_no_vision"
    ] = "auto"
    hidden: int = Field(256, ge=8, le=4096)
    dropout: float = Field(0.3, ge=0, lt=1)
    start: Literal["probe", "zero"] = Field(
        "probe", description="initial linear classifiers: a logistic regression on the unadapted features, or zero"
    )
    layers: int = Field(2, ge=1, le=24, description="blocks of a transformer head")
    heads: int = Field(8, ge=1, le=64, description="attention heads of a transformer head")


class PromptPair(Sealed):
    """A question about the input, and a reply that contains the model's token once."""

    question: str = Field(min_length=1, max_length=2000)
    reply: str = Field(min_length=1, max_length=2000)


MERGE = "<<"  # YAML's key for the keys of another mapping
FILE, PAIRS = "file", "pairs"
Prompts = Annotated[
    Annotated[Path, Tag(FILE)] | Annotated[tuple[PromptPair, ...], Tag(PAIRS)],
    Discriminator(lambda value: FILE if isinstance(value, str | Path) else PAIRS),
]


class VlmSettings(Sealed, allow_inf_nan=False):
    """How a vision-language model classifies: by the state at a token of the reply that training adds.

    Attributes:
        token: the token that is added.
        prompts: pairs of question and reply, or a YAML file of them, from which training draws; null uses vidrisk's
            own.
        fixed_prompt: number of the pair, from 0, for validation and export.
        system: system text of the conversation; null leaves it to the backbone's chat template. Fewer tokens are
            faster.
        question_first: whether the question precedes the visual tokens. Text before them is computed once, at export,
            so that inference is faster; published models were trained with the question after them.
        language_loss: weight of the language-model loss on the reply, beside the classes' cross-entropy.
        max_tokens: limit for the whole sequence; a longer one is refused, never truncated.
        grid: averages of a composed model's feature map per side: 2 gives 4 visual tokens per frame; null keeps all.
        fps: nominal frames per second assumed for positions in time: moments are spread evenly over clips of any
            length.
        weights: data type of frozen weights during training. 4bit needs bitsandbytes.
    """

    token: str = Field("<ACT>", pattern=r"^<[A-Za-z0-9_|]{1,30}>$")
    prompts: Prompts | None = None
    fixed_prompt: int = Field(0, ge=0)
    system: str | None = Field(None, max_length=4000)
    question_first: bool = False
    language_loss: float = Field(0.1, ge=0)
    max_tokens: int = Field(4096, ge=8)
    grid: int | None = Field(2, ge=1, le=64)
    fps: float = Field(2.0, gt=0)
    weights: Literal["float32", "bfloat16", "4bit"] = "float32"


MAX_ANSWER_TOKENS, DEFAULT_ANSWER_TOKENS = 8192, 256
ANSWER_MARGIN = 1.5  # limit for generated answers, relative to the longest training answer


class ReportSettings(Sealed):
    """Training of a model that writes reports.

    Attributes:
        scheme: of levels and fields: the name of a built-in scheme, or a file; null uses the one stored with the data,
            else three-levels. Instruction data have none.
        photos: the folder that paths of photos are relative to; null for that of the data.
        answer_tokens: most tokens of an answer at inference; null for one and a half times the longest answer of the
            training data.
        longest_answer: tokens of the longest answer of the training data; written by training.
        choice_weight: weight in the loss of each token that names a level or another choice; other tokens have weight
            1. Such tokens are few, and the text after them depends on them.
    """

    scheme: str | None = None
    photos: str | None = None
    answer_tokens: int | None = Field(None, ge=1, le=MAX_ANSWER_TOKENS)
    longest_answer: int | None = Field(None, ge=1)
    choice_weight: float = Field(10.0, gt=0, le=1000, allow_inf_nan=False)

    @property
    def answer_limit(self) -> int:
        """Most tokens of an answer at inference."""
        if self.answer_tokens is not None or self.longest_answer is None:
            return self.answer_tokens or DEFAULT_ANSWER_TOKENS
        return min(int(self.longest_answer * ANSWER_MARGIN) + 8, MAX_ANSWER_TOKENS)


DEFAULT_HEAD_LR = 1e-3  # for a head that starts at zero


class OptimSettings(Sealed, allow_inf_nan=False):
    """AdamW with its own learning rates, linear warm-up, cosine decay to zero.

    A vision-language model's projector keeps its weights if ``projector_lr`` is 0; null is the family's default: 0.001
    for a composed model, whose projector is new, and 0 for others. A null ``head_lr`` is 0.0001 if the head starts at a
    probe, and 0.001 if it starts at zero.

    Attributes:
        class_weights: treatment of rare classes. ``drawn`` draws their samples more often, by the square root of how
            rare they are, and keeps the probabilities those of the data; ``auto`` is ``drawn`` if the largest class of
            a target has more than ten times the samples of the smallest, else ``none``. ``sqrt`` and ``balanced``
            weight rare classes in the loss, which also raises their probabilities.
    """

    epochs: int = Field(10, ge=1, le=10_000)
    batch_size: int = Field(16, ge=1)
    accumulate: int = Field(1, ge=1)
    lora_lr: float = Field(2e-4, ge=0)
    head_lr: float | None = Field(None, ge=0)
    token_lr: float = Field(1e-3, ge=0)
    projector_lr: float | None = Field(None, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    warmup: float = Field(0.1, ge=0, le=1, description="fraction of all steps")
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    mixup: float = Field(0.0, ge=0, le=10, description="alpha of mixup; 0: samples are not mixed")
    cutmix: float = Field(0.0, ge=0, le=10, description="alpha of CutMix")
    class_weights: Literal["auto", "drawn", "none", "sqrt", "balanced"] = "auto"
    clip_norm: float = Field(1.0, gt=0)
    average: float = Field(
        0.0, ge=0, lt=1, description="decay per step of a moving average of the weights, which is kept; 0: no average"
    )
    patience: int | None = Field(None, ge=1, description="epochs without a better validation metric before stopping")
    metric: Metric = Field(
        "top1", description="metric that selects the best epoch; for multi-label targets mAP, or macro_f1"
    )


class TrainConfig(Sealed):
    """Complete configuration of a training run, except for the data."""

    task: Task = "action"
    backbone: str = "efficientnet-lite0"
    pool: Pool = "auto"
    pixel: dict[str, Any] = Field(default_factory=dict)
    frames: int = Field(
        8,
        ge=1,
        le=512,
        description="moments per clip; photos have one. Frame encoders use 16 per clip, in pairs, if neither this nor "
        "rgb_diff is given",
    )
    jitter: Literal[1, 3, 5, 7, 9] = Field(1, description="moments read per moment used; training uses any of them")
    rgb_diff: bool = Field(
        False, description="replace every second moment of a clip by its difference from the moment before"
    )
    level_order: tuple[str, ...] | None = None
    multi_label: bool = Field(
        False, description="any number of classes may hold for a sample; a cell of the data may list several"
    )
    lora: LoraSettings = LoraSettings()
    head: HeadSettings = HeadSettings()
    vlm: VlmSettings = VlmSettings()
    report: ReportSettings = ReportSettings()
    optim: OptimSettings = OptimSettings()
    augment: tuple[Augmentation, ...] | None = Field(
        None, description="by default flip, zoom, light and still for clips, and flip for photos of defects"
    )
    seed: int = Field(0, ge=0, le=2**31)
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 if the processor supports it")
    gradient_checkpointing: bool = False
    workers: int = Field(0, ge=0)
    cache_mb: int = Field(512, ge=0, description="decoded frames, or views, kept in memory between epochs")
    disk_cache_mb: int = Field(
        20_480, ge=0, description="as cache_mb, in a file of the run, for what memory cannot hold"
    )
    views: int = Field(
        4, ge=0, le=64, description="augmented views per sample that pass the frozen layers only once; 0: none"
    )
    group_by: str | None = None
    compare: bool = Field(True, description="compare LoRA with the head alone and with the probe after training")
    start: str | None = Field(None, description="sha256 of the weights that the run started from; written by training")
    decoder: Literal["auto", "pyav", "decord"] = "auto"
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = Field(("tensorboard",), description="where to log curves")


def config_from_options(
    path: Path | None = None,
    assignments: Sequence[str] = (),
    settings: Mapping[str, object] | None = None,
    without: Collection[str] = (),
    **options: Any,
) -> TrainConfig:
    """Build a configuration from defaults, a YAML file, options, settings and assignments; later sources win.

    Args:
        path: a YAML file, or None.
        assignments: such as ``optim.epochs=3``; values are read as YAML, so lists and null work.
        settings: values by dotted names, such as ``{"optim.epochs": 3}``.
        without: dotted names of settings that are not taken from the file.
        options: top-level fields; None means not given. They override the file.

    Raises:
        SettingsError: an unreadable file, an unknown key, or a value out of range; names the key.
    """
    yaml: Any = require("yaml", "train")
    values: dict[str, Any] = {}
    try:
        if path is not None:
            text = path.read_text(encoding="utf-8")
            _check_keys(yaml.compose(text, Loader=yaml.SafeLoader), path)
            loaded = yaml.safe_load(text) or {}
            if not isinstance(loaded, Mapping):
                raise SettingsError(f"{path} holds a {type(loaded).__name__}", allowed="a mapping of settings")
            values.update(loaded)
            if options.get("backbone") not in (None, values.get("backbone")):
                values.pop("pixel", None)  # size, mean and deviation belong to the file's backbone
                values.pop("pool", None)
                if values.pop("rgb_diff", None):  # not every backbone sees single frames
                    values.pop("frames", None)
            for name in without:
                _drop(values, name.split("."))
        values.update({key: value for key, value in options.items() if value is not None})
        for name, value in (settings or {}).items():
            _assign(values, name.split("."), value)
        for assignment in assignments:
            key, equals, text = assignment.partition("=")
            if not equals:
                raise SettingsError(f"the setting {assignment!r}", allowed="key=value, for example optim.epochs=3")
            if not all(part.strip() for part in key.split(".")):
                raise SettingsError(
                    f"a setting without a name: {assignment!r}", allowed="key=value, for example optim.epochs=3"
                )
            _assign(values, key.strip().split("."), yaml.safe_load(text))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read {path}: {error}") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"not valid YAML: {error}") from error
    except RecursionError as error:
        raise SettingsError("not valid YAML: nested too deeply") from error
    try:
        return versions.CONFIG.read_model(values, TrainConfig)
    except DataError as error:
        raise SettingsError(error.what, allowed=error.allowed, fix=error.fix) from error
    except ValidationError as error:
        first = error.errors()[0]
        keys = [key for key in first["loc"] if key not in (FILE, PAIRS)]
        where = ".".join(map(str, keys))
        line = _line_of(path, keys, first["input"])
        place = f" ({path} line {line})" if line else ""
        if first["type"] == "extra_forbidden":
            known = ", ".join(_settings_around(keys).model_fields)
            raise SettingsError(f"unknown setting {where}{place}", allowed=known) from error
        given = first["input"]
        shown = f" (given: {str(given)[:40]!r})" if isinstance(given, str | int | float) else ""
        raise SettingsError(f"setting {where}: {first['msg']}{shown}{place}") from error


def _settings_around(keys: Sequence[str | int]) -> type[Sealed]:
    """Return the settings class that a key belongs to."""
    if keys[:2] == ["vlm", "prompts"]:
        return PromptPair
    sections: dict[object, type[Sealed]] = {
        "lora": LoraSettings,
        "head": HeadSettings,
        "vlm": VlmSettings,
        "optim": OptimSettings,
        "report": ReportSettings,
    }
    return sections.get(keys[0], TrainConfig)


def _check_keys(node: Any, path: Path, around: tuple[int, ...] = (), known: set[int] | None = None) -> None:
    """Refuse a mapping that has a key twice: YAML would keep the last one and drop the contents of the first.

    Args:
        node: YAML node to check.
        path: of the file, for messages.
        around: ids of the nodes that contain this one.
        known: ids of the nodes checked before; an alias refers to one of them again.

    Raises:
        SettingsError: a key occurs twice, or a node contains itself.
    """
    known = set() if known is None else known
    if id(node) in around:
        raise SettingsError(
            f"a setting contains itself ({path} line {node.start_mark.line + 1})", allowed="aliases of other settings"
        )
    if node is None or node.id == "scalar" or id(node) in known:
        return
    known.add(id(node))
    lines: dict[str, int] = {}
    for key, value in node.value if node.id == "mapping" else ((None, item) for item in node.value):
        if key is not None and key.id == "scalar" and key.value != MERGE:
            line = key.start_mark.line + 1
            if key.value in lines:
                twice = f"lines {lines[key.value]} and {line}"
                raise SettingsError(f"setting {key.value} occurs twice ({path} {twice})", allowed="once")
            lines[key.value] = line
        _check_keys(value, path, (*around, id(node)), known)


def _line_of(path: Path | None, keys: Sequence[str | int], value: object) -> int | None:
    """Return the line, from 1, at which a YAML file holds a value under a key, or None if the file lacks the value.

    For a key that YAML reads as something else (``on``) or that is merged in (``<<``), it is the line of the section.
    """
    if path is None:
        return None
    yaml: Any = require("yaml", "train")
    text = path.read_text(encoding="utf-8")
    node, held, line = yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text), None
    for key in keys:
        is_map = isinstance(node, yaml.MappingNode) and key in held
        if not is_map and not (isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(held)):
            break
        found = [pair for pair in node.value if pair[0].value == str(key)] if is_map else [(node.value[key],) * 2]
        if not found:
            return line
        name, node = found[0]
        line, held = name.start_mark.line + 1, held[key]
    return line if held == value else None


def _assign(values: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        below = values.get(key)
        values[key] = dict(below) if isinstance(below, Mapping) else {}
        values = values[key]
    values[keys[-1]] = value


def _drop(values: dict[str, Any], keys: list[str]) -> None:
    if len(keys) == 1:
        values.pop(keys[0], None)
    elif isinstance(below := values.get(keys[0]), Mapping):
        values[keys[0]] = dict(below)
        _drop(values[keys[0]], keys[1:])


def write_config(config: TrainConfig, path: Path) -> None:
    yaml: Any = require("yaml", "train")
    values = versions.CONFIG.stamp(config.model_dump(mode="json"))
    path.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")
