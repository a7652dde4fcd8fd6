# SPDX-License-Identifier: Apache-2.0
"""A tool service's process that decides all the time, and can report afterwards when it last accepted what.

As a program it is the process; as a module it is the test's handle on it.  The clock that is read before each decision
counts the same time in every process of a machine, so the test's own readings compare with these.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from arx_verifier.journal.decision import Decision, InMemoryDecisions
from arx_verifier.request import AccessRequest
from arx_verifier.revocation.epoch import boot_clock
from arx_verifier.revocation.follower import Follower
from arx_verifier.token.call_proof import CallSigner, tool_fields
from arx_verifier.token.keyring import KeyRing
from arx_verifier.token.macaroon import Macaroon
from arx_verifier.verification.verifier import Verifier
from tests.servers import freeze, until
from tests.support import AUDIENCE, KEY

ROOT = Path(__file__).resolve().parents[2]
PAUSE_S = 0.0005
TOOL, ARGS = "orders.get", {"order_id": "o-1"}
CALL = tool_fields(TOOL, ARGS)


class Run(NamedTuple):
    """Decisions in a row that came out alike; times are boot clock, ns, read before the decision."""

    code: str
    first: int
    last: int
    count: int


class Witness:
    """The test's handle.

    Args:
        url: Where the process finds the store.
        realm: The realm's name.
        name: What the store calls it.
        key: The audience's key, when the tokens are not the tests' own.
        kid: Its key id.
    """

    def __init__(self, url: str, realm: str, name: str = "tool", *, key: bytes = KEY, kid: str = "k1.0") -> None:
        command = [sys.executable, "-m", "tests.faults.witness", url, realm, name, key.hex(), kid]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        self.pid = self._process.pid

    def watch(self, **tokens: str) -> None:
        """Decide about these tokens from now on, each under its name; forget what was before."""
        self.say(watch=tokens)

    def say(self, **command: Any) -> Any:
        """Give a command and wait for its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def runs(self, name: str = "token") -> list[Run]:
        """What was decided about a token since ``watch``."""
        return [Run(*run) for run in self.say(runs=name)]

    def code(self, name: str = "token") -> str:
        """The last decision about a token, empty before the first."""
        return self.codes()[name]

    def codes(self) -> dict[str, str]:
        """The last decision about each token."""
        return dict(self.say(codes=True))

    def until(self, code: str, name: str = "token", within_s: float = 15.0) -> None:
        """Wait until a token is decided so."""
        until(lambda: self.code(name) == code, within_s)

    def last_accepted(self, name: str = "token") -> int:
        """When the last decision that accepted it began, boot clock, ns; 0 if none did."""
        return max((run.last for run in self.runs(name) if run.code == "ok"), default=0)

    def freeze(self) -> int:
        """Stop the process; returns when it had stopped, boot clock, ns."""
        return freeze(self.pid)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


class Forgetful(InMemoryDecisions):
    """Keeps no decision: there will be many."""

    def append(self, decision: Decision) -> int:
        """Take it and let it go."""
        return 1


class Process:
    """The process itself."""

    def __init__(self, url: str, realm: str, name: str, key: str, kid: str) -> None:
        self.follower = Follower(url, realm, name)
        keys = KeyRing({kid: bytes.fromhex(key)}, realm=realm)
        self.verifier = Verifier(audience=AUDIENCE, keys=keys, epochs=self.follower, decisions=Forgetful())
        self.verifier.start()
        self.tokens: dict[str, CallSigner] = {}
        self.runs: dict[str, list[list[Any]]] = {}
        self.first = ""
        self.lock = threading.Lock()
        self.fork = False

    def decide_for_ever(self) -> None:
        """Decide about every token, again and again."""
        while True:
            with self.lock:
                tokens = tuple(self.tokens.items())
            for name, signer in tokens:
                began = boot_clock()
                code = self.decide(signer)
                with self.lock:
                    self.note(name, code, began)
            if self.fork:
                self.fork_once()
            time.sleep(PAUSE_S)

    def decide(self, signer: CallSigner) -> str:
        """Sign a call, as its holder would, and decide on it."""
        now = time.time_ns() // 1_000_000
        return self.verifier.decide(signer.sign(CALL, now), AccessRequest(TOOL, ARGS, now)).code

    def decide_whole(self) -> str:
        """Decide on the first token itself: who was forked shares no memory of used calls, and refuses signed ones."""
        return self.verifier.decide(self.first, AccessRequest(TOOL, ARGS, time.time_ns() // 1_000_000)).code

    def note(self, name: str, code: str, began: int) -> None:
        """Lengthen the last run, or begin one."""
        runs = self.runs.get(name)
        if runs is None:
            return
        if runs and runs[-1][0] == code:
            runs[-1][2], runs[-1][3] = began, runs[-1][3] + 1
        else:
            runs.append([code, began, began, 1])

    def fork_once(self) -> None:
        """Fork between two decisions; the child reports its first one, and its state once it follows by itself."""
        self.fork = False
        if os.fork():
            return
        first = self.decide_whole()
        live = self.follower.catch_up(0, 0, 10)
        values = [first, live, self.decide_whole(), self.follower.verifier_id]
        os.write(1, (json.dumps(values) + "\n").encode())
        os._exit(0)

    def obey(self, line: str) -> None:
        """Do what the test says, and answer."""
        [(command, value)] = json.loads(line).items()
        answer: Any = None
        if command == "watch":
            tokens = {name: CallSigner(Macaroon.parse(text), AUDIENCE) for name, text in value.items()}
            with self.lock:
                self.first = next(iter(value.values()), "")
                self.tokens, self.runs = tokens, {name: [] for name in value}
        elif command == "runs":
            with self.lock:
                answer = list(self.runs[value])
        elif command == "codes":
            with self.lock:
                answer = {name: runs[-1][0] if runs else "" for name, runs in self.runs.items()}
        elif command == "applied":
            answer = self.follower.view()[1]
        elif command == "wall":
            self.follower._wall = lambda: time.time_ns() + value
        elif command == "busy":
            for _ in range(value):
                threading.Thread(target=_be_busy, daemon=True).start()
        elif command == "fork":
            self.fork = True
            return  # the child answers
        print(json.dumps(answer), flush=True)


def _be_busy() -> None:
    while True:
        sum(range(1000))


def main() -> None:
    """Decide in one thread and obey in this one."""
    process = Process(*sys.argv[1:6])
    threading.Thread(target=process.decide_for_ever, daemon=True).start()
    for line in sys.stdin:
        process.obey(line)


if __name__ == "__main__":
    main()
