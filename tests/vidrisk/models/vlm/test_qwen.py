"""Tokens, positions and states of Qwen2.5-VL and Qwen3-VL equal those of their own processors and models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from vlm_references import PAIR, Reference
from vlms import QWEN, Built, build_small

from vidrisk.models.config import PromptPair, VlmSettings
from vidrisk.models.families.family import Source
from vidrisk.models.vlm.layout import Layout
from vidrisk.models.vlm.qwen import QwenVl, load_qwen
from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.runtimes.contract.specs import PixelSpec

Make = Callable[..., Path]
EDGES = {"qwen2_5_vl": 28, "qwen3_vl": 32}


def built(
    folder: Path, model_type: str, *assignments: str, clips: bool = True, rows: int = 5, columns: int = 4
) -> Built:
    edge = EDGES[model_type]
    return build_small(
        folder, f"pixel.height={rows * edge}", f"pixel.width={columns * edge}", *assignments, clips=clips
    )


def reference_of(folder: Path, model_type: str, classifier: Built) -> Reference:
    """Return transformers' model with the classifier's embedding row for the token."""
    ids = torch.tensor([classifier.model.backbone.token])
    return Reference.of(folder, model_type, classifier.model.backbone.embed(ids)[0].detach())


def loaded(folder: Path, model_type: str, *, clips: bool = True) -> QwenVl:
    edge = EDGES[model_type]
    return load_qwen(
        Source(str(folder)),
        PixelSpec(3 * edge, 2 * edge),
        model_class=f"{QWEN[model_type]}ForConditionalGeneration",
        clips=clips,
        settings=VlmSettings(),
    )


def ids_with_visual(layout: Layout, mark: int) -> list[int]:
    return np.where(layout.is_visual, mark, layout.ids).tolist()


@pytest.mark.parametrize("frames", [2, 4, 8])
@pytest.mark.parametrize("fps", [1.0, 2.0, 2.5, 10.0])
@pytest.mark.parametrize("model_type", QWEN)
def test_tokens_and_positions_of_a_clip_are_the_processors(
    qwen_folder: Make, model_type: str, fps: float, frames: int
) -> None:
    folder = qwen_folder(model_type)
    backbone, reference = loaded(folder, model_type), Reference.of(folder, model_type)
    edge = EDGES[model_type]
    inputs = reference.inputs(np.zeros((frames, 3 * edge, 2 * edge, 3), np.uint8), fps)
    prompt = backbone.layouts([PAIR], frames, fps, 4096)[0]
    layout = prompt.layout
    assert ids_with_visual(layout, reference.model.config.video_token_id) == inputs["input_ids"][0].tolist()
    assert layout.ids[prompt.place] == reference.processor.tokenizer.convert_tokens_to_ids("<ACT>")
    torch.testing.assert_close(backbone.positions(layout, fps), reference.positions(inputs), rtol=0, atol=0)
    cut = prompt.until_token().layout
    assert cut.length == prompt.place + 1
    torch.testing.assert_close(
        backbone.positions(cut, fps), reference.positions(inputs)[:, : cut.length], rtol=0, atol=0
    )


@pytest.mark.parametrize("model_type", QWEN)
def test_tokens_and_positions_of_a_photo_are_the_processors(qwen_folder: Make, model_type: str) -> None:
    folder = qwen_folder(model_type)
    backbone, reference = loaded(folder, model_type, clips=False), Reference.of(folder, model_type)
    inputs = reference.inputs(np.zeros((3 * EDGES[model_type], 2 * EDGES[model_type], 3), np.uint8))
    layout = backbone.layouts([PAIR], 1, 2.0, 4096)[0].layout
    assert ids_with_visual(layout, reference.model.config.image_token_id) == inputs["input_ids"][0].tolist()
    torch.testing.assert_close(backbone.positions(layout, 2.0), reference.positions(inputs), rtol=0, atol=0)


def test_times_in_text_are_rounded_as_the_processor_rounds_them(qwen_folder: Make) -> None:
    """Times are rounded as in the processor.

    The mean of 3.8 and 3.9 seconds is a little less than 3.85, and is written as 3.8.
    """
    folder = qwen_folder("qwen3_vl")
    backbone, processor = loaded(folder, "qwen3_vl"), Reference.of(folder, "qwen3_vl").processor
    for fps in (0.3, 1.0, 2.0, 2.5, 7.0, 10.0, 30.0):
        layout = backbone.layouts([PAIR], 64, fps, 4096)[0].layout
        text = backbone.tokenizer.decode(layout.text)
        expected = [f"<{time:.1f} seconds>" for time in processor._calculate_timestamps(list(range(64)), fps)]
        assert [part[part.rindex("<") :] for part in text.split("<|vision_start|>")[:-1]] == expected


def test_positions_in_time_are_rounded_as_transformers_rounds_them(qwen_folder: Make) -> None:
    folder = qwen_folder("qwen2_5_vl")
    backbone, reference = loaded(folder, "qwen2_5_vl"), Reference.of(folder, "qwen2_5_vl")
    for fps in (0.7, 3.0, 4.32, 29.97):
        inputs = reference.inputs(np.zeros((64, 84, 56, 3), np.uint8), fps)
        layout = backbone.layouts([PAIR], 64, fps, 4096)[0].layout
        torch.testing.assert_close(backbone.positions(layout, fps), reference.positions(inputs), rtol=0, atol=0)


@pytest.mark.parametrize("clips", [True, False])
@pytest.mark.parametrize("model_type", QWEN)
def test_the_state_at_the_token_is_transformers_own(qwen_folder: Make, model_type: str, clips: bool) -> None:
    """The state at the token equals that of transformers for unequal windows and two moments.

    The reference model receives every output of the processor.
    """
    folder = qwen_folder(model_type)
    classifier = built(folder, model_type, "lora.last_blocks=0", "vlm.fps=2.5", clips=clips)
    reference = reference_of(folder, model_type, classifier)
    seen = classifier.frames(2)
    with torch.inference_mode():
        found = classifier.model.features(seen)
    assert found.shape == (2, 1, 64)
    for state, frames in zip(found[:, 0], seen.numpy(), strict=True):
        expected = reference.state(
            reference.inputs(frames if clips else frames[0], 2.5, classifier.config.vlm.prompts[0])
        )
        assert expected.std() > 0.3
        torch.testing.assert_close(state, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model_type", QWEN)
def test_visual_tokens_for_the_head_are_the_clips_own(qwen_folder: Make, model_type: str) -> None:
    folder = qwen_folder(model_type)
    classifier = built(folder, model_type, "lora.last_blocks=0", "head.kind=transformer")
    reference = reference_of(folder, model_type, classifier)
    seen = classifier.frames(2)
    with torch.inference_mode():
        found = classifier.model.features(seen)[:, 1:]
        for tokens, frames in zip(found, seen.numpy(), strict=True):
            inputs = reference.inputs(frames)
            expected = reference.model.model.get_video_features(inputs["pixel_values_videos"], inputs["video_grid_thw"])
            torch.testing.assert_close(tokens, torch.cat(expected.pooler_output), rtol=1e-4, atol=2e-5)


def test_text_positions_would_be_noticed(qwen_folder: Make) -> None:
    """Plain text positions change the state, so a missing output of the processor would be noticed."""
    folder = qwen_folder("qwen2_5_vl")
    classifier = built(folder, "qwen2_5_vl", "lora.last_blocks=0")
    reference = reference_of(folder, "qwen2_5_vl", classifier)
    inputs = reference.inputs(classifier.frames(1)[0].numpy(), 2.0, classifier.config.vlm.prompts[0])
    other = {**inputs, "position_ids": torch.arange(inputs["input_ids"].shape[1]).expand(3, 1, -1)}
    assert (reference.state(inputs) - reference.state(other)).abs().max() > 0.01


def test_a_template_without_the_mark_of_a_video_is_refused(qwen_folder: Make) -> None:
    backbone = loaded(qwen_folder("qwen2_5_vl"), "qwen2_5_vl")
    backbone.tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    with pytest.raises(
        SettingsError, match=r"gives <\|video_pad\|> 0 times; allowed: once: the processor's own template; fix: "
    ):
        backbone.layouts([PAIR], 2, 2.0, 100)[0]


@pytest.mark.parametrize("model_type", QWEN)
def test_a_question_that_holds_a_mark_of_its_own_is_refused(qwen_folder: Make, model_type: str) -> None:
    backbone = loaded(qwen_folder(model_type), model_type)
    pair = PromptPair(question="What is <|video_pad|>?", reply="It is {token}.")
    with pytest.raises(SettingsError, match=r"<\|video_pad\|> 2 times"):
        backbone.layouts([pair], 2, 2.0, 100)[0]


def test_windows_of_an_odd_number_of_frames_are_refused(qwen_folder: Make) -> None:
    with pytest.raises(
        SettingsError, match=r"windows of 3 frames for backbone .*; allowed: multiples of 2; fix: set frames"
    ):
        built(qwen_folder("qwen2_5_vl"), "qwen2_5_vl", "frames=3")


def test_qwen_is_no_encoder(qwen_folder: Make) -> None:
    from vidrisk.models.encoders import build_encoder

    with pytest.raises(
        SettingsError, match="answers with a language model and is not an encoder; allowed: image and video encoders"
    ):
        build_encoder(str(qwen_folder("qwen3_vl")))


def answers(folder: Path, **options: Any) -> Any:
    return load_qwen(
        Source(str(folder)),
        PixelSpec(56, 56),
        model_class="Qwen2_5_VLForConditionalGeneration",
        clips=True,
        settings=VlmSettings(**options),
    )
