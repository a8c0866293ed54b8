"""Tests of the training of a model that writes reports, in the real loop.

The model learns, a run resumes and loads unchanged, and bad input affects only itself.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from backbones import EMBEDDED
from trained_reporters import report_config, write_cases, write_photo_of
from vlms import save_language_model

from vidrisk.data.cases import PhotoFile
from vidrisk.data.instructions import Instruction, Turn
from vidrisk.data.report_data import ReportData, load_report_data
from vidrisk.models.run import Run
from vidrisk.models.vlm.instruction_parts import parts_from_instruction
from vidrisk.models.vlm.reporter import Reporter, vocabulary_of
from vidrisk.models.vlm.sequences import batch_from_sequences, sequence_from_parts
from vidrisk.runtimes.contract.errors import BundleError, DataError, SettingsError
from vidrisk.runtimes.text.vocabulary import Vocabulary
from vidrisk.train import loop
from vidrisk.train.report_work import Reporting
from vidrisk.train.train_data import train_data
from vidrisk.train.train_reports import train_reports

pytestmark = pytest.mark.slow(minutes=2)


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_language_model(tmp_path_factory.mktemp("language"), "LlamaForCausalLM")


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_cases(tmp_path_factory.mktemp("cases"))


@pytest.fixture(scope="module")
def train(language: Path, cases: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    def make(*assignments: str, data: Path | None = None, out: Path | None = None, **options: Any) -> Run:
        scheme = {} if data else {"scheme": cases[1]}
        config = report_config(f"compose:{EMBEDDED}+{language}", "compose", *assignments, **scheme)
        return train_data(data or cases[0], config, out or tmp_path_factory.mktemp("runs") / "run", **options)

    return make


@pytest.fixture(scope="module")
def trained(train: Callable[..., Run]) -> Run:
    return train("optim.epochs=8", "optim.batch_size=3", "lora.rank=16", "optim.lora_lr=0.02")


def losses_of(model: Reporter, run: Run, data: ReportData) -> list[float]:
    """Return the losses of text-only rows and of rows with grey photos; they do not depend on the photo files."""
    encoder = Vocabulary.from_text(model.tokenizer_text, model.chat.ends)
    sequences = [
        sequence_from_parts(
            parts_from_instruction(item, encoder, model.chat.pieces, model.chat.ends[0], system=None), model.grid
        )
        for item in data.items[:8]
    ]
    frames = torch.full(
        (sum(each.photos for each in sequences), *run.contract.pixel.frame_shape), 90, dtype=torch.uint8
    )
    with torch.inference_mode():
        return model.eval().losses(batch_from_sequences(sequences, frames, model.positions))[0].tolist()


def test_a_run_learns_to_answer(trained: Run) -> None:
    metrics = json.loads((trained.root / "metrics.json").read_text())
    losses = [epoch["train_loss"] for epoch in metrics["epochs"]]
    # With output embeddings of random weights, which stay as they are, no token can become certain.
    assert losses[-1] < 0.7 * losses[0] and metrics["reports"]["val"]["figures"]["token_accuracy"] > 0.4
    assert metrics["epochs"][-1]["metric"] == pytest.approx(2.718281828 ** -metrics["epochs"][-1]["val_loss"], rel=1e-6)
    assert set(metrics["epochs"][0]["lr"]) == {"lora", "projector"}
    assert (trained.root / "plots" / "loss.png").is_file() and trained.scheme is not None
    assert [target.name for target in trained.contract.targets] == ["level"] and trained.contract.task == "report"
    assert trained.config.report.answer_tokens is None and trained.config.report.answer_limit > 20


def test_a_run_comes_back_to_the_bit_and_merges(
    trained: Run, cases: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, train: Callable[..., Run]
) -> None:
    saved: list[Reporter] = []
    save = Run.save
    monkeypatch.setattr(Run, "save", lambda self, model: (saved.append(model), save(self, model)))
    run = train("optim.epochs=1", "optim.accumulate=2")
    data = load_report_data(cases[0], scheme=cases[1])
    own = losses_of(saved[0], run, data)
    assert losses_of(Run.open(run.root).load_reporter(), run, data) == own
    assert losses_of(run.load_reporter(merged=True), run, data) == pytest.approx(own, abs=1e-3)
    assert losses_of(trained.load_reporter(), trained, data) != own


def test_resumed_is_as_never_stopped(
    trained: Run, train: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = json.loads((train("optim.epochs=4").root / "metrics.json").read_text())["epochs"]
    run, calls = loop._Lap.run, []

    def stop_in_third(self: Any, epoch: int, kept: str) -> float:
        calls.append(epoch)
        if epoch == 3 and calls.count(3) == 1:
            raise KeyboardInterrupt
        return run(self, epoch, kept)

    monkeypatch.setattr(loop._Lap, "run", stop_in_third)
    with pytest.raises(Exception, match="stopped by Ctrl-C"):
        train("optim.epochs=4", out=tmp_path / "run")
    resumed = train("optim.epochs=4", out=tmp_path / "run", resume=True)
    assert json.loads((resumed.root / "metrics.json").read_text())["epochs"] == whole and calls == [1, 2, 3, 3, 4]


def test_kept_features_and_a_tower_in_every_step_do_the_same(train: Callable[..., Run]) -> None:
    kept, anew = (
        json.loads((train("optim.epochs=2", setting).root / "metrics.json").read_text())["epochs"]
        for setting in ("cache_mb=64", "cache_mb=0")
    )
    assert [epoch["train_loss"] for epoch in kept] == pytest.approx([epoch["train_loss"] for epoch in anew], rel=2e-3)


@pytest.fixture
def works(monkeypatch: pytest.MonkeyPatch) -> list[Reporting]:
    """Return a list to which each run adds its ``Reporting`` when it prepares it."""
    prepared: list[Reporting] = []
    prepare = Reporting.prepare
    monkeypatch.setattr(
        Reporting, "prepare", lambda self, on_progress: (prepared.append(self), prepare(self, on_progress))[1]
    )
    return prepared


def test_views_of_augmented_photos_are_kept_and_drawn_in_training_alone(
    train: Callable[..., Run], works: list[Reporting]
) -> None:
    run = train("optim.epochs=2", "augment=[flip,light]", "views=3")
    train("optim.epochs=1")
    work, plain = works
    kept, views = work._features, work._views
    assert kept is not None and views is not None and plain._features is not None and plain._views is None
    assert torch.equal(kept, plain._features) and run.config.augment == ("flip", "light")
    learnt = sorted({number for numbers in work.train.photos for number in numbers})
    assert views.shape[:2] == (len(learnt), 2) and len(learnt) < len(kept)
    assert all(not torch.equal(views[row, view], kept[number]) for row, number in enumerate(learnt) for view in (0, 1))
    (number, (photo,)) = next(
        (number, photos) for number, photos in enumerate(work.train.photos) if len(photos) == 1 and photos[0]
    )
    drawn = {
        work._batch(work.train, [number], torch.Generator().manual_seed(seed)).photos.numpy().tobytes()
        for seed in range(20)
    }
    row = learnt.index(photo)
    assert drawn == {each.float().numpy().tobytes() for each in (kept[photo], views[row, 0], views[row, 1])}
    assert torch.equal(work._batch(work.train, [number]).photos, kept[[photo]].float())


def test_a_single_view_is_said_to_augment_nothing(train: Callable[..., Run], caplog: pytest.LogCaptureFixture) -> None:
    train("optim.epochs=1", "augment=[flip]", "views=1")
    assert "views=1 keeps the unaugmented photos only: augment=['flip'] does nothing" in caplog.text


def test_photos_are_augmented_where_no_features_are_kept(train: Callable[..., Run], works: list[Reporting]) -> None:
    train("optim.epochs=1", "augment=[flip]", "views=0")
    (work,) = works
    (with_photo, *_) = (number for number, photos in enumerate(work.train.photos) if photos)
    plain = work._batch(work.train, [with_photo]).photos
    drawn = [work._batch(work.train, [with_photo], torch.Generator().manual_seed(seed)).photos for seed in range(12)]
    assert work._features is None and plain.dtype == torch.uint8
    assert all(any(torch.equal(each[:1], way) for way in (plain[:1], plain[:1].flip(2))) for each in drawn)
    assert len({each[0].numpy().tobytes() for each in drawn}) == 2


def test_every_conversation_is_in_one_batch_of_about_its_length(trained: Run) -> None:
    class Sequence:
        def __init__(self, length: int) -> None:
            self.length = length

    class Train(list[int]):
        sequences = tuple(Sequence(number * 37 % 101) for number in range(100))

    work = object.__new__(Reporting)
    work.train = Train(range(100))  # type: ignore[assignment]
    first, second = (work.batches(8, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert sorted(number for batch in first for number in batch) == list(range(100)) and len(first) == len(second) == 13
    spread = max(
        max(Train.sequences[n].length for n in batch) - min(Train.sequences[n].length for n in batch) for batch in first
    )
    assert spread <= 20 and first != second


def test_the_second_stage_starts_from_the_first(train: Callable[..., Run], cases: tuple[Path, Path]) -> None:
    """A second stage starts from the first, as in the two stages of LLaVA.

    The first stage trains the projector alone on captions. The second stage trains adapters on instructions.
    """
    first = train("lora.last_blocks=0", "optim.epochs=1")
    (epoch,) = json.loads((first.root / "metrics.json").read_text())["epochs"]
    assert not (first.root / "adapter").exists() and set(epoch["lr"]) == {"projector"}
    second = train("optim.epochs=1", start=first)
    data = load_report_data(cases[0], scheme=cases[1])
    assert second.bases and losses_of(second.load_reporter(), second, data) != losses_of(
        first.load_reporter(), first, data
    )


def test_the_limit_of_answers_follows_from_the_longest_one_of_the_training_data(language: Path, tmp_path: Path) -> None:
    """The answer limit follows from the longest single answer of the training split.

    All turns of a conversation together, and the answers of the val split, are longer and do not count.
    """
    write_photo_of(tmp_path / "a.png", "minor", 0)
    photo = PhotoFile(tmp_path / "a.png", "a.png")
    items = [
        Instruction(
            str(number),
            (photo,),
            (Turn("user", "<image>?"), Turn("assistant", said), Turn("user", "?"), Turn("assistant", said)),
            split,
        )
        for number, (said, split) in enumerate([("grey", "train"), ("rusty", "train"), ("grey and rusty " * 9, "val")])
    ]
    config = report_config(f"compose:{EMBEDDED}+{language}", "compose", "optim.epochs=1")
    run = train_reports(ReportData(None, tuple(items), {}), config, tmp_path / "run", source={})
    encoder = vocabulary_of(run.root)
    assert run.config.report.longest_answer == 1 + max(len(encoder.encode(said)) for said in ("grey", "rusty"))
    assert Run.open(run.root).config.report == run.config.report and run.config.report.answer_tokens is None


def test_conversations_about_images(train: Callable[..., Run], tmp_path: Path) -> None:
    """Training reads the JSON of LLaVA and leaves out records whose image is damaged.

    The records have several turns. Several records share one image, and one record has no image.
    """
    for number in range(6):
        write_photo_of(tmp_path / f"{number}.png", "minor" if number % 2 else "severe", number)
    (tmp_path / "5.png").write_bytes(b"no photo")
    records = [
        {
            "id": str(number),
            "image": f"{number % 6}.png",
            "conversations": [
                {"from": "human", "value": "<image>\nWhat is it?"},
                {"from": "gpt", "value": "A wall."},
                {"from": "human", "value": "And the colour?"},
                {"from": "gpt", "value": "blue" if number % 2 else "red"},
            ],
        }
        for number in range(18)
    ]
    records.append(
        {"id": "text", "conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hello!"}]}
    )
    (tmp_path / "llava.json").write_text(json.dumps(records))
    run = train("optim.epochs=1", data=tmp_path / "llava.json")
    metrics = json.loads((run.root / "metrics.json").read_text())
    assert sum(metrics["samples"].values()) == 16 and len(metrics["unreadable"]) == 3
    assert all("5.png" in row["reason"] for row in metrics["unreadable"])
    assert run.scheme is None and run.contract.targets == ()


def test_what_is_too_long_is_left_out_and_said(train: Callable[..., Run], caplog: pytest.LogCaptureFixture) -> None:
    said = r"no conversation of the train split.*tokens, .* visual, but vlm\.max_tokens allows 40"
    with pytest.raises(DataError, match=said):
        train("vlm.max_tokens=40")


@pytest.mark.parametrize(
    ("assignments", "reason"),
    [
        (("optim.class_weights=sqrt",), "optim.class_weights 'sqrt' has no effect on a model that writes reports"),
        *(
            ((f"{name}={value}",), rf"{name} .* has no effect on a model that writes reports")
            for name, value in (
                ("frames", 4),
                ("jitter", 3),
                ("decoder", "pyav"),
                ("vlm.prompts", "[{question: a, reply: b <ACT>}]"),
            )
        ),
        (("report.scheme=nothing",), "nothing"),
        (("report.answer_tokens=0",), "report.answer_tokens"),
    ],
)
def test_settings_that_are_refused(train: Callable[..., Run], assignments: tuple[str, ...], reason: str) -> None:
    with pytest.raises((SettingsError, DataError), match=reason):
        train(*assignments)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda root: (root / "tokenizer.json").write_text("{}"), "not the tokenizer that the run was trained with"),
        (lambda root: (root / "chat.json").write_text("[]"), "chat.json is damaged"),
        (lambda root: (root / "projector.safetensors").unlink(), "projector.safetensors cannot be read"),
        (lambda root: shutil.rmtree(root / "adapter"), "lacks its adapter folder"),
        (lambda root: (root / "chat.json").unlink(), "lacks head.safetensors"),
    ],
)
def test_a_damaged_run(trained: Run, tmp_path: Path, damage: Callable[[Path], Any], reason: str) -> None:
    shutil.copytree(trained.root, tmp_path / "run")
    damage(tmp_path / "run")
    with pytest.raises(BundleError, match=reason):
        run = Run.open(tmp_path / "run")
        vocabulary_of(run.root)
        run.load_reporter()


def test_a_run_of_reports_is_no_classifier(trained: Run) -> None:
    with pytest.raises(BundleError, match="writes reports, not a classifier"):
        trained.load_classifier()
