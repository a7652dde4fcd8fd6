# SPDX-License-Identifier: Apache-2.0
"""Install ARx from the files of ``dist`` into nothing, and play its demo: ``python -m tests.house.fresh_install``.

``make wheels`` makes the files.  ``PATH`` has two programs, which the scripts of uv call: no compiler, no make, no git.
Both wheels are named by file, so that no index is asked for either of their names; pip's log is searched for that.
"""

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
DIST: Final = ROOT / "dist"
WAYS: Final = ("pip", "uvx", "pipx")
LONGEST_S: Final = 180  # until the first refusal, from the first command on
REFUSAL: Final = re.compile(r": 40[13] \w+  \[ok\]$")
ASKED: Final = re.compile(r"https?://\S*/arx[-_](?:caps|verifier)\b")


def made_wheels() -> tuple[str, str]:
    """Return the verifier's compiled wheel for this Linux machine, and the wheel of all else with its extra."""
    [verifier] = DIST.glob(f"arx_verifier-*manylinux_2_17_{platform.machine()}.whl")
    [caps] = DIST.glob("arx_caps-*.whl")
    return str(verifier), f"{caps}[all]"


def ways(folder: Path, verifier: str, caps: str) -> dict[str, list[list[str]]]:
    """Return the commands that install and play, by the program that installs; uv and pipx are beside this Python."""
    beside, env = Path(sys.executable).parent, folder / "env"
    quiet = ["--disable-pip-version-check", "--quiet", "--log", str(folder / "log")]
    return {
        "pip": [
            [sys.executable, "-m", "venv", str(env)],
            [str(env / "bin" / "python"), "-m", "pip", "install", *quiet, verifier, caps],
            [str(env / "bin" / "arx"), "demo"],
        ],
        "uvx": [
            [str(beside / "uvx"), f"--python={sys.executable}", "--with", verifier, "--from", caps, "arx", "demo"],
        ],
        "pipx": [
            [str(beside / "pipx"), "install", "--quiet", f"--python={sys.executable}", "--preinstall", verifier, caps],
            [str(folder / "bin" / "arx"), "demo"],
        ],
    }


def install_and_play(
    way: str, folder: Path, wheels: tuple[str, str], longest_s: float = LONGEST_S
) -> tuple[float, float]:
    """Run the commands of a way in an empty folder; return the seconds of the last one and of all to a first refusal.

    Raises:
        SystemExit: A command failed, or the first refusal came too late.
    """
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_", "SSL_", "LANG"))}
    tools = folder / "tools"
    tools.mkdir()
    for name in ("dirname", "realpath"):
        (tools / name).symlink_to(shutil.which(name) or name)
    own = {"HOME": str(folder), "PATH": str(tools), "PIPX_HOME": str(folder / "pipx")}
    environment = {**kept, **own, "PIPX_BIN_DIR": str(folder / "bin"), "TMPDIR": str(folder)}
    began, first = time.monotonic(), 0.0
    for command in ways(folder, *wheels)[way]:
        last = time.monotonic()
        with subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            lines = []
            for line in process.stdout or ():
                lines.append(line)
                if REFUSAL.search(line.rstrip()) and not first:
                    first = time.monotonic()
        if process.returncode:
            sys.exit(f"{way}: {' '.join(command)} ended with {process.returncode}\n{''.join(lines)}")
    if way == "pip" and (asked := ASKED.search((folder / "log").read_text(encoding="utf-8"))):
        sys.exit(f"{way}: an index was asked for {asked[0]}")
    if not 0 < first - began <= longest_s:
        sys.exit(f"{way}: expected the first refusal within {longest_s} s, got {first - began:.0f} s")
    return first - last, first - began


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.house.fresh_install", description=__doc__)
    parser.add_argument("way", nargs="?", choices=WAYS, help="[each of them]")
    named = parser.parse_args().way
    for way in [named] if named else WAYS:
        with tempfile.TemporaryDirectory(prefix="arx") as folder:
            last, whole = install_and_play(way, Path(folder), made_wheels())
            print(f"{way}: first refusal after {whole:.0f} s, {last:.0f} s of them in the last command", flush=True)


if __name__ == "__main__":
    main()
