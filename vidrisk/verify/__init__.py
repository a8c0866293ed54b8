"""A bundle is verified where it runs: its golden samples are asked again, and the answers compared. Read in this order:

result.py    what is found: a row per runtime and variant, the faults by name
judge.py     one runtime and variant against what is expected, with tolerances by precision
faults.py    all rows together: which fault they show
replay.py    every runtime and variant that works here, one after the other
kept.py      the last results, in the cache: good as long as engine, driver, bundle and vidrisk stay the same
start.py     what a watch asks before it begins
"""

from vidrisk.verify.replay import verify_bundle
from vidrisk.verify.result import Fault, Row, Verification

__all__ = ["Fault", "Row", "Verification", "verify_bundle"]
