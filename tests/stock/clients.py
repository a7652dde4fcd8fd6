# SPDX-License-Identifier: Apache-2.0
"""What each stock client can do here, and those of Python, each in an environment of its own."""

import abc
import contextlib
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

from tests.routes.environments import ROOT, environment_of
from tests.servers import free_ports

BUILD: Final = ROOT / "build" / "stock"
PACKAGES: Final = {"mcp2": "mcp==2.3.0", "mcp1": "mcp==1.30.0", "fastmcp": "fastmcp==4.2.3"}


T = TypeVar("T")
_LATER: Final = "Try this call again"
_TRIES: Final = 30
ANSWER_S: Final = 180.0  # a client may wait for a login without end


class Refused(Exception):  # noqa: N818 - an answer, and no failure of the test
    """The client got no access."""


class Client(abc.ABC):
    """A client that is connected, or raises ``Refused``.

    Attributes:
        steps_up: Whether it calls a tool that the list does not have, and so asks for more at 403.
    """

    steps_up = True

    @abc.abstractmethod
    def tools(self) -> list[str]:
        """Return the names of the tools that it sees."""

    @abc.abstractmethod
    def call(self, tool: str, arguments: dict[str, Any]) -> tuple[bool, str]:
        """Call a tool; return whether the answer is an error, and its text."""

    @abc.abstractmethod
    def close(self) -> None:
        """End it."""


@contextlib.contextmanager
def ends_late(process: subprocess.Popen[str]) -> Iterator[None]:
    """Kill a client that gives no answer: what reads from it finds the end of its output."""
    timer = threading.Timer(ANSWER_S, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def client_python(kind: str) -> Path:
    """Make the environment of a Python SDK where it is missing, and return its Python."""
    package = PACKAGES[kind.partition("-")[0]]
    return environment_of(BUILD / package.replace("==", "-"), package)


class PythonClient(Client):
    """A client of a Python SDK, as a process that takes a line for each call."""

    def __init__(self, kind: str, url: str, folder: Path, environment: dict[str, str]) -> None:
        program = Path(__file__).with_name("python_client.py")
        (port,) = free_ports(1)
        self._process = subprocess.Popen(
            [str(client_python(kind)), str(program), kind, url, str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "stderr").open("w"),
            env=environment,
            text=True,
        )
        self._read()

    def tools(self) -> list[str]:
        return list(self._ask(None)["tools"])

    def call(self, tool: str, arguments: dict[str, Any]) -> tuple[bool, str]:
        found = self._ask([tool, arguments])
        return bool(found["error"]), str(found["text"])

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _ask(self, asked: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Refused("the client has ended") from None
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        with ends_late(self._process):
            line = self._process.stdout.readline()
        found = json.loads(line) if line else {"refused": f"the client has ended, or gave no answer in {ANSWER_S} s"}
        if "refused" in found:
            raise Refused(found["refused"])
        return dict(found)


class Patient(Client):
    """A client that asks again on the gateway's request: on a loaded machine a store may answer late.

    Args:
        client: The client.
    """

    def __init__(self, client: Client) -> None:
        self._client, self.steps_up = client, client.steps_up

    def tools(self) -> list[str]:
        return self._patient(self._client.tools, str)

    def call(self, tool: str, arguments: dict[str, Any]) -> tuple[bool, str]:
        return self._patient(lambda: self._client.call(tool, arguments), str)

    def close(self) -> None:
        self._client.close()

    def _patient(self, ask: Callable[[], T], text_of: Callable[[T], str]) -> T:
        for _ in range(_TRIES):
            try:
                found = ask()
            except Refused as error:
                if _LATER not in str(error):
                    raise
            else:
                if _LATER not in text_of(found):
                    return found
            time.sleep(1)
        return ask()
