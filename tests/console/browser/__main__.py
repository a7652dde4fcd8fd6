# SPDX-License-Identifier: Apache-2.0
"""Drive the console in Chromium: journeys and the look of each page, or pictures of each page with ``pictures``.

Playwright and axe are in a folder of their own, ``build/console/packages``: ``make test`` needs no browser.  Further
arguments go to pytest; ``--all`` looks at all pages in both themes.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.routes.environments import ROOT, alone

BUILD: Final = ROOT / "build" / "console"
PACKAGES: Final = ("playwright==1.65.2", "axe-playwright-python==0.1.8", "pillow==13.0.0")
HERE: Final = "tests/console/browser"
PARTS: Final = ("accounts", "appearance", "journeys", "login")


def prepare() -> None:
    """Install Playwright, axe, and what makes pictures small, where they are missing."""
    folder, done, wanted = BUILD / "packages", BUILD / "packages" / "done", "\n".join((sys.version, *PACKAGES))
    with alone(folder):
        if done.exists() and done.read_text() == wanted:
            return
        shutil.rmtree(folder, ignore_errors=True)
        uv = str(Path(sys.executable).with_name("uv"))
        command = [uv, "pip", "install", "--quiet", "--python", sys.executable, "--target", str(folder), *PACKAGES]
        subprocess.run(command, check=True)
        done.write_text(wanted)


def main() -> None:
    """Run it.

    Raises:
        SystemExit: With the exit code of pytest, or because there is no Chromium.
    """
    if shutil.which("chromium") is None:
        sys.exit("no chromium is installed: apt-get install chromium")
    prepare()
    words = sys.argv[1:]
    files = [f"{HERE}/pictures.py"] if words[:1] == ["pictures"] else [f"{HERE}/{name}.py" for name in PARTS]
    words = [word for word in words if word != "pictures"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(BUILD / "packages")))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:benchmark", "-p", "no:xdist"]
    # Not a conftest.py, which ``make test`` would load.  As a plugin it imports ``tests.servers`` before pytest does.
    command += ["-p", "tests.console.browser.fixtures", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    command += [*files, *words]
    sys.exit(subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode)


if __name__ == "__main__":
    main()
