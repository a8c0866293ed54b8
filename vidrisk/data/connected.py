"""Groups things that share a key, directly or through others (connected components)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Key = tuple[str, str]  # kind, value


def smallest_connected(things: Sequence[Iterable[Key]]) -> list[Key]:
    """Return for each thing the smallest key of its connected component.

    Each thing has at least one key. The result does not depend on the order of the things.
    """
    joined: dict[Key, Key] = {}

    def root_of(key: Key) -> Key:
        while joined.setdefault(key, key) != key:
            joined[key] = joined[joined[key]]
            key = joined[key]
        return key

    firsts: list[Key] = []
    for keys in things:
        first, *others = keys
        firsts.append(first)
        for other in others:
            one, two = sorted((root_of(first), root_of(other)))
            joined[two] = one
    return [root_of(first) for first in firsts]
