"""Verification of a bundle where it runs: its golden samples are computed again and the answers compared.

Read in this order:

    result.py    the result: a row per runtime and variant, the faults by name
    judge.py     one runtime and variant against the expected answers, with tolerances by precision
    faults.py    all rows together: which fault they show
    replay.py    every runtime and variant that works here, one after the other
    kept.py      the last results, in the cache: valid while engine, driver, bundle and vidrisk stay the same
    start.py     the check that a watch makes before it begins
"""

from vidrisk.verify.replay import verify_bundle
from vidrisk.verify.result import Fault, Row, Verification

__all__ = ["Fault", "Row", "Verification", "verify_bundle"]
