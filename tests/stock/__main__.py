# SPDX-License-Identifier: Apache-2.0
"""Connect stock MCP clients to a gateway from its URL alone: ``make clients``.

Each client registers itself, its person logs in at nanoidp and consents, and then it lists, calls, is refused, logs in
again after a kill, asks for more, and goes on after its access token's end; at the end the agent is frozen.
"""

import argparse
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.conformance.packages import node_packages
from tests.servers import until
from tests.stock.clients import PACKAGES, Client, Patient, PythonClient, Refused, client_python
from tests.stock.node_clients import Mcpdo, McpRemote
from tests.stock.world import AGENT, LIFE_S, Person, World


def main() -> None:
    """Run it.

    Raises:
        SystemExit: A client did not do what it can.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.stock", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="clients; all of them by default")
    names = parser.parse_args().names or [*PACKAGES, "mcp-remote", "mcpdo"]
    with ThreadPoolExecutor(3) as pool:
        packages = pool.submit(node_packages)
        [*pool.map(client_python, (name for name in names if name in PACKAGES))]
        node = packages.result()

    def open_client(name: str, person: Person, url: str) -> Client:
        if name == "mcp-remote":
            return McpRemote(node, url, person.folder, person.environment)
        if name == "mcpdo":
            return Mcpdo(node, url, person.folder, person.environment, person.browser)
        return PythonClient(name, url, person.folder, person.environment)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # of `timeout`: ends what runs, the clients too
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), tuple(f"p-{name}" for name in names))
        with world.running(), ThreadPoolExecutor(len(names)) as pool:
            runs = [Run(world, name, open_client) for name in names]
            try:
                failed = [each.name for each, passed in zip(runs, pool.map(Run.lives, runs), strict=True) if not passed]
                world.arx("freeze", "agent", AGENT, "--reason", "a test", "--yes")
                alive = [each for each in runs if each.name not in failed]
                ended = pool.map(Run.ends, alive)
                failed += [each.name for each, passed in zip(alive, ended, strict=True) if not passed]
            finally:
                for each in runs:
                    each.close()
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


class Run:
    """One client and its person.

    Args:
        world: The realm.
        name: The client's name.
        open_client: Connects it.
    """

    def __init__(self, world: World, name: str, open_client: Callable[[str, Person, str], Client]) -> None:
        self.name, self._world, self._open = name, world, open_client
        self._person = world.person(f"p-{name}", "look")
        self._client: Client | None = None
        self._lines: list[str] = []

    def lives(self) -> bool:
        """Do all that a client does before its agent is frozen; return whether it did it."""
        return self._tried(self._live)

    def ends(self) -> bool:
        """Use the client after its agent was frozen; return whether it was refused."""
        return self._tried(self._end)

    def close(self) -> None:
        """End the client."""
        if self._client is not None:
            self._client.close()

    def _live(self) -> None:
        person, get = self._person, ("get", {"order_id": "o-1"})
        client = self._client = Patient(self._open(self.name, person, self._world.url))
        self._require(client.tools() == ["get"], "lists what its task allows")
        self._require(client.call(*get) == (False, "o-1 is on its way"), "calls")
        refused, text = client.call("get", {"order_id": "o-9"})
        self._require(refused and "order_id" in text, f"reads why a call is refused: {text}")
        self._require(len(person.visits()) == 1, "needs one login for that")
        killed = self._world.kill("task", *self._world.open_tasks(person.name))
        self._require(client.call(*get)[0] is False, "gets another task after a kill of its task")
        self._require(
            not killed & {*self._world.open_tasks(person.name)}, "does not go on with the one that was killed"
        )
        visits = len(person.visits())
        self._world.kill("session", *self._world.sessions(person.name))
        try:
            self._require(client.call(*get)[0] is False, "goes on after a kill of its session")
        except Refused as error:
            # The SDKs of Python open no second session of MCP; `mcpdo` says that it needs a login.
            self._lines.append(f"{self.name}: ends with its session: {error}"[:160])
            client.close()
            client = self._client = Patient(self._open(self.name, person, self._world.url))
            self._require(client.call(*get)[0] is False, "connects again")
        self._require(len(person.visits()) > visits, "needs a login for that")
        if not client.steps_up:
            return
        visits = len(person.visits())
        person.choose("look", "more")
        self._require(client.call("secret", {})[0] is False, "asks for more when a tool needs it")
        self._require(client.call(*get)[0] is False, "keeps what it had")
        logins = len(person.visits()) - visits
        self._require(logins == 1, "needs one login more for that")
        visits += logins
        # Those of now: a client that listens in the background begins the next one by itself.
        over = set(self._world.open_tasks(person.name, "more"))
        until(lambda: over.isdisjoint(self._world.open_tasks(person.name)), within_s=LIFE_S + 60.0)
        self._require(client.call(*get)[0] is False, "goes on after its access token's end")
        self._require(len(person.visits()) == visits, "needs no login for that")

    def _end(self) -> None:
        assert self._client is not None
        try:
            found = self._client.call("get", {"order_id": "o-1"})
        except Refused as error:
            found = True, str(error)
        self._require(found[0], "is refused while its agent is frozen")

    def _require(self, held: bool, what: str) -> None:
        self._lines.append(f"{self.name}: {'' if held else 'FAILED: '}{what}")
        assert held, what

    def _tried(self, work: Callable[[], None]) -> bool:
        try:
            work()
            passed = True
        except (AssertionError, Refused, RuntimeError, OSError, ValueError, KeyError, subprocess.SubprocessError):
            self._lines += [traceback.format_exc(), f"visits: {self._person.visits()}"]
            self._lines += [f"{file.name}:\n{file.read_text()[-4000:]}" for file in self._person.logs()]
            passed = False
        sys.stdout.write("".join(f"{line}\n" for line in self._lines))
        sys.stdout.flush()
        self._lines.clear()
        return passed


if __name__ == "__main__":
    main()
