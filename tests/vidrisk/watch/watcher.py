"""Program that runs a watch with the colour classifier, to be killed, stopped and deprived of resources.

``watcher.py INBOX OUT [--slow] [--date DATE] [--max-file-bytes N]``.
"""

from __future__ import annotations

import argparse
import logging
import resource
import sys
from pathlib import Path

from colour import ACTION, colour_classifier

from vidrisk.jobs.run_settings import InferSettings
from vidrisk.runtimes.contract.errors import VidriskError
from vidrisk.watch import WatchSettings, watch_inbox
from vidrisk.watch.service import local_date
from vidrisk.watch.signals import end_on_sigterm


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("inbox", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--slow", action="store_true", help="so slow that a signal finds it at work")
    parser.add_argument("--date", help="instead of today's")
    parser.add_argument("--max-file-bytes", type=int, help="stands for a full disk")
    options = parser.parse_args()
    if options.max_file_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (options.max_file_bytes, resource.RLIM_INFINITY))
    logging.basicConfig(level=logging.WARNING)
    settings = WatchSettings(settle_s=0.2, poll_s=0.1, report_every_s=None, retry_s=0.3)
    infer = InferSettings(workers=2, batch_frames=8)
    today = (lambda: str(options.date)) if options.date else local_date
    try:
        with end_on_sigterm(), colour_classifier(ACTION, seconds_per_batch=0.05 if options.slow else 0.0) as classifier:
            watch_inbox(
                classifier,
                options.inbox,
                options.out,
                settings,
                infer,
                today=today,
                on_batch=lambda batch: print(sum(batch.states.values()), flush=True),
            )
    except VidriskError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
