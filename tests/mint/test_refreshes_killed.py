# SPDX-License-Identifier: Apache-2.0
"""Four mints with 64 callers refresh one person's token, and one of them is killed at each step of its refresh."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import pytest

from tests.gateway.people import Tracker
from tests.mint.test_connections import ANN, Accounts, accounts  # noqa: F401 - a fixture

pytestmark = [pytest.mark.slow, pytest.mark.servers, pytest.mark.spec("CONTROL 9.3")]
MOST_STEPS: Final = 20
IN_ITS_ISSUER: Final = 1_000  # a step that it does not reach: the issuer kills it, before it answers


class Mint:
    """One of the mints."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.mint.refreshing"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def write(self, line: Any = None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(line) + "\n")
        self._process.stdin.flush()

    def read(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class Watched(Tracker):
    """An issuer that counts the uses of each refresh token until it refuses it, and kills a mint before it answers."""

    def __init__(self) -> None:
        super().__init__()
        self.uses: Counter[str] = Counter()
        self.refused: set[str] = set()
        self.victim = 0

    def issue(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        token, answer = form["refresh_token"], super().issue(form)
        # Callers that come before the connection is ended send a token that is refused again: nothing is left to lose.
        self.uses[token] += token not in self.refused
        if answer[0] != 200:
            self.refused.add(token)
        if self.victim:
            os.kill(self.victim, signal.SIGKILL)
            self.victim = 0
        return answer


TRACKER = Watched


@contextlib.contextmanager
def mints() -> Iterator[list[Mint]]:
    with contextlib.ExitStack() as stack:
        made = [Mint() for _ in range(4)]
        for each in made:
            stack.callback(each.close)
        yield made


def killed_at(accounts: Accounts, mints: list[Mint], step: int) -> tuple[bool, bool]:  # noqa: F811
    """Kill a mint at a step of a refresh; return whether it was killed, and whether the account was lost."""
    tracker = accounts.tracker
    assert isinstance(tracker, Watched)
    tracker.uses.clear()
    row = accounts.add(ANN, f"ann-{step}")
    order = {"realm": str(accounts.mint.realm.folder), "connection": row.id, "step": 0}
    order["terms"] = msgspec.to_builtins(accounts.mint.realm.connection["tracker"])
    victim, *others = mints
    victim.write(order | {"step": step})
    for each in others:
        each.write(order)
    number = victim.read()
    for each in others:
        each.read()
    victim.write()
    assert victim.read() == "locked"
    tracker.victim = number if step == IN_ITS_ISSUER else 0
    for each in others:  # they ask while it refreshes
        each.write()
    victim.write()
    ended = victim.read()
    got = {found for each in others for found in each.read()}
    is_killed = ended == -signal.SIGKILL
    assert is_killed or {*ended} == got, ended
    assert len(got) == 1
    is_lost = got == {"ended"}
    [first, *later] = [tracker.uses[name] for name in tracker.grants if name in tracker.uses]
    if is_lost:
        # The answer of the issuer to the dead mint is unknown: one caller tries the token once more.
        assert (first, later, is_killed) == (2, [], True)
    else:
        assert (first, later) == (1, [])
    return is_killed, is_lost


def test_no_token_is_refreshed_twice_wherever_a_mint_is_killed(accounts: Accounts) -> None:  # noqa: F811
    """An account is lost only where the issuer has used its token and nothing is stored: the connection is unclear."""
    with mints() as running:
        assert killed_at(accounts, running, IN_ITS_ISSUER) == (True, True)
        lost = []
        for step in range(1, MOST_STEPS):
            is_killed, is_lost = killed_at(accounts, running, step)
            if not is_killed:
                break
            lost.append(is_lost)
    # Before the request nothing is used up; from the answer to the commit, nothing is stored.
    assert len(lost) >= 4
    assert lost == [False, False] + [True] * (len(lost) - 2)
    assert (is_killed, is_lost) == (False, False)
