from __future__ import annotations

from mutants import MUTATIONS, mutants

ORIGINALS = [b"\0\0\0\x18ftypisom" + bytes(range(256)) * 8 + b"\0\0\0\x08moov", b"RIFF\x10\0\0\0AVI LIST" + b"x" * 900]


def test_the_same_seed_gives_the_same_mutants() -> None:
    assert list(mutants(ORIGINALS, 60, 1)) == list(mutants(ORIGINALS, 60, 1))
    assert list(mutants(ORIGINALS, 60, 1)) != list(mutants(ORIGINALS, 60, 2))
    assert list(mutants(ORIGINALS, 60, 1))[:20] == list(mutants(ORIGINALS, 20, 1))


def test_mutants_are_new_and_cover_every_mutation_and_original() -> None:
    made = dict(mutants(ORIGINALS, 400, 3))
    assert len(made) == 400
    assert sum(content in ORIGINALS for content in made.values()) < 20
    for mutation in MUTATIONS:
        for which in range(len(ORIGINALS)):
            assert any(f"of-{which}-" in name and mutation.__name__ in name.split("-") for name in made)


def test_originals_stay_as_they_are_and_tiny_ones_do_no_harm() -> None:
    originals = [b"x", bytes(3)]
    assert len(list(mutants(originals, 300, 5))) == 300 and originals == [b"x", bytes(3)]
