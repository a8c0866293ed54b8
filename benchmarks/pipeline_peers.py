"""Programs that the pipeline is compared with; each prints one line of JSON.

    python benchmarks/pipeline_peers.py decode BUNDLE CLIPS                read the clips of a folder, and discard them
    python benchmarks/pipeline_peers.py model BUNDLE COUNT                 encoder and head on COUNT clips in memory
    python benchmarks/pipeline_peers.py script RUN CLIPS OUT               a usual script: transformers and torch
    python benchmarks/pipeline_peers.py queue BUNDLE CLIPS OUT             a hand-written asynchronous OpenVINO pipeline
    python benchmarks/pipeline_peers.py queue_model BUNDLE COUNT           its engine part: COUNT clips in memory
    python benchmarks/pipeline_peers.py queue_windows BUNDLE VIDEO OUT     one video; each window is encoded on its own

``script`` and ``queue`` write one line per clip to OUT: its path and its label.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import av
import numpy as np
import numpy.typing as npt
from PIL import Image

from vidrisk.frames.geometry import pixels_from_image
from vidrisk.frames.reader import read_clips
from vidrisk.runtimes import Bundle, Contract, PixelSpec, TimeSpec

Frames = npt.NDArray[np.uint8]
Named = tuple[str, Frames]  # a clip's path and its frames (T, H, W, 3)
Item = TypeVar("Item")
Result = TypeVar("Result")
Decoding = Literal["threads", "processes", "codec"]
HEAD_BATCH = 32
AHEAD = 2  # clips in work or waiting, per worker


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if not path.is_dir())


def random_clips(contract: Contract, count: int) -> Frames:
    """Return random clips ``uint8 (count, T, H, W, 3)``; the time of engines does not depend on the pixel values."""
    return np.random.default_rng(0).integers(
        0, 256, (count, contract.frames, *contract.pixel.frame_shape), dtype=np.uint8
    )


def decode(options: argparse.Namespace) -> dict[str, Any]:
    """Run only the decoder, in one thread."""
    contract = Bundle.open(options.model).contract
    clips = sum(1 for path in files_below(options.inputs) for _ in read_clips(path, contract.pixel, contract.time))
    return {"clips": clips}


def model(options: argparse.Namespace) -> dict[str, Any]:
    """Run only our engine: the stages after decoding, on clips that are already in memory."""
    from vidrisk.decode.messages import Input, InputEnd, Read
    from vidrisk.frames import Frame, FrameWindow
    from vidrisk.inference.encode import encode_frames
    from vidrisk.inference.head import predict
    from vidrisk.inference.meter import Meter
    from vidrisk.inference.model import open_classifier

    def reads(count: int) -> Iterator[Read]:
        moments = tuple(range(classifier.contract.frames))
        for number in range(count):
            clip = Input(number, str(number))
            for moment, pixels in zip(moments, clips[number % len(clips)], strict=True):
                yield Read(clip, Frame(moment, float(moment), pixels))
            yield Read(clip, FrameWindow(None, None, moments))
            yield Read(clip, InputEnd("ok"))

    def answer(count: int) -> int:
        meter = Meter()
        encoded = encode_frames(reads(count), classifier, options.batch, meter)
        return sum(one.count for one in predict(encoded, classifier, meter))

    with open_classifier(options.model, runtime=options.runtime, variant=options.variant) as classifier:
        clips = random_clips(classifier.contract, 8)
        if options.warm:
            answer(max(1, options.batch // classifier.contract.frames))
        begin = time.perf_counter()
        answered = answer(options.inputs)
        model_s = time.perf_counter() - begin
        assert answered == options.inputs
        return {"clips": answered, "model_s": model_s, "runtime": classifier.runtime, "variant": classifier.variant}


def script(options: argparse.Namespace) -> dict[str, Any]:
    """Run the usual loop over files, in eager fp32, one clip at a time.

    It decodes all frames, selects some at equal distances, and applies the image processor.

    The processor resizes and crops as in the run's contract; scaling and normalisation are the first layer of the
    model. The adapter is merged.
    """
    import torch
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from vidrisk.export.convert.merge import merge_trained
    from vidrisk.models.run import Run

    run = Run.open(options.model)
    contract, classifier = run.contract, run.load_classifier()
    encoder, head, pixel = merge_trained(classifier.encoder), classifier.head, contract.pixel
    if pixel.resize != "crop" or pixel.crop_fraction != 1:
        raise SystemExit("the script's image processor needs a run whose pixels are cropped whole")
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": min(pixel.height, pixel.width)},
        do_rescale=False,
        do_normalize=False,
        crop_size={"height": pixel.height, "width": pixel.width},
        resample={"bilinear": 2, "bicubic": 3}[pixel.interpolation],
    )
    model_s, begin = 0.0, time.perf_counter()
    with torch.no_grad(), options.out.open("w", encoding="utf-8") as file:
        for path in files_below(options.inputs):
            with av.open(path) as container:
                decoded = list(container.decode(video=0))
            chosen = np.linspace(0, len(decoded) - 1, contract.frames).astype(int)
            images = [decoded[i].to_ndarray(format="rgb24") for i in chosen]
            inputs = processor(images, return_tensors="pt")["pixel_values"]
            asked = time.perf_counter()
            logits = head(encoder(inputs.permute(0, 2, 3, 1))[None])[0]
            label = contract.targets[0].labels[int(logits.argmax())]
            model_s += time.perf_counter() - asked
            file.write(json.dumps({"path": str(path), "label": label}) + "\n")
    return {"run_s": time.perf_counter() - begin, "model_s": model_s}


def frames_at_moments(path: Path, count: int, pixel: PixelSpec, *, codec_threads: bool) -> Named:
    """Decode the frames at the middles of ``count`` equal parts of a clip, in one pass that ends with the last one."""
    taken: list[Frames] = []
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO" if codec_threads else "NONE"
        base, rate = stream.time_base or Fraction(1), stream.average_rate or Fraction(25)
        duration_s = float(stream.duration * base if stream.duration else stream.frames / rate)
        moments_s = (np.arange(count) + 0.5) * duration_s / count + 1e-6
        # AVI stores no presentation times: frames come at a constant rate, in the order in which they are given out
        is_avi = container.format.name == "avi"
        first = stream.codec_context.reorder_depth if is_avi else stream.start_time or 0
        at_s, shown, pixels = 0.0, None, None  # pixels of the frame that is shown, once they were asked for
        for packet in container.demux(stream):
            if (
                not (is_avi or codec_threads) and packet.pts is not None
            ):  # others are decoded only if frames refer to them
                ahead_s = moments_s - float((packet.pts - first) * base)
                stream.codec_context.skip_frame = (
                    "DEFAULT" if ((ahead_s >= 0) & (ahead_s < 1.5 / rate)).any() else "NONREF"
                )
            for frame in packet.decode():
                stamp = frame.dts if is_avi else frame.pts
                at_s = at_s + float(1 / rate) if stamp is None else float((stamp - first) * base)
                while shown is not None and len(taken) < count and moments_s[len(taken)] < at_s:
                    pixels = _pixels(shown, pixel) if pixels is None else pixels
                    taken.append(pixels)
                shown, pixels = frame, None
            if len(taken) == count:
                break
        if shown is not None and len(taken) < count:
            taken += [_pixels(shown, pixel)] * (count - len(taken))
    return str(path), np.stack(taken)


def _pixels(frame: Any, pixel: PixelSpec) -> Frames:
    pixels: Frames = pixels_from_image(Image.fromarray(frame.to_ndarray(format="rgb24")), pixel)
    return pixels


def in_order(pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int) -> Iterator[Result]:
    """Like ``pool.map``, but with at most ``ahead`` results in progress or waiting."""
    running: deque[Future[Result]] = deque()
    for item in items:
        running.append(pool.submit(function, item))
        if len(running) > ahead:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()


class Queue:
    """An encoder on OpenVINO's request queue, tuned for throughput, with batches filled across clips, and its head.

    Requests read their batch without a copy, and write features directly to the clips' places. Shapes are static.
    """

    def __init__(self, bundle: Bundle, variant: Any, *, batch: int, precision: str) -> None:
        import openvino as ov

        core = ov.Core()
        hints = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            **({"INFERENCE_PRECISION_HINT": precision} if precision != "default" else {}),
        }
        encoder = core.read_model(bundle.path("encoder", variant))
        encoder.reshape({"frames": [batch, *bundle.contract.pixel.frame_shape]})
        compiled = core.compile_model(encoder, "CPU", hints)
        self.requests = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        self._queue = ov.AsyncInferQueue(compiled, self.requests)
        self._queue.set_callback(self._store_answer)
        self._head = core.compile_model(core.read_model(bundle.path("head", variant)), "CPU", hints)
        self._shape, self._moments = (batch, *bundle.contract.pixel.frame_shape), bundle.contract.frames
        self._labels = bundle.contract.targets[0].labels
        self.features: dict[str, list[Any]] = {}  # one per moment

    def labels_of(self, clips: Iterable[Named]) -> dict[str, str]:
        """Return the label of each clip."""
        batch = np.empty(self._shape, np.uint8)
        places: list[tuple[str, int]] = []
        for name, frames in clips:
            self.features[name] = [None] * self._moments
            for moment, frame in enumerate(frames):
                batch[len(places)] = frame
                places.append((name, moment))
                if len(places) == len(batch):
                    self._queue.start_async({"frames": batch}, (batch, places), share_inputs=True)
                    batch, places = np.empty(self._shape, np.uint8), []
        if places:
            self._queue.start_async({"frames": batch}, (batch, places), share_inputs=True)
        self._queue.wait_all()
        labels = dict(self._head_labels())
        self.features.clear()
        return labels

    def _store_answer(self, request: Any, job: tuple[Frames, list[tuple[str, int]]]) -> None:
        for (name, moment), feature in zip(job[1], request.get_output_tensor().data.copy(), strict=False):
            self.features[name][moment] = feature

    def _head_labels(self) -> Iterator[tuple[str, str]]:
        names = [*self.features]
        for begin in range(0, len(names), HEAD_BATCH):
            some = names[begin : begin + HEAD_BATCH]
            logits = self._head({"features": np.stack([np.stack(self.features[name]) for name in some])})[0]
            yield from zip(some, (self._labels[i] for i in logits.argmax(axis=1)), strict=True)


def queue(options: argparse.Namespace) -> dict[str, Any]:
    """Run decoding in a pool and inference in the queue concurrently."""
    bundle = Bundle.open(options.model)
    workers = 1 if options.decoding == "codec" else len(os.sched_getaffinity(0))
    read = partial(
        frames_at_moments,
        count=bundle.contract.frames,
        pixel=bundle.contract.pixel,
        codec_threads=options.decoding == "codec",
    )
    with (ProcessPoolExecutor if options.decoding == "processes" else ThreadPoolExecutor)(workers) as pool:
        list(pool.map(time.sleep, [0.01] * workers))  # processes are forked before the engine has threads
        engine = Queue(bundle, options.variant, batch=options.batch, precision=options.precision)
        begin = time.perf_counter()
        labels = engine.labels_of(in_order(pool, read, files_below(options.inputs), AHEAD * workers))
    _write(labels, options.out)
    return {"run_s": time.perf_counter() - begin, "requests": engine.requests, "workers": workers}


def queue_model(options: argparse.Namespace) -> dict[str, Any]:
    """Run the queue on clips that are already in memory."""
    bundle = Bundle.open(options.model)
    engine = Queue(bundle, options.variant, batch=options.batch, precision=options.precision)
    clips = random_clips(bundle.contract, 8)
    engine.labels_of((f"warm {i}", clip) for i, clip in enumerate(clips))
    begin = time.perf_counter()
    engine.labels_of((str(i), clips[i % len(clips)]) for i in range(options.inputs))
    return {"clips": options.inputs, "model_s": time.perf_counter() - begin, "requests": engine.requests}


def queue_windows(options: argparse.Namespace) -> dict[str, Any]:
    """Process one video: a thread decodes every frame once, and the queue encodes every frame of every window."""
    bundle = Bundle.open(options.model)
    time_spec = TimeSpec(bundle.contract.frames, options.window, options.stride)
    engine = Queue(bundle, options.variant, batch=options.batch, precision=options.precision)
    windows = (
        (f"{clip.start_s:.3f}", clip.frames) for clip in read_clips(options.inputs, bundle.contract.pixel, time_spec)
    )
    begin = time.perf_counter()
    with ThreadPoolExecutor(1) as pool:
        labels = engine.labels_of(_fetch(pool, windows, AHEAD))
    _write(labels, options.out)
    return {"run_s": time.perf_counter() - begin, "requests": engine.requests, "windows": len(labels)}


def _fetch(pool: Executor, items: Iterator[Item], ahead: int) -> Iterator[Item]:
    """Yield items that a thread of the pool produces, at most ``ahead`` of them in advance."""
    running = deque(pool.submit(next, items, None) for _ in range(ahead))
    while (item := running.popleft().result()) is not None:
        running.append(pool.submit(next, items, None))
        yield item


def _write(labels: dict[str, str], out: Path) -> None:
    out.write_text(
        "".join(json.dumps({"path": path, "label": label}) + "\n" for path, label in labels.items()), encoding="utf-8"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = {maker.__name__: maker for maker in (decode, model, script, queue, queue_model, queue_windows)}
    parser.add_argument("kind", choices=kinds)
    parser.add_argument("model", type=Path)
    parser.add_argument("inputs", type=lambda text: int(text) if text.isdigit() else Path(text))
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--variant", default="auto")
    parser.add_argument("--batch", type=int, default=32, help="frames")
    parser.add_argument("--decoding", choices=("threads", "processes", "codec"), default="threads")
    parser.add_argument("--precision", choices=("default", "f32"), default="default")
    parser.add_argument("--warm", action="store_true", help="one batch before the time is taken")
    parser.add_argument("--window", type=float)
    parser.add_argument("--stride", type=float)
    options = parser.parse_args(arguments)
    print(json.dumps(kinds[options.kind](options)))


if __name__ == "__main__":
    main()
