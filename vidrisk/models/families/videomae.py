"""VideoMAE (Tong et al. 2022, https://arxiv.org/abs/2203.12602): a window at a time, in tubelets of two frames.

Position embeddings are sines, computed for any number of frames; checkpoints are trained on 16. There is no class
token: its own classifier reads the mean over all tokens.
"""

from vidrisk.models.families.hub import hub_family
from vidrisk.runtimes.contract.specs import PixelSpec


def _shape(pixel: PixelSpec, frames: int) -> dict[str, object]:
    return {"num_frames": frames, "image_size": [pixel.height, pixel.width]}


FAMILY = hub_family(
    "videomae", "VideoMAEModel", "mean", pools=("auto", "mean"), per="window", tubelet=2, options=_shape
)
