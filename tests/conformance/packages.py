# SPDX-License-Identifier: Apache-2.0
"""What the runs need of others, in ``build/conformance``: Node, the suite, the inspector, and the suite's server.

The server is the everything-server of the MCP SDK for Python, unchanged: its source distribution has it.
"""

import json
import platform
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Final

from tests.routes.environments import ROOT, alone, environment_of

BUILD: Final = ROOT / "build" / "conformance"
SDK: Final = "2.3.0"
NODE: Final = "22.23.3"
NPM: Final = {
    "@modelcontextprotocol/conformance": "0.2.0-alpha.12",
    "@modelcontextprotocol/inspector": "2.12.0",
    "mcp-remote": "0.15.1",
    "oidc-provider": "9.13.3",
}
_ARCHITECTURES: Final = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}


def node_packages() -> Path:
    """Install Node and the packages where they are missing, and return their folder.

    The package ``node`` has a script that installs the one of this system; npm of today does not run it.
    """
    system = platform.system().lower()
    prefix = "node-bin" if (system, platform.machine()) == ("darwin", "arm64") else "node"
    node = f"{prefix}-{system}-{_ARCHITECTURES[platform.machine().lower()]}"
    wanted = json.dumps({"private": True, "dependencies": {node: NODE, **NPM}}, indent=2)
    folder = BUILD / "npm"
    with alone(folder):
        if not (folder / "done").exists() or (folder / "done").read_text() != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            (folder / "package.json").write_text(wanted)
            _run("npm", "install", "--no-audit", "--no-fund", "--loglevel=error", cwd=folder)
            (folder / "done").write_text(wanted)
    return folder / "node_modules"


def node_of(packages: Path) -> Path:
    """Return the Node of the packages.

    Args:
        packages: Their folder.
    """
    return next(packages.glob("node-*/bin/node"))


def server_python() -> Path:
    """Make the environment of the server where it is missing, and return its Python."""
    source = BUILD / f"mcp-{SDK}"
    with alone(source):
        if not (source / "done").exists():
            own = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary=mcp")
            _run(*own, f"--dest={BUILD}", f"mcp=={SDK}", cwd=ROOT)
            with tarfile.open(BUILD / f"mcp-{SDK}.tar.gz") as archive:
                archive.extractall(BUILD, filter="data")
            (source / "done").touch()
    server = source / "examples" / "servers" / "everything-server"
    return environment_of(BUILD / f"server-{SDK}", f"mcp=={SDK}", str(server))


def _run(*words: str, cwd: Path) -> None:
    subprocess.run(words, cwd=cwd, check=True, stdout=sys.stderr)
