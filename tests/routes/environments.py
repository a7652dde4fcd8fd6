# SPDX-License-Identifier: Apache-2.0
"""Run ``tests.routes`` with each version of the frameworks: ``make routes``.

Each has an environment of its own in ``build/routes`` that holds ``arx-verifier`` and the framework alone: FastAPI
0.130 needs a Starlette below 1.0, beside which the rest of ARx cannot be installed.
"""

import argparse
import contextlib
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
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
    "django-5.2": ("django==5.2.0",),
    "django": ("django",),
    "flask-3.0": ("flask==3.0.0", "werkzeug==3.0.0"),
    "flask": ("flask",),
}


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder in ``build``: of two runs that make it at once, the second one waits and finds it made.

    Args:
        folder: The folder, which need not exist.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def environment_of(folder: Path, *packages: str) -> Path:
    """Make an environment with these packages where it is missing, and return its Python.

    Args:
        folder: The folder of the environment.
        packages: Requirements, as pip takes them, or projects' folders.
    """
    python, uv = folder / "bin" / "python", str(Path(sys.executable).with_name("uv"))
    done, wanted = folder / "done", "\n".join((sys.version, *packages))
    with alone(folder):
        if not done.exists() or done.read_text() != wanted:
            subprocess.run([uv, "venv", "--quiet", "--clear", f"--python={sys.executable}", str(folder)], check=True)
            subprocess.run([uv, "pip", "install", "--quiet", f"--python={python}", *packages], check=True)
            done.write_text(wanted)
    return python


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
    sources = [f"{ROOT / 'verifier'}[{extra}]" if extra else str(ROOT / "verifier")]
    if agent is not None:
        sources.append(f"{ROOT}[{','.join(agent)}]")
    # As a user installs them, and anew each time: the files of the last run must not be tested.
    anew = ["--reinstall-package=arx-verifier", "--reinstall-package=arx-caps"]
    with alone(folder):
        if not python.exists():
            subprocess.run([uv, "venv", "--quiet", "--clear", f"--python={sys.executable}", str(folder)], check=True)
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
