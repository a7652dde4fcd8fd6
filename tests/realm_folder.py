# SPDX-License-Identifier: Apache-2.0
"""A folder in which the command line makes a realm, ``realm``, and runs it with a gateway, in processes of its own."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.mint.login import MINT_SECRET, settings
from tests.routes.environments import ROOT
from tests.servers import until

ARX: Final = (sys.executable, "-m", "arx_caps.cli")


class RealmFolder:
    """The folder.

    Args:
        folder: Where it is.

    Attributes:
        folder: The same.
        environment: That of the processes.
        pid: The process of ``up``; 0 before it.
    """

    pid = 0

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("ARX_")}
        code = os.pathsep.join((*filter(None, [os.environ.get("PYTHONPATH")]), str(ROOT)))  # a mutant's comes first
        self.environment |= {"ARX_HOME": str(folder / "realm"), "PYTHONPATH": code}
        self.environment["ARX_TEST_LOGIN_SECRET"] = MINT_SECRET

    def arx(self, *words: str) -> dict[str, Any]:
        """Run a command that must succeed, and return its answer.

        Raises:
            RuntimeError: It did not succeed.
        """
        command = [*ARX, *words, "--json"]
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stdout}{done.stderr}")
        return dict(json.loads(done.stdout)) if done.stdout else {}

    def make(self, port: int, policy: str, issuer: str, *init: str, scope: str = "", more: str = "") -> None:
        """Make the realm.

        Args:
            port: Of the mint.
            policy: The policy.
            issuer: Where people log in, for a mint with the credentials of ``tests.mint.login``.
            init: Further words of ``arx init``.
            scope: What the mint asks the issuer for; its own choice if empty.
            more: Further lines of ``realm.toml``.
        """
        self.arx("init", str(self.folder / "realm"), "--listen", f"127.0.0.1:{port}", *init)
        (self.folder / "realm" / "policy.toml").write_text(policy)
        with (self.folder / "realm" / "realm.toml").open("a") as file:
            file.write(settings(issuer, scope) + more)

    @contextlib.contextmanager
    def up(self, *words: str, ready: str) -> Iterator[None]:
        """Run ``arx up``, which writes ``up.log``.

        Args:
            words: Further words of the command.
            ready: What it says when it is ready.

        Raises:
            RuntimeError: It ended before.
        """
        file = self.folder / "up.log"
        with file.open("w") as log:
            command = [*ARX, "up", *words, "--json"]
            up = subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=log, stderr=log)
        self.pid = up.pid
        try:
            until(lambda: ready in file.read_text() or up.poll() is not None)
            if up.poll() is not None:
                raise RuntimeError(file.read_text())
            yield
        finally:
            up.terminate()
            up.wait(60)
