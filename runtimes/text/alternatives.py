"""Log-probabilities of a few alternative words at one place of an answer, the basis of a level's confidence."""

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
    """Return the log-probability of each alternative, given the prompt and the answer up to the place.

    Each alternative is tokenized with the text around it, as the model would read it, and scored from the first token
    in which any of them differs from the written answer. Alternatives of one and of several tokens are therefore
    comparable. The values do not sum to 1 as probabilities; take a softmax over the alternatives for that.

    Args:
        session: the session that wrote the answer.
        slot: sequence of the answer; its tokens after the prompt are overwritten.
        vocabulary: tokenizer of the model.
        comparison: the place and the alternatives.
        text: text of the answer.
        written: tokens of the answer.
        prompt: number of tokens of the prompt.
        last_of_prompt: embedding of the prompt's last token, ``(1, width)``.

    Returns:
        Log-probability by word; None if the answer does not have this place, or the cache is too small.
    """
    place = text.find(comparison.after)
    if place < 0:
        return None
    before = text[: place + len(comparison.after)]
    tried = {word: vocabulary.encode(before + comparison.render(word)) for word in comparison.alternatives}
    seen = session.length(slot) - prompt  # the graph has not read the last tokens of the answer
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


def find_choice_tokens(encoder: Encoder, comparison: Comparison, text: str) -> range:
    """Return the indices of an answer's tokens that select one alternative; empty if it contains none."""
    begin = text.find(comparison.after) + len(comparison.after)
    word = next((word for word in comparison.alternatives if text[begin:].startswith(comparison.render(word))), None)
    if word is None or not text[:begin].endswith(comparison.after):
        return range(0)
    tried = {each: encoder.encode(text[:begin] + comparison.render(each)).tolist() for each in comparison.alternatives}
    own = tried.pop(word)
    first = min(common_length(own, other) for other in tried.values())
    behind = min(common_length(own[::-1], other[::-1]) for other in tried.values())
    whole = common_length(own, encoder.encode(text).tolist())  # the last tokens may merge with the following text
    return range(first, min(max(len(own) - behind, first + 1), whole))


def common_length(one: list[int], other: list[int]) -> int:
    """Return the length of the common prefix of two token lists."""
    return next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
