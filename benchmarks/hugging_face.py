"""Classify a folder of photos with ``transformers.pipeline`` and with ``vidrisk infer``, on the same weights.

    python benchmarks/hugging_face.py --data DIR [--work DIR] [--trial]

A ViT (``ViTForImageClassification``, six blocks of width 192) is trained on brick cracks and written with
``save_pretrained``. The pipeline reads that folder; ``vidrisk export --from-hf --int8`` makes a bundle of it. All are
whole processes over the same 2,000 names of the test photos, in turns: the pipeline in float32 with the faster of
batches of 1 and 8; vidrisk with ``fp32`` and with ``auto``, both without the report, and with ``auto`` and the report.
--data: the folder with brick_crack. --work: keeps the model and the bundle for the next time. --trial: few photos and
epochs, nothing written.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from foreign import MEAN, SIDE, STD, photos, split_of, train_model
from long_video import link_clips
from machine import describe_machine
from pipeline_peers import files_below
from pipeline_programs import Peer, cpus, in_turns, median, ratio, run_command, run_infer, share, walls
from process_costs import adopt_orphans

from vidrisk.data import Table, load_table
from vidrisk.export.trained import ExportOptions
from vidrisk.jobs.foreign import ForeignModel, export_foreign

transformers.utils.logging.disable_progress_bar()

RESULT = Path(__file__).parent / "results" / "hugging_face.json"
ROUNDS, NAMES, EPOCHS = 5, 2_000, 30
SHAPE: dict[str, Any] = {
    "hidden_size": 192,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "intermediate_size": 768,
    "image_size": SIDE,
    "patch_size": 12,
}
PIPELINE = """
import json, sys
from pathlib import Path
from transformers import pipeline

model, folder, batch = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
classify = pipeline("image-classification", model=model, device="cpu")
paths = sorted(str(path) for path in folder.rglob("*") if not path.is_dir())
answers = classify((path for path in paths), batch_size=batch, top_k=1)
print(json.dumps({path: answer[0]["label"] for path, answer in zip(paths, answers, strict=True)}))
"""


class Logits(torch.nn.Module):
    """A transformers classifier as a module from images ``(N, 3, H, W)`` to logits."""

    def __init__(self, classifier: Any) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(pixel_values=images).logits
        return logits


def write_model(train: Table, labels: list[str], epochs: int, out: Path) -> None:
    """Train a ViT from scratch, and write it with its image processor."""
    torch.manual_seed(0)
    classifier = transformers.ViTForImageClassification(
        transformers.ViTConfig(
            **SHAPE, id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)}
        )
    )
    train_model(Logits(classifier), *photos(train, labels), epochs)
    classifier.save_pretrained(out)
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": SIDE, "width": SIDE},
        "image_mean": MEAN.tolist(),
        "image_std": STD.tolist(),
        "resample": 2,
    }
    (out / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")


def measure(table: Table, work: Path, names: int, rounds: int, epochs: int) -> dict[str, Any]:
    train, val, test = split_of(table)
    labels = sorted({sample.labels["defect"] for sample in train.samples})
    model, bundle = work / "vit", work / "vit.bundle"
    if not (model / "preprocessor_config.json").is_file():
        write_model(train, labels, epochs, model)
    if not bundle.is_dir():
        options = ExportOptions(int8=True, allow_drop=True)
        export_foreign(ForeignModel(model), bundle, options, val=val, calib=train)
    folder = link_clips([sample.path for sample in test.samples], names, work / f"photos{names}")

    def classify(batch: int) -> Peer:
        spent = run_command([sys.executable, "-c", PIPELINE, model, folder, str(batch)], work)
        return Peer(spent, {}, json.loads(spent.output.splitlines()[-1]))

    tried = in_turns({str(size): partial(classify, size) for size in (1, 8)}, 1)
    batch = int(min(tried, key=lambda size: tried[size][0].spent.wall_s))
    programs: dict[str, Callable[[], Any]] = {
        "pipeline": partial(classify, batch),
        "vidrisk fp32": partial(run_infer, bundle, folder, work, "--variant", "fp32", "--no-report"),
        "vidrisk": partial(run_infer, bundle, folder, work, "--no-report"),
        "vidrisk with its report": partial(run_infer, bundle, folder, work),
    }
    done: dict[str, list[Any]] = in_turns(programs, rounds)
    theirs = done["pipeline"]
    found = {name: done[name][0].labels if name == "pipeline" else done[name][0].by_path for name in programs}
    label_of = {Path(sample.path).resolve(): str(sample.labels["defect"]) for sample in test.samples}
    truth = {str(path): label_of[path.resolve()] for path in files_below(folder)}
    return {
        "photos": len(truth),
        "different_photos": len(test),
        "batch": batch,
        "rounds": rounds,
        "rows": [
            {
                "name": name,
                **({} if name == "pipeline" else {key: done[name][0].made_with[key] for key in ("runtime", "variant")}),
                "wall_s": median(walls(done[name])),
                "cpu_s": median(cpus(done[name])),
                "faster": ratio(walls(theirs), walls(done[name])),
                "same_labels": share(theirs[0].labels, found[name]),
                "top1": share(truth, found[name]),
            }
            for name in programs
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--trial", action="store_true")
    arguments = parser.parse_args()
    adopt_orphans()
    table = load_table(arguments.data / "brick_crack", "risk")
    names, rounds, epochs = (24, 1, EPOCHS // 3) if arguments.trial else (NAMES, ROUNDS, EPOCHS)
    with tempfile.TemporaryDirectory() as folder:
        work = (arguments.work or Path(folder)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        os.environ["VIDRISK_CACHE"] = str(work / "cache")
        found = measure(table, work, names, rounds, epochs)
    print(json.dumps(found, indent=1))
    if not arguments.trial:
        RESULT.write_text(json.dumps({**found, "machine": describe_machine()}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
