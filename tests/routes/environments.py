# SPDX-License-Identifier: Apache-2.0
"""Run ``tests.routes`` with each version of the frameworks: ``make routes``.

Each has an environment of its own in ``build/routes`` that holds ``arx-verifier`` and the framework alone: FastAPI
0.130 needs a Starlette below 1.0, beside which the rest of ARx cannot be installed.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
# The oldest and the newest, and where FastAPI changed what it keeps of an included router.
VERSIONS: Final = {
    "starlette": ("starlette",),
    "fastapi-0.130": ("fastapi==0.130.0",),
    "fastapi-0.137": ("fastapi==0.137.0",),
    "fastapi-0.145": ("fastapi==0.145.0",),
    "fastapi": ("fastapi",),
}


def prepare(
    name: str,
    packages: Sequence[str],
    *,
    extra: str | None = None,
    agent: Sequence[str] | None = None,
    under: str | None = None,
) -> Path:
    """Return the Python of an environment with the verifier and these packages.

    Args:
        name: The name of the environment.
        packages: Requirements, as pip takes them.
        extra: An extra of the verifier; None for the verifier alone.
        agent: Extras of ``arx-caps``, which is then installed as well.
        under: The folder in ``build``; ``routes`` or ``adapters`` by default.
    """
    folder = ROOT / "build" / (under or ("routes" if extra is None and agent is None else "adapters")) / name
    python, uv = folder / "bin" / "python", str(Path(sys.executable).with_name("uv"))
    if not python.exists():
        subprocess.run([uv, "venv", "--quiet", "--clear", f"--python={sys.executable}", str(folder)], check=True)
    sources = [f"{ROOT / 'verifier'}[{extra}]" if extra else str(ROOT / "verifier")]
    if agent is not None:
        sources.append(f"{ROOT}[{','.join(agent)}]")
    # As a user installs them, and anew each time: the files of the last run must not be tested.
    anew = ["--reinstall-package=arx-verifier", "--reinstall-package=arx-caps"]
    subprocess.run([uv, "pip", "install", "--quiet", f"--python={python}", *anew, *sources, *packages], check=True)
    return python


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.routes.environments", description=__doc__)
    parser.add_argument("--count", type=int, default=2000, metavar="N", help="applications of each version [2000]")
    parser.add_argument("--first", type=int, default=int(time.time()), metavar="SEED", help="the first seed [the time]")
    options = parser.parse_args(arguments)
    for number, (name, packages) in enumerate(VERSIONS.items()):
        python = prepare(name, packages)
        first = options.first + number * options.count
        words = [str(python), "-W", "ignore", "-m", "tests.routes", f"--first={first}", f"--count={options.count}"]
        if subprocess.run(words, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False).returncode:
            sys.exit(f"{name}: not as judged; again with {' '.join(words)}")
    sys.stdout.write(f"{len(VERSIONS)} versions, {len(VERSIONS) * options.count} applications: 0 confused\n")


if __name__ == "__main__":
    main()
