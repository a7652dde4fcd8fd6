# SPDX-License-Identifier: Apache-2.0
"""Run the rehearsal: ``python -m tests.faults.rehearsal``.  Ends with 0 when every promise held."""

import argparse
import json
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.faults.rehearsal.acts import Rehearsal
from tests.faults.rehearsal.site import Site, opened
from tests.postgres import running

ACTS: Final = (
    "killings",
    "rolling_restart",
    "wrong_clocks",
    "lost_mint_folder",
    "older_mint_folder",
    "lost_journal",
    "older_store",
    "lost_store",
    "lost_database",
    "rolling_restart",
)
BROKEN: Final = ("kill_never_sent", "journal_never_sent")


def main() -> int:
    """Play the acts that the command line names, or all of them, and print what was counted."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.rehearsal", description=__doc__)
    parser.add_argument("acts", nargs="*", help=f"which acts, in this order; else all: {', '.join(ACTS)}")
    parser.epilog = f"To see that it can fail: {', '.join(BROKEN)}; each has to end with 1."
    given = parser.parse_args()
    if unknown := set(given.acts) - {*ACTS, *BROKEN}:
        parser.error(f"no such act: {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # its servers end with it
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)

    with tempfile.TemporaryDirectory(prefix="arx-rehearsal-") as folder, running() as postgres:
        postgres.durable()
        with opened(Site(Path(folder), postgres, say)) as site:
            rehearsal = Rehearsal(site, say)
            rehearsal.begin()
            acts = given.acts or ACTS
            # What was killed has to stay revoked in every act, so something is killed before the first.
            for name in acts if "killings" in acts else ("killings", *acts):
                act = getattr(rehearsal, name)
                say((act.__doc__ or "").strip())
                act()
            answer = rehearsal.end()
    say(json.dumps(answer))
    return 0 if not answer["lost"] and not answer["late"] else 1


if __name__ == "__main__":
    sys.exit(main())
