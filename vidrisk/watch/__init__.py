"""A folder is watched: what comes in is predicted, and every day gets its own results and report. Read in this order:

inbox.py    which files are there, and which of them are complete
memory.py   the file that remembers what was taken: opened, or made again from the ledgers
taken.py    which file belongs to which day, kept there so that nothing is lost or done twice
damage.py   whether the folder of a day can be continued
settings.py how to watch
service.py  the passes: look, take, predict, report, tidy
troubles.py what keeps a duty of a pass from being done
tidy.py     what becomes of inputs and results when their day is over
moving.py   one file out of the inbox, which is not to be trusted
signals.py  how a watch ends
notify.py   what systemd is told

OUT/inbox.sqlite                    what was taken
OUT/inbox.sqlite.damaged-1          one of before, which could not be read any more
OUT/2026-11-21/predictions.jsonl    and everything else that ``vidrisk infer`` writes
OUT/2026-11-21.2/                   the same day, after the bundle or a setting was changed, or the first folder was
damaged
"""

from vidrisk.watch.service import Batch, watch_inbox
from vidrisk.watch.settings import WatchSettings

__all__ = ["Batch", "WatchSettings", "watch_inbox"]
