# SPDX-License-Identifier: Apache-2.0
"""A holder could be allowed after the end of its token, for as long as its own decision waited.

Whether a token's time is over was asked once, before the decision waited for a probe of the store, for its nonce or for
its record.  A holder who attenuated a token to ``fresh`` and called in its last moment was allowed up to a second after
its end, on a slow disk later still, by when the store may have forgotten what was killed.
"""

import asyncio
import time
from collections.abc import Callable

import pytest

from arx_verifier.token.caveats import Caveat
from tests.support import ANYTHING, AT, MovedEpochs, SlowDecisions, access, mint, sign, verifier

Wait = Callable[[int], None]


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Wait:
    """Let so many ms pass, by the clock that does not step."""
    clock, late = time.monotonic_ns, [0]
    monkeypatch.setattr("arx_verifier.verification.verifier.time.monotonic_ns", lambda: clock() + sum(late))
    return lambda ms: late.append(ms * 1_000_000)


class SlowProbes(MovedEpochs):
    """A store that takes its time, and reports none."""

    def __init__(self, wait: Wait) -> None:
        super().__init__(lease_ms=10_000)
        self.move(5_000)
        self._wait = wait

    def catch_up(self, sent_after: int, born: int, timeout: float) -> bool:
        self._wait(900)
        return super().catch_up(sent_after, born, timeout)


@pytest.mark.parametrize(("left", "code"), [(500, "expired"), (5_000, "ok")])
@pytest.mark.parametrize("asynchronous", [False, True], ids=["in a thread", "in a loop"])
def test_a_token_may_run_out_while_a_probe_is_awaited(wait: Wait, left: int, code: str, asynchronous: bool) -> None:
    """Its time is looked at again when the answer is there; nothing is recorded but the decision."""
    epochs = SlowProbes(wait)
    checked = verifier(epochs=epochs)
    token = mint(ANYTHING, Caveat(fresh=1_000), exp=AT + left).encode()
    decided = asyncio.run(checked.decide_async(token, access())) if asynchronous else checked.decide(token, access())
    assert (decided.code, epochs.asked) == (code, 1)
    assert [decision.code for decision in checked.decisions.decisions] == [code]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("left", "codes"), [(500, ["ok", "expired"]), (5_000, ["ok"])])
def test_a_token_may_run_out_while_its_record_is_written(wait: Wait, left: int, codes: list[str]) -> None:
    """The allow that was recorded gets a second record, and no grant."""
    sink = SlowDecisions(lambda: wait(900))
    parent = mint(exp=AT + left)
    decided = verifier(decisions=sink).decide(sign(parent, access()), access())
    assert [decision.code for decision in sink.decisions] == codes
    assert (decided.code, decided.grant is None) == (codes[-1], codes[-1] != "ok")


def test_a_call_does_not_outwait_its_proof(wait: Wait) -> None:
    """A call that was young enough when it came is judged by its age when the view is there."""
    parent = mint(ANYTHING, Caveat(fresh=1_000))
    token = sign(parent, access(at=AT - 9_500))
    assert verifier(epochs=SlowProbes(wait)).decide(token, access()).code == "proof_invalid"
