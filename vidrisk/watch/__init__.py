"""A folder is watched: what comes in is predicted, and every day gets its own results and report. Read in this order:

    inbox.py    which files are there, and which of them are complete
    taken.py    which file belongs to which day, kept on disk so that nothing is lost or done twice
    loop.py     the passes: finish, look, predict, report, tidy
    tidy.py     what becomes of inputs and results when their day is over
    signals.py  how a watch ends
    notify.py   what systemd is told

    OUT/inbox.sqlite                    what was taken
    OUT/2026-11-21/predictions.jsonl    and everything else that ``vidrisk infer`` writes
    OUT/2026-11-21.2/                   the same day, after the bundle or a setting was changed
"""

from vidrisk.watch.loop import Batch, WatchSettings, watch_inbox

__all__ = ["Batch", "WatchSettings", "watch_inbox"]
