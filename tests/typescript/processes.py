# SPDX-License-Identifier: Apache-2.0
"""Node processes whose threads decide, each by a follower of its own."""

import contextlib
import subprocess
from collections.abc import Iterator, Mapping, Sequence

from tests.servers import child
from tests.typescript.node import PROGRAMS, node


class NodeProcess:
    """A process of ``test/follower_process.ts``.

    Args:
        process: The process.
        threads: Number of its threads that decide.
    """

    def __init__(self, process: "subprocess.Popen[str]", threads: int) -> None:
        self._process, self._threads, self.pid = process, threads, process.pid

    def send(self, command: str, incarnation: str, born: int, targets: Sequence[str]) -> None:
        """Give each thread a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join((command, incarnation, str(born), *targets)) + "\n")
        self._process.stdin.flush()

    def read(self) -> list[str]:
        """Read the answer of each thread."""
        assert self._process.stdout is not None
        return [self._process.stdout.readline().strip() for _ in range(self._threads)]

    def check(self, incarnation: str, born: int, targets: Sequence[str]) -> list[str]:
        """Return the codes of each thread."""
        self.send("check", incarnation, born, targets)
        return self.read()

    def close(self) -> None:
        """End it in order: it takes leave of the store."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        assert self._process.stdout.readline() == "closed\n"
        assert self._process.wait() == 0


def program_of(url: str, realm: str, name: str, threads: int, mode: str = "thread") -> list[str]:
    """Return the command line of such a process."""
    return [str(node()), str(PROGRAMS / "follower_process.ts"), url, realm, name, str(threads), mode]


@contextlib.contextmanager
def node_process(
    url: str, realm: str, name: str, threads: int = 3, mode: str = "thread", env: Mapping[str, str] | None = None
) -> Iterator[NodeProcess]:
    """Start a process that follows a store.

    Args:
        url: The store's URL.
        realm: The realm.
        name: The process's name in the registry.
        threads: Number of its threads that decide.
        mode: ``thread`` if its follower has a thread of its own, else ``loop``.
        env: Its environment, if that is another one than of this process.
    """
    command = program_of(url, realm, name, threads, mode)
    with child(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "live\n"
            yield NodeProcess(process, threads)
        finally:
            process.kill()
