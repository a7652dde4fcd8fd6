# SPDX-License-Identifier: Apache-2.0
"""Compare ARx with tenuo, each framework in an environment of its own in ``build/compare``: ``make compare``.

Without ``--write`` the tables are printed.  With it, figures are measured for longer, and ``benchmarks/results/`` and
docs/comparison.md are written.
"""

import argparse
import json
import os
import subprocess
import sys
from typing import Any

from benchmarks import measure
from benchmarks.compare.frameworks import BOTH
from benchmarks.compare.report import NAME, rendered, write
from tests.routes.environments import ROOT, prepare


def main() -> None:
    """Run it.

    Raises:
        SystemExit: A comparison failed.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"frameworks of {', '.join(BOTH)} [all]")
    parser.add_argument("--write", action="store_true", help="measure for longer, and write the page")
    parser.add_argument("--keep", action="store_true", help="use the environments as they are")
    options = parser.parse_args()
    if unknown := set(options.names) - set(BOTH):
        parser.error(f"no framework is called {', '.join(sorted(unknown))}")
    found: dict[str, Any] = dict(measure.about())
    old = measure.load(NAME)["frameworks"] if options.write and options.names else {}
    chosen = options.names or list(BOTH)
    found["frameworks"] = old | {name: _compared(name, options) for name in chosen}
    found["versions"] = {name: each for row in found["frameworks"].values() for name, each in row["versions"].items()}
    if options.write:
        measure.save(NAME, found)
        write(found)
        return
    for marker, text in rendered(found).items():
        sys.stdout.write(f"{marker}\n\n{text}\n\n")


def _compared(name: str, options: argparse.Namespace) -> dict[str, Any]:
    about = BOTH[name]
    python = ROOT / "build" / "compare" / name / "bin" / "python"
    if not options.keep:
        agent = [each for each in (about.agent, "mint", "embedded") if each]
        packages = (f"tenuo[{','.join(about.tenuo)}]>=0.3,<0.4", *about.more)
        python = prepare(name, packages, extra=about.verifier, agent=agent, under="compare")
    words = [str(python), "-W", "ignore", "-m", f"benchmarks.compare.{name}", *(["--timed"] if options.write else [])]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("TENUO_")}
    done = subprocess.run(words, cwd=ROOT, env=clean, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name}: {' '.join(words)}\n{done.stderr}")
    sys.stderr.write(f"{name}: compared\n")
    return dict(json.loads(done.stdout.splitlines()[-1]))


main()
