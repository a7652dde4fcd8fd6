# SPDX-License-Identifier: Apache-2.0
"""Let stock MCP clients wait for an operator: ``python -m tests.stock.approvals``.

With MCP 2026-07-28 the client's own loop waits.  Before, it asks for the scope of a 403, its person consents, and the
model reads that the call waits; the same call goes through once it is approved.
"""

import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.servers import until
from tests.stock.clients import Patient, PythonClient
from tests.stock.world import World

_KINDS = ("mcp2-stateless", "mcp2", "mcp1")
_WAITING: dict[str, int] = {"mcp2-stateless": 10, "mcp2": 12, "mcp1": 14}  # what each calls with


def waits(world: World, kind: str) -> None:
    """Connect a client, and let it call what an operator has to approve.

    Raises:
        AssertionError: It did not wait, asked its person too often, or was locked out.
    """
    person, n = world.person(f"p-{kind}", "pay"), _WAITING[kind]
    client = Patient(PythonClient(kind, world.url, person.folder, person.environment))
    try:
        assert sorted(client.tools()) == ["drop", "get"]
        found: list[tuple[bool, str]] = []

        def call(number: int) -> threading.Thread:
            thread = threading.Thread(target=lambda: found.append(client.call("drop", {"n": number})))
            thread.start()
            return thread

        calling = call(n)
        if kind != "mcp2-stateless":
            calling.join(120)
            assert found.pop() == (True, f"drop waits: {_text(waiting(world, n)[0])}"), person.visits()
            assert len(person.visits()) == 2
            again = client.call("drop", {"n": n})
            assert again[0]
            assert "waits" in again[1]
            approve(world, waiting(world, n)[0])
            calling = call(n)
        else:
            until(lambda: bool(waiting(world, n)))
            approve(world, waiting(world, n)[0])
        calling.join(120)
        assert found == [(False, "dropped")], found
        assert client.call("get", {"order_id": "o-1"}) == (False, "o-1 is on its way")
        assert len(person.visits()) == (1 if kind == "mcp2-stateless" else 2), person.visits()
        calling = call(n + 1)
        until(lambda: bool(waiting(world, n + 1)))
        world.arx("approval", "deny", waiting(world, n + 1)[0], "--why", "not today")
        calling.join(120)
        # Also after the login for the scope, which gives another task.
        denied = client.call("drop", {"n": n + 1}) if kind != "mcp2-stateless" else found[-1]
        assert denied[0]
        assert "not today" in denied[1], denied
        assert client.call("get", {"order_id": "o-1"}) == (False, "o-1 is on its way")
    finally:
        client.close()
        sys.stdout.write(f"{kind} visits: {person.visits()}\n")
        sys.stdout.write("".join(f"{kind} {file.name}:\n{file.read_text()[-3000:]}\n" for file in person.logs()))


def waiting(world: World, n: int) -> list[str]:
    """Return the approvals that wait for a call with an argument."""
    return [each["id"] for each in world.arx("approval", "list")["approvals"] if each["args"] == {"n": n}]


def approve(world: World, approval: str) -> None:
    """Answer as an operator."""
    world.arx("approval", "approve", approval, "--yes")


def _text(approval: str) -> str:
    return (
        f"an operator has to approve this call with exactly these arguments, and was asked ({approval}). "
        "Make the same call again once it is approved."
    )


def main() -> None:
    """Run it.

    Raises:
        SystemExit: A client did not do what it can.
    """
    with tempfile.TemporaryDirectory() as folder:
        kinds = sys.argv[1:] or _KINDS
        world = World(Path(folder), tuple(f"p-{kind}" for kind in kinds))
        failed = []
        with world.running(), ThreadPoolExecutor(len(kinds)) as pool:
            for kind, run in [(kind, pool.submit(waits, world, kind)) for kind in kinds]:
                error = run.exception()
                sys.stdout.write(f"{kind}: {'waits for an operator' if error is None else f'FAILED: {error!r}'}\n")
                failed += [] if error is None else [kind]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
