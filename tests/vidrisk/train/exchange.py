"""Program that a test starts twice, as a launcher would.

The two processes exchange data, and each one prints the data that it received.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from vidrisk.runtimes.contract.errors import VidriskError
from vidrisk.train import shares
from vidrisk.train.failures import find_not_finite, make_batch_error
from vidrisk.train.shares import Share, open_share

KINDS = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool)
ROWS = (-0.0, 1.5, float("nan"), float("-inf"), 3e-5)


def check_join(share: Share, kind: torch.dtype) -> bool:
    """Return whether rows joined from two processes equal the whole tensor, bit for bit."""
    whole = torch.tensor(ROWS, dtype=torch.float32).nan_to_num(0 if kind == torch.int64 else None).to(kind)
    whole = whole[:, None].repeat(1, 3)
    part = torch.zeros_like(whole)
    part[share.rank :: share.world] = whole[share.rank :: share.world]
    return bool((share.join(part).view(torch.uint8) == whole.view(torch.uint8)).all())


def copy_from_main(share: Share) -> list[object]:
    """Return the tensors of this process after those of the main process were copied over them."""
    torch.manual_seed(share.rank)
    parameter, mask = torch.nn.Parameter(torch.randn(3)), torch.tensor([share.is_main])
    table = torch.arange(6).reshape(2, 3).t() + share.rank  # its rows do not lie one behind the other
    share.copy_main([parameter, mask, table])
    return [parameter.tolist(), parameter.requires_grad, mask.tolist(), table.tolist()]


def describe_bad_batch(share: Share) -> str:
    """Return the error for a batch of three samples, of which the one in the second process is not finite."""
    mine = share.of(["a.png", "b.png", "c.png"])
    logits = torch.full((len(mine), 2), 0.0 if share.is_main else float("nan"))
    bad = share.gather(find_not_finite((logits,), mine))
    return str(make_batch_error("loss", epoch=1, batch=2, bad=bad, names=share.gather(mine), kept="nothing"))


def check_photos(share: Share, folder: Path) -> list[object]:
    """Return the names of unreadable photos, the batches of this process, and the number of photos that it keeps.

    The batches are lists of photo numbers.
    """
    from vidrisk.data.cases import PhotoFile
    from vidrisk.data.instructions import Instruction, Turn
    from vidrisk.decode.pool import DecodePool
    from vidrisk.runtimes.contract.specs import PixelSpec
    from vidrisk.train.conversations import Photos

    sources = [PhotoFile(path, path.name) for path in sorted(folder.iterdir())]
    items = [
        Instruction(source.name, (source,), (Turn("user", "<image>?"), Turn("assistant", "grey"))) for source in sources
    ]
    with DecodePool(1) as pool:
        photos = Photos(items, PixelSpec(32, 32), pool, 1)
        unreadable = photos.check(lambda *_: None, share)
        photos.show([source for source in sources if source not in unreadable])
        return [[getattr(source, "name", "") for source in unreadable], photos.list_batches(share), len(photos._kept)]


def train(photos: Path) -> str:
    """Train in a group whose other process has ended; return the error."""
    from vidrisk.data import load_table
    from vidrisk.models.config import config_from_options
    from vidrisk.train.train import train_run

    try:
        train_run(load_table(photos, "action"), config_from_options(None, ["augment=[]"]), photos.parent / "run")
    except VidriskError as error:
        return str(error)
    return "trained"


def main() -> None:
    share = open_share()
    shares.BYTES_AT_ONCE = 16
    figure = (1.0, 4.0)[share.rank]
    found = {
        "share": [share.rank, share.world, share.is_main, share.device.type],
        "joined": {str(kind): check_join(share, kind) for kind in KINDS},
        "nothing": share.join(torch.zeros((0, 3))).shape,
        "means": [share.mean(figure), share.mean(float("inf") if share.is_main else 1.0)],
        "gathered": share.gather({"名": ["\udc80"] * share.rank, "none": None}),
        "empty": share.gather([] if share.is_main else ""),
        "copied": copy_from_main(share),
        "told": describe_bad_batch(share),
        "photos": check_photos(share, Path(sys.argv[2])),
    }
    share.wait()
    if not share.is_main:
        print(json.dumps(found), flush=True)
        os._exit(1)  # as if killed: without leaving the process group
    print(json.dumps(found | {"alone": train(Path(sys.argv[1]))}))


if __name__ == "__main__":
    main()
