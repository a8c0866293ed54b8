"""Batching of groups of frames, each encoded once for all windows that contain it, and of windows."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from vidrisk.inference.meter import Meter
from vidrisk.inference.model import Classifier
from vidrisk.inference.windows import Encoded, EncodedAgain, EncodedPause, EncodedWindow
from vidrisk.runtimes.runner import Array

Key = tuple[int, ...]  # indices of the frames of a group


@dataclass(eq=False)
class _Groups:
    """Results of the groups of one input; None if a group is not computed yet."""

    known: dict[Key, tuple[Array, ...] | None] = field(default_factory=dict)


def encode_groups(
    batches: Iterable[list[Encoded]], classifier: Classifier, level: int, batch_frames: int, meter: Meter
) -> Iterator[list[Encoded]]:
    """Run the stages of one level on the groups that windows consist of.

    A group is identified by the indices of its frames, so windows share groups that coincide. Yields windows with the
    results of their groups, and everything else, in order within an input.
    """
    plan = classifier.plan.groups[level]
    most = max(1, batch_frames // plan.size)
    inputs: dict[int, _Groups] = {}
    queue: deque[Encoded] = deque()
    batch: list[tuple[_Groups, Key, dict[str, tuple[Array, ...]]]] = []

    def run() -> None:
        flat = {name: np.stack([part for _, _, parts in batch for part in parts[name]]) for name in plan.takes}
        with meter.measure("encode"):
            computed = classifier.encode_groups(level, flat)
        rows = zip(*(computed[name] for name in plan.gives), strict=True)
        for (groups, key, _), row in zip(batch, rows, strict=True):
            groups.known[key] = tuple(array.copy() for array in row)  # a view would keep the whole batch alive
        batch.clear()

    def release() -> Iterator[Encoded]:
        """Yield every complete item whose input has no incomplete item before it."""
        blocked: set[int] = set()
        for _ in range(len(queue)):
            item = queue.popleft()
            input_id = item.input_id
            if input_id not in blocked and isinstance(item, EncodedWindow):
                known = inputs[input_id].known
                of_groups = [known[key] for key in _keys(item, plan.size)]
                if all(of_group is not None for of_group in of_groups):
                    yield _with_groups(item, plan.gives, [of_group for of_group in of_groups if of_group is not None])
                    for key in [key for key in known if key[0] < item.indices[0]]:
                        del known[key]
                    continue
                blocked.add(input_id)
            if input_id in blocked:
                queue.append(item)
            else:
                inputs.pop(input_id, None)
                yield item

    for items in batches:
        for item in items:
            if isinstance(item, EncodedAgain):
                inputs.pop(item.input_id, None)
                queue = deque(other for other in queue if other.input_id != item.input_id)
                batch = [one for one in batch if any(one[0] is groups for groups in inputs.values())]
            elif isinstance(item, EncodedWindow):
                groups = inputs.setdefault(item.input_id, _Groups())
                for number, key in enumerate(_keys(item, plan.size)):
                    if key not in groups.known:
                        groups.known[key] = None
                        own = slice(number * plan.size, (number + 1) * plan.size)
                        batch.append((groups, key, {name: item.parts[name][own] for name in plan.takes}))
                        if len(batch) == most:
                            run()
            elif isinstance(item, EncodedPause) and batch:
                run()
            queue.append(item)
        yield list(release())
    if batch:
        run()
    yield list(release())


def _keys(window: EncodedWindow, size: int) -> list[Key]:
    return [window.indices[start : start + size] for start in range(0, len(window.indices), size)]


def _with_groups(window: EncodedWindow, names: tuple[str, ...], groups: list[tuple[Array, ...]]) -> EncodedWindow:
    return replace(window, parts={**window.parts, **dict(zip(names, zip(*groups, strict=True), strict=True))})


def gather_windows(batches: Iterable[list[Encoded]], most: int) -> Iterator[list[Encoded]]:
    """Collect windows until there are ``most``, or a pause; later items of their inputs wait with them."""
    held: list[Encoded] = []
    windows = 0
    for items in batches:
        for item in items:
            if isinstance(item, EncodedAgain):
                held = [other for other in held if other.input_id != item.input_id]
                windows = sum(isinstance(other, EncodedWindow) for other in held)
            held.append(item)
            windows += isinstance(item, EncodedWindow)
            if windows == most or isinstance(item, EncodedPause):
                yield held
                held, windows = [], 0
        if not windows:
            yield held
            held = []
    yield held
