# SPDX-License-Identifier: Apache-2.0
"""Guard the tools of AgentDojo's suites with marks, in an environment of its own in ``build``: ``make agentdojo``.

Without ``--write`` the table is printed.  With it, ``results.json`` and docs/marks.md are written.
"""

import argparse
import json
import subprocess
import sys

from benchmarks.agentdojo.report import NAME, PACKAGE, rendered, write, wrong
from tests.routes.environments import ROOT, prepare


def main() -> None:
    """Run it.

    Raises:
        SystemExit: A run failed, or an injected send was made that the rows refuse.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.agentdojo", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the page")
    options = parser.parse_args()
    python = prepare(NAME, (PACKAGE,), agent=("mint", "embedded"), under=NAME)
    words = [str(python), "-W", "ignore", "-m", "benchmarks.agentdojo.suites"]
    done = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found = {"package": PACKAGE, "suites": json.loads(done.stdout)}
    if problems := wrong(found):
        sys.exit("\n".join(problems))
    if options.write:
        write(found)
    sys.stdout.write(f"{rendered(found)}\n")


main()
