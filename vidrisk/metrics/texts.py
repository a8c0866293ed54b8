"""Exact ROUGE-L and chrF, 0–1, of a text and a reference; ROUGE-L compares Chinese and Japanese by character.

Other scripts are compared by word.
"""

from __future__ import annotations

import unicodedata
from collections import Counter

from vidrisk.metrics.subsequence import lcs_length

CHRF_ORDER = 6
CHRF_BETA = 2.0
# First and last code point of each block of scripts without spaces between words: Han, Hiragana, Katakana, Bopomofo.
_UNSPACED = (
    (0x3005, 0x3007),
    (0x3041, 0x312F),
    (0x31A0, 0x31BF),
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFD),
)


def tokens_from_text(text: str) -> list[str]:
    """Return the tokens that ROUGE counts: lower-case words, and single Chinese or Japanese characters.

    Words consist of letters, digits and marks; everything else separates words and is not counted. Full-width forms are
    treated as their half-width forms (NFKC).
    """
    tokens: list[str] = []
    word = ""
    for character in unicodedata.normalize("NFKC", text).casefold():
        if is_unspaced(character):
            tokens += [word, character] if word else [character]
            word = ""
        elif is_word(character):
            word += character
        elif word:
            tokens.append(word)
            word = ""
    return [*tokens, word] if word else tokens


def is_unspaced(character: str) -> bool:
    """Return whether a character is of a script that does not separate words."""
    code = ord(character)
    return code >= _UNSPACED[0][0] and any(first <= code <= last for first, last in _UNSPACED)


def is_word(character: str) -> bool:
    """Return whether a character is part of a word: a letter, a digit or a mark."""
    return unicodedata.category(character)[0] in "LNM"


def rouge_l(reference: str, candidate: str) -> float:
    """Return ROUGE-L as F1, 0–1: 2 P R / (P + R), P = LCS / tokens of the candidate, R = LCS / tokens of the reference.

    LCS is the length of the longest common subsequence of tokens. Lin, ROUGE: A Package for Automatic Evaluation of
    Summaries, ACL 2004, with beta 1. 1 if neither text has a token.
    """
    a, b = tokens_from_text(reference), tokens_from_text(candidate)
    return 2 * lcs_length(a, b) / (len(a) + len(b)) if a or b else 1.0


def chrf(reference: str, candidate: str) -> float:
    """Return chrF, 0–1: (1 + β²) P R / (β² P + R) with β = 2.

    P and R are the mean precision and recall of character n-grams, n = 1 … 6. White space is removed; case and
    punctuation count. Orders for which a text is too short are left out of the mean, as in sacreBLEU. Popović, chrF:
    character n-gram F-score for automatic MT evaluation, WMT 2015. 1 if both texts are empty.
    """
    a, b = "".join(reference.split()), "".join(candidate.split())
    orders = range(1, min(CHRF_ORDER, len(a), len(b)) + 1)
    if not orders:
        return float(a == b)
    precision = recall = 0.0
    for order in orders:
        wanted, found = _ngrams(a, order), _ngrams(b, order)
        common = (wanted & found).total()
        precision += common / found.total() / len(orders)
        recall += common / wanted.total() / len(orders)
    weighted = CHRF_BETA**2 * precision + recall
    return (1 + CHRF_BETA**2) * precision * recall / weighted if weighted else 0.0


def _ngrams(text: str, order: int) -> Counter[str]:
    return Counter(text[start : start + order] for start in range(len(text) - order + 1))
