"""Watch service: predicts files that arrive in a folder, with separate results and a report for every day.

Suggested reading order:

    inbox.py     which files are present, and which of them are complete
    memory.py    the database of files taken: opened, or rebuilt from the ledgers
    taken.py     which file belongs to which day, recorded so that nothing is lost or done twice
    damage.py    whether the folder of a day can be continued
    settings.py  settings of a watch
    service.py   the passes: look, take, predict, report, tidy
    troubles.py  errors that keep a duty of a pass from being done
    tidy.py      moving inputs and deleting results after their day is over
    moving.py    moving one file out of the inbox, which is untrusted
    signals.py   end of a watch on a signal
    notify.py    notifications to systemd

    OUT/inbox.sqlite                    files taken
    OUT/inbox.sqlite.damaged-1          an earlier database that became unreadable
    OUT/2026-11-21/predictions.jsonl    and everything else that ``vidrisk infer`` writes
    OUT/2026-11-21.2/                   the same day, after the bundle or a setting was changed, or the first folder was
                                        damaged
"""

from vidrisk.watch.service import Batch, watch_inbox
from vidrisk.watch.settings import WatchSettings

__all__ = ["Batch", "WatchSettings", "watch_inbox"]
