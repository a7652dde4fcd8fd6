# SPDX-License-Identifier: Apache-2.0
"""A verifier's process for the kill benchmark: follows, decides all the time, and tells what it saw when.

The clock counts the same in every process of a machine; all times are ns on it.
"""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from arx_verifier.revocation.epoch import boot_clock
from arx_verifier.revocation.follower import Follower
from arx_verifier.revocation.store_link import EpochEntry

ROOT = Path(__file__).resolve().parents[1]


class Child:
    """The parent's handle on such a process."""

    def __init__(self, url: str, realm: str, name: str) -> None:
        command = [sys.executable, "-m", "benchmarks.kill_child", url, realm, name]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        self.pid = self._process.pid

    def ready(self) -> None:
        """Wait until it has a lease."""
        assert self.say(live=True) is True

    def say(self, **command: Any) -> Any:
        """Give a command and wait for its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


class Noting(Follower):
    """A follower that notes when each entry came into force."""

    def __init__(self, url: str, realm: str, name: str) -> None:
        super().__init__(url, realm, name)
        self.applied_at: list[tuple[int, int]] = []

    def _apply(self, entry: EpochEntry) -> bool:
        in_order = super()._apply(entry)
        self.applied_at.append((entry.seq, boot_clock()))
        return in_order


class Decisions:
    """What a loop of decisions about one token saw; times were read before the decision."""

    def __init__(self, follower: Follower, token: tuple[str, int, str], pause_s: float) -> None:
        self.last_accepted = self.accepted_again = 0
        self.count = self.denied = 0
        self.least_left = 2**62
        self.stop = threading.Event()
        self._follower, self._token, self._pause_s = follower, token, pause_s
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        incarnation, born, target = self._token
        while not self.stop.is_set():
            lease = self._follower._state.lease
            began = boot_clock()
            refused = self._follower.check(incarnation, born, ("realm", "agent:acme", "agent:acme/bench", target))
            self.count += 1
            if refused is None:
                if self.denied and not self.accepted_again:
                    self.accepted_again = began
                if not self.denied:
                    self.last_accepted = began
                    self.least_left = min(self.least_left, lease.boot - began if lease else 0)
            else:
                self.denied += 1
            time.sleep(self._pause_s)

    def told(self) -> dict[str, int]:
        """Return it as JSON values."""
        names = ("last_accepted", "accepted_again", "count", "denied", "least_left")
        return {name: getattr(self, name) for name in names}


def main() -> None:
    """Obey commands from stdin."""
    follower = Noting(*sys.argv[1:4])
    decisions: Decisions | None = None
    for line in sys.stdin:
        [(command, value)] = json.loads(line).items()
        answer: Any = None
        if command == "live":
            answer = follower.catch_up(0, 0, 60)
        elif command == "seen":
            answer, follower.applied_at = follower.applied_at, []
        elif command == "decide":
            if decisions is not None:
                decisions.stop.set()
            *token, pause_s = value
            decisions = Decisions(follower, (token[0], token[1], token[2]), pause_s)
        elif command == "tell":
            assert decisions is not None
            answer = decisions.told()
        elif command == "memory":
            answer = memory()
        print(json.dumps(answer), flush=True)


def memory(pid: int | None = None) -> int:
    """Return what a process has in memory, bytes."""
    pages = int(Path(f"/proc/{pid or os.getpid()}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
