"""Tests of a model that writes: tokens and loss equal those of transformers, and padding changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backbones import EMBEDDED
from trained_reporters import report_config, write_cases, write_photo_of
from vlm_references import Reference

from vidrisk.data.cases import PhotoFile
from vidrisk.data.instructions import Instruction, Turn
from vidrisk.data.report_data import ReportData, load_report_data
from vidrisk.data.scheme_target import comparisons_from_scheme
from vidrisk.decode.pool import DecodePool
from vidrisk.models.config import TrainConfig
from vidrisk.models.pretrained import Labels, build_reporter, contract_from_config, resolve_config
from vidrisk.models.run import Run
from vidrisk.models.vlm.instruction_parts import parts_from_instruction
from vidrisk.models.vlm.reporter import Reporter
from vidrisk.models.vlm.sequences import CHOSEN, batch_from_sequences, sequence_from_parts
from vidrisk.runtimes.contract.errors import BundleError, SettingsError
from vidrisk.runtimes.text.vocabulary import Vocabulary
from vidrisk.train.conversations import Conversations, Photos
from vidrisk.train.report_work import Reporting
from vidrisk.train.shares import Share, open_share

KINDS = ("compose", "qwen2_5_vl", "qwen3_vl")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    table, scheme = write_cases(tmp_path_factory.mktemp("cases"))
    return load_report_data(table, scheme=scheme)


@pytest.fixture(scope="module")
def made(
    qwen_folder: Callable[..., Path], language_folder: Callable[..., Path]
) -> Callable[..., tuple[Reporter, TrainConfig]]:
    def make(kind: str, *assignments: str) -> tuple[Reporter, TrainConfig]:
        backbone = f"compose:{EMBEDDED}+{language_folder()}" if kind == "compose" else str(qwen_folder(kind))
        config = resolve_config(report_config(backbone, kind, *assignments), clips=False)
        torch.manual_seed(0)
        return build_reporter(config, contract_from_config(config, Labels(targets=(), clips=False)).pixel), config

    return make


def conversations(
    model: Reporter, config: TrainConfig, data: ReportData, count: int
) -> tuple[Conversations, torch.Tensor]:
    contract = contract_from_config(config, Labels(targets=(), clips=False))
    items = data.items[:count]
    encoder = Vocabulary.from_text(model.tokenizer_text, model.chat.ends)
    with DecodePool(1) as pool:
        photos = Photos(items, contract.pixel, pool, 64)
        assert photos.check(lambda *_: None) == {}
        assert data.scheme
        found = Conversations(
            items,
            photos,
            {},
            encoder,
            model.chat.pieces,
            model.chat.ends[0],
            model.grid,
            system=None,
            limits={"vlm.max_tokens": 4096},
            choices=comparisons_from_scheme(data.scheme).values(),
        )
        return found, photos.frames([number for numbers in found.photos for number in numbers])


def test_the_tokens_of_a_composed_model_are_those_of_the_chat_template(
    made: Callable[..., Any], data: ReportData
) -> None:
    """A photo takes a line of its own; everything else is rendered and split as in transformers."""
    model, _ = made("compose")
    tokenizer = model.backbone.tokenizer
    encoder = Vocabulary.from_text(model.tokenizer_text, model.chat.ends)
    for item in (data.items[0], data.items[4], data.items[7]):  # one photo, two, none
        parts = parts_from_instruction(item, encoder, model.chat.pieces, model.chat.ends[0], system=None)
        sequence = sequence_from_parts(parts, model.grid)
        system, user, answer = (turn.text for turn in item.turns)
        messages = [
            {"role": "system", "content": system},
            {"role": "user", "content": user.replace("<image>", "")},
            {"role": "assistant", "content": answer},
        ]
        whole = tokenizer.apply_chat_template(messages, tokenize=False).removesuffix("\n")
        text = sequence.layout.ids[sequence.layout.ids >= 0]
        assert tokenizer.decode(text) == whole
        assert text[-1] == model.chat.ends[0] and sequence.roles[-1] and sequence.photos == len(item.images)


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
def test_tokens_and_loss_are_those_of_transformers(
    kind: str, made: Callable[..., Any], data: ReportData, qwen_folder: Any
) -> None:
    """Tokens and loss equal those of transformers for one photo, two photos and none.

    The reference has the processor's own tokens, pixels and positions, and the model's own loss.
    """
    model, config = made(kind)
    found, frames = conversations(model, config, data, 8)
    reference = Reference.of(qwen_folder(kind), kind)
    model.eval()
    place = 0
    for item, sequence, numbers in zip(found.items, found.sequences, found.photos, strict=True):
        own = frames[place : place + len(numbers)]
        place += len(numbers)
        system, user, answer = (turn.text for turn in item.turns)
        content = [*[{"type": "image"}] * len(own), {"type": "text", "text": user.replace("<image>\n", "")}]
        turns = [
            {"role": role, "content": words}
            for role, words in (
                ("system", [{"type": "text", "text": system}]),
                ("user", content),
                ("assistant", [{"type": "text", "text": answer}]),
            )
        ]
        text = reference.processor.apply_chat_template(turns, tokenize=False).removesuffix("\n")
        images: dict[str, Any] = {"images": [each.numpy() for each in own], "do_resize": False} if len(own) else {}
        inputs = dict(reference.processor(text=text, return_tensors="pt", **images))
        batch = batch_from_sequences([sequence], own, model.positions)
        ids = batch.ids.masked_fill(batch.is_visual, reference.model.config.image_token_id)
        assert torch.equal(ids, inputs["input_ids"])
        with torch.inference_mode():
            losses, _ = model(batch)
            expected = reference.model(**inputs, labels=ids.masked_fill(~batch.is_answer, -100)).loss
        assert float(losses.mean()) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_gives_what_each_gives_alone(kind: str, made: Callable[..., Any], data: ReportData) -> None:
    model, config = made(kind)
    found, frames = conversations(model, config, data, 9)
    model.eval()
    with torch.inference_mode():
        features = model.encode(frames)
        batch = batch_from_sequences(found.sequences, features, model.positions)
        together, right = (batch.sums(values.float()) for values in model(batch))
        place = 0
        for row, (sequence, numbers) in enumerate(zip(found.sequences, found.photos, strict=True)):
            own = features[place : place + len(numbers)]
            place += len(numbers)
            alone, hits = model(batch_from_sequences([sequence], own, model.positions))
            assert float(together[row]) == pytest.approx(float(alone.sum()), rel=1e-4) and int(right[row]) == int(
                hits.sum()
            )
    assert len({round(float(loss), 3) for loss in together}) > 3


def test_only_answers_are_learnt_and_text_rows_show_no_image(made: Callable[..., Any], data: ReportData) -> None:
    model, config = made("compose")
    found, _ = conversations(model, config, data, 8)
    tokenizer = model.backbone.tokenizer
    for item, sequence in zip(found.items, found.sequences, strict=True):
        learnt = sequence.layout.ids[sequence.roles > 0]
        assert tokenizer.decode(learnt) == f"{item.turns[-1].text}<|im_end|>" and (learnt >= 0).all()
    assert not found.sequences[7].layout.is_visual.any() and not found.photos[7]
    ids = np.concatenate([sequence.layout.ids for sequence in found.sequences])
    assert not (ids == tokenizer.convert_tokens_to_ids("<|image_pad|>")).any()


def test_the_words_that_choose_are_told_apart_and_weigh_more(made: Callable[..., Any], data: ReportData) -> None:
    model, config = made("compose", "report.choice_weight=7")
    found, frames = conversations(model, config, data, 6)
    tokenizer = model.backbone.tokenizer
    for item, sequence in zip(found.items, found.sequences, strict=True):
        said = json.loads(item.turns[-1].text)
        assert tokenizer.decode(sequence.layout.ids[sequence.roles == CHOSEN]) in said["level"] + said["defect"]
        assert sequence.choices
    pixel = contract_from_config(config, Labels(targets=(), clips=False)).pixel
    with DecodePool(1) as pool:
        work = Reporting(model.eval(), config, Photos((), pixel, pool, 0), found, found, open_share())
    batch = batch_from_sequences(found.sequences, model.encode(frames), model.positions)
    with torch.inference_mode():
        loss, (each,) = work.loss(model, batch, range(6))
        plain, right = model(batch)
    weights = 1 + 6 * batch.is_choice
    assert float(loss) == pytest.approx(float((plain * weights).sum() / weights.sum()), rel=1e-5) and each.shape == (
        6,
        1,
    )
    work._features = model.encode(frames)
    judged = work.judge_conversations(found, lambda *_: None)
    assert judged.loss == pytest.approx(float(loss), rel=1e-4)
    assert judged.figures["choice_accuracy"] == pytest.approx(float(right[batch.is_choice].float().mean()))
    assert judged.figures["token_accuracy"] == pytest.approx(float(right.float().mean()))


def work_on(made: Callable[..., Any], pool: DecodePool, folder: Path, share: Share) -> tuple[Reporting, Photos]:
    """Return the training work on three conversations about a photo each, and the photos.

    One conversation can be used, one has a damaged photo, and one is too long.
    """
    model, config = made("compose")
    items = []
    for number, answer in enumerate(("grey", "grey", "grey and rusty " * 9)):
        write_photo_of(folder / f"{number}.png", "minor", number)
        photo = PhotoFile(folder / f"{number}.png", f"{number}.png")
        items.append(Instruction(str(number), (photo,), (Turn("user", "<image>?"), Turn("assistant", answer))))
    (folder / "1.png").write_bytes(b"no photo")
    photos = Photos(items, contract_from_config(config, Labels(targets=(), clips=False)).pixel, pool, 64)
    unreadable = photos.check(lambda *_: None, share)
    assert [photo.name for photo in unreadable] == ["1.png"]
    encoder = Vocabulary.from_text(model.tokenizer_text, model.chat.ends)
    found = Conversations(
        items,
        photos,
        unreadable,
        encoder,
        model.chat.pieces,
        model.chat.ends[0],
        model.grid,
        system=None,
        limits={"vlm.max_tokens": 99},
    )
    assert [item.id for item in found.items] == ["0"] and [left["id"] for left in found.left_out] == ["1", "2"]
    return Reporting(model, config, photos, found, None, share), photos


def test_the_tower_runs_on_photos_that_are_shown_and_no_others(
    made: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with DecodePool(1) as pool:
        work, photos = work_on(made, pool, tmp_path, open_share())
        work.prepare(lambda *_: None)
    assert work.train.photos == [[0]] and len(photos) == 1
    assert work._features is not None and len(work._features) == 1
    assert "can no longer be read" not in caplog.text


def test_before_the_first_step_tensors_go_to_where_the_model_is(made: Callable[..., Any], tmp_path: Path) -> None:
    """Before the first step, tensors go to the device of the model, whatever the device of the process.

    A model whose weights are to lie in shards is on the CPU at this point.
    """
    with DecodePool(1) as pool:
        work, _ = work_on(made, pool, tmp_path, Share(device=torch.device("meta")))
        work.prepare(lambda *_: None)
        work.standardise(lambda *_: None)
        assert not work.model.backbone.own_projector.is_new
        work, _ = work_on(made, pool, tmp_path, Share(device=torch.device("meta")))
        work.standardise(lambda *_: None)  # without features that are kept
        assert not work.model.backbone.own_projector.is_new


def test_a_run_without_the_projector_that_it_has_trained_is_refused(made: Callable[..., Any], tmp_path: Path) -> None:
    """A run without its trained projector is refused; the published one would replace it without a message."""
    for name, rate in (("trained", "0.001"), ("as published", "null")):
        model, config = made("qwen2_5_vl", f"optim.projector_lr={rate}")
        model.adapt(config)
        run = Run(tmp_path / name, config, Labels(targets=(), clips=False))
        run.save(model)
        assert Run.open(run.root).load_reporter().trains_projector == (name == "trained")
    assert not (tmp_path / "as published" / "projector.safetensors").exists()
    (tmp_path / "trained" / "projector.safetensors").unlink()
    with pytest.raises(
        BundleError, match=r"trained lacks its projector\.safetensors; fix: copy the run whole, or train it again"
    ):
        Run.open(tmp_path / "trained").load_reporter()


@pytest.mark.parametrize(
    ("model_class", "bound"),
    [("LlamaForCausalLM", "max_position_embeddings"), ("MistralForCausalLM", "sliding_window")],
)
def test_a_conversation_that_is_longer_than_the_language_model_reaches_is_left_out(
    model_class: str, bound: str, language_folder: Callable[..., Path], data: ReportData
) -> None:
    backbone = f"compose:{EMBEDDED}+{language_folder(model_class, **{bound: 300})}"
    config = resolve_config(report_config(backbone, "compose", "vlm.max_tokens=2000"), clips=False)
    pixel = contract_from_config(config, Labels(targets=(), clips=False)).pixel
    model = build_reporter(config, pixel)
    end = model.chat.ends[0]
    encoder = Vocabulary.from_text(model.tokenizer_text, model.chat.ends)
    long = Instruction("long", (), (Turn("user", "?"), Turn("assistant", "grey and rusty " * 40)))
    with DecodePool(1) as pool:
        found = Conversations(
            [*data.items[:2], long],
            Photos((), pixel, pool, 0),
            {},
            encoder,
            model.chat.pieces,
            end,
            model.grid,
            system=None,
            limits=model.token_limits,
        )
    assert len(found) == 2
    (left,) = found.left_out
    assert left["id"] == "long" and left["reason"].endswith(f" but the language model's {bound} allows 300")
    assert min(model.token_limits.values()) == 300 and model.token_limits["vlm.max_tokens"] == 2000


def test_settings_that_mean_nothing_and_backbones_that_write_nothing(made: Callable[..., Any]) -> None:
    with pytest.raises(
        SettingsError, match=r"head.kind 'mlp' has no effect on a model that writes.*allowed: its default"
    ):
        made("compose", "head.kind=mlp")
    with pytest.raises(SettingsError, match="nothing to train"):
        made("compose", "lora.last_blocks=0", "optim.projector_lr=0")
    with pytest.raises(SettingsError, match="does not generate text"):
        config = resolve_config(report_config(EMBEDDED, "compose"), clips=False)
        build_reporter(config, contract_from_config(config, Labels(targets=(), clips=False)).pixel)
