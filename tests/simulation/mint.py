# SPDX-License-Identifier: Apache-2.0
"""The mint as far as the epoch goes: the real check of who asks, on a real view, with a model of its database."""

from types import SimpleNamespace
from typing import Any, NamedTuple

from arx_caps.mint.context import KillView
from arx_verifier.errors import ArxError, refusal
from tests.simulation.judge import Judge
from tests.simulation.verifiers import Machine, Token
from tests.simulation.world import World


class Session(NamedTuple):
    """An open session and its token."""

    name: str
    token: Token


class SimulatedMint:
    """Opens sessions and starts tasks on what a machine's view says.

    Args:
        world: Where it is.
        machine: Whose view it uses.
        judge: Receives each token.
    """

    def __init__(self, world: World, machine: Machine, judge: Judge) -> None:
        self._world, self._machine, self._judge = world, machine, judge
        self.sessions: list[Session] = []
        self.tokens: list[Token] = []

    def open_session(self, agent: str) -> None:
        """Open a session, if the view allows."""
        name = f"s{len(self.sessions)}"
        front = self._front(None)
        try:
            born = front.kills.born()
            front.kills.require(born, ("realm", f"agent:{agent}"))
        except ArxError:
            return
        targets = ("realm", f"agent:{agent}", f"session:{name}")
        token = Token(born.incarnation, born.seq, (born.incarnation, born.seq), targets)
        self.sessions.append(Session(name, token))
        self._add(token, front.kills.epochs)

    def start_task(self, session: Session) -> None:
        """Start a task in a session, if the view allows; other things may happen meanwhile."""
        front = self._front(session)
        proof = SimpleNamespace(key=SimpleNamespace(kid="key", x=""), jti="", until=0)
        call, unit = SimpleNamespace(peer=None), SimpleNamespace(spend=lambda *args, is_used: None)
        check = self._world.code.caller
        try:
            caller = self._world.interleaved(
                self._world.reader_pauses,
                lambda: check(front, unit, "", session.name, proof, call, "arx.tasks.start", {}),  # type: ignore[arg-type]
                lambda length: self._world.reader_held_up(self._machine, session.token, length),
            )
            born = caller.born
            assert born is not None
            front.kills.require(born, ("policy:p",))
        except ArxError:
            return
        number = len(self.tokens)
        targets = (*session.token.targets, f"task:t{number}", f"link:l{number}")
        self._world.note("mint started task", number, "in", session.name, "born", born.seq)
        self._add(Token(born.incarnation, born.seq, session.token.root, targets), front.kills.epochs)

    def _add(self, token: Token, following: Any) -> None:
        self.tokens.append(token)
        self._judge.born(token, following)

    def _front(self, session: Session | None) -> Any:
        """Return a mint whose database says that all is well, so that only the epoch can refuse."""
        following, machine = self._machine.following, self._machine

        def verify(token: str, request: Any) -> Any:
            assert session is not None
            refused = machine.check(session.token)
            if refused is not None:
                raise refusal(refused.code)
            return SimpleNamespace(agent="a", session=session.name, exp=0)

        row = SimpleNamespace(jkt="key", status="open", agent="a")
        sessions = SimpleNamespace(find_with_agent=lambda name, used: (row, SimpleNamespace(status="active"), False))
        limits = SimpleNamespace(count_agent=lambda _: None)  # the rate of calls decides about no token
        verifier = SimpleNamespace(verify=verify)
        freezes = SimpleNamespace(require_complete=lambda *_: None)  # none is lost here: a new history keeps them
        kills = KillView(following, freezes)  # type: ignore[arg-type]
        front: Any = SimpleNamespace(kills=kills, verifier=verifier, limits=limits)
        front.db = SimpleNamespace(sessions=sessions)
        return front
