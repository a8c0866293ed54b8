"""References that transformers computes for a clip or a photo.

These are the tokens, positions and pixels of the processors, and the states of the models.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from torch import Tensor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor
from transformers.video_utils import VideoMetadata
from vlms import QWEN

from vidrisk.models.config import PromptPair

TOKEN = "<ACT>"
PAIR = PromptPair(question="Which action does this video show?", reply="The action is {token}.")
Frames = npt.NDArray[np.uint8]
_patchify = vars(Qwen3VLVideoProcessor)["patchify"]  # Qwen2.5-VL's is the same, in a file that imports torchvision


class VideoPatches(SimpleNamespace):
    """The video processor, without torchvision.

    The image processor computes the pixels, and transformers' own function computes the patches.
    """

    def __call__(self, videos: Frames, *, video_metadata: VideoMetadata, **_: Any) -> dict[str, Any]:
        images = self.images
        pixels = [
            images.normalize(images.rescale(frame.transpose(2, 0, 1), 1 / 255), images.image_mean, images.image_std)
            for frame in videos
        ]
        patches, *grid = _patchify(
            self,
            torch.from_numpy(np.stack(pixels))[None].float(),
            images.patch_size,
            images.merge_size,
            images.temporal_patch_size,
        )
        return {
            "pixel_values_videos": patches[0],
            "video_grid_thw": torch.tensor([grid]),
            "video_metadata": [video_metadata],
        }


@dataclass(frozen=True)
class Reference:
    """A processor and a model as published, with the token added to both."""

    processor: Any
    model: Any

    @classmethod
    def of(cls, folder: Path, model_type: str, row: Tensor | None = None, dtype: str = "float32") -> Reference:
        """Load the processor and the model from a folder.

        Args:
            row: row of the token in the embeddings, as in the model under test.
        """
        name = QWEN[model_type]
        base = getattr(transformers, f"{name}Processor")
        unchecked = type(base.__name__, (base,), {"check_argument_for_proper_class": lambda *_: object})  # VideoPatches
        images = Qwen2VLImageProcessorPil.from_pretrained(folder)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        tokenizer.add_tokens([TOKEN], special_tokens=True)
        patches = VideoPatches(
            images=images, merge_size=images.merge_size, temporal_patch_size=images.temporal_patch_size
        )
        processor = unchecked(images, tokenizer, patches, chat_template=tokenizer.chat_template)
        model = getattr(transformers, f"{name}ForConditionalGeneration").from_pretrained(folder, dtype=dtype).eval()
        if row is not None:
            with torch.no_grad():
                for end in (model.get_input_embeddings(), model.get_output_embeddings()):
                    end.weight[tokenizer.convert_tokens_to_ids(TOKEN)] = row
        return cls(processor, model)

    def inputs(self, shown: Frames, fps: float = 2.0, pair: PromptPair = PAIR) -> dict[str, Any]:
        """Return the processor's outputs for a clip ``(T, H, W, 3)`` or a photo ``(H, W, 3)`` and a reply.

        Args:
            fps: rate of the frames, all of which are used.
        """
        is_clip = shown.ndim == 4
        seen = {"type": "video" if is_clip else "image"}
        turns = [
            {"role": "user", "content": [seen, {"type": "text", "text": pair.question}]},
            {"role": "assistant", "content": [{"type": "text", "text": pair.reply.replace("{token}", TOKEN)}]},
        ]
        # No marks around all moments of Qwen3-VL, as when the model came out: transformers 5.24 leaves them in
        # (``QwenVl.layout``).
        text = self.processor.apply_chat_template(turns, tokenize=False)
        if is_clip and hasattr(self.processor, "_calculate_timestamps"):
            text = text.replace("<|vision_start|><|video_pad|><|vision_end|>", "<|video_pad|>")
        if not is_clip:
            return dict(self.processor(text=text, images=[shown], return_tensors="pt", do_resize=False))
        times = VideoMetadata(total_num_frames=len(shown), fps=fps, frames_indices=list(range(len(shown))))
        return dict(self.processor(text=text, videos=shown, video_metadata=times, return_tensors="pt"))

    def positions(self, inputs: dict[str, Any]) -> Tensor:
        """Return the positions, ``(3, L)``."""
        wanted = {key: value for key, value in inputs.items() if not key.startswith("pixel")}
        found: Tensor = self.model.model.get_rope_index(**wanted)[0][:, 0]
        return found

    def state(self, inputs: dict[str, Any]) -> Tensor:
        """Return the last state at the token, ``(D,)``."""
        with torch.inference_mode():
            states = self.model(**inputs, output_hidden_states=True).hidden_states[-1][0]
        token = self.processor.tokenizer.convert_tokens_to_ids(TOKEN)
        found: Tensor = states[int((inputs["input_ids"][0] == token).nonzero())]
        return found
