"""How likely a model finds each of a few words at one place of its answer: what the confidence of a level is made of."""

from __future__ import annotations

import numpy as np

from vidrisk.runtimes.text.requests import Comparison, Embeddings
from vidrisk.runtimes.text.sampling import log_probabilities
from vidrisk.runtimes.text.session import TextSession
from vidrisk.runtimes.text.turns import Encoder
from vidrisk.runtimes.text.vocabulary import Vocabulary


def compare_alternatives(
    session: TextSession,
    slot: int,
    vocabulary: Vocabulary,
    comparison: Comparison,
    text: str,
    written: list[int],
    prompt: int,
    last_of_prompt: Embeddings,
) -> dict[str, float] | None:
    """Log-probability of each alternative, given the prompt and the answer up to the place.

    Each alternative with what is around it is put into tokens as the model would read it, and scored from the first
    token in which any of them differs from what was written. So alternatives of one token and of several are
    comparable. They are no probabilities that add up to 1: whoever wants these takes a softmax over the alternatives.

    Args:
        slot: its sequence, whose tokens behind the prompt are overwritten.
        text, written: of the answer.
        prompt: tokens of the prompt.
        last_of_prompt: embedding of the prompt's last token, ``(1, width)``.

    Returns:
        None where the answer has no such place, or the cache no room.
    """
    place = text.find(comparison.after)
    if place < 0:
        return None
    before = text[: place + len(comparison.after)]
    tried = {word: vocabulary.encode(before + comparison.written(word)) for word in comparison.alternatives}
    seen = session.length(slot) - prompt  # the graph has not read the last tokens of an answer
    same = min(seen + 1, *(common_length(ids.tolist(), written) for ids in tried.values()))
    result = {}
    for word, ids in tried.items():
        if prompt + len(ids) > session.tokens:
            return None
        session.truncate(slot, prompt + same - 1)
        known = session.embed(ids[same - 1 : -1]) if same else np.concatenate([last_of_prompt, session.embed(ids[:-1])])
        scores = log_probabilities(session.extend(slot, known, rows=len(ids) - same))
        result[word] = float(scores[np.arange(len(ids) - same), ids[same:]].sum())
    return result


def choosing_tokens(encoder: Encoder, comparison: Comparison, text: str) -> range:
    """Places of the tokens of an answer by which it names one alternative and no other; none where it names none."""
    begin = text.find(comparison.after) + len(comparison.after)
    word = next((word for word in comparison.alternatives if text[begin:].startswith(comparison.written(word))), None)
    if word is None or not text[:begin].endswith(comparison.after):
        return range(0)
    tried = {each: encoder.encode(text[:begin] + comparison.written(each)).tolist() for each in comparison.alternatives}
    own = tried.pop(word)
    first = min(common_length(own, other) for other in tried.values())
    behind = min(common_length(own[::-1], other[::-1]) for other in tried.values())
    whole = common_length(
        own, encoder.encode(text).tolist()
    )  # what follows may be put into one token with the last ones
    return range(first, min(max(len(own) - behind, first + 1), whole))


def common_length(one: list[int], other: list[int]) -> int:
    """Tokens that two lists begin with alike."""
    return next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
