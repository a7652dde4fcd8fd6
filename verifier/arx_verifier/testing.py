# SPDX-License-Identifier: Apache-2.0
"""Test a service that embeds a verifier: a realm of one audience in this process, without mint, store or journal.

Nothing of the decision is left out: tokens are real ones, each call is signed, and is refused for the reasons of a
service in use.  Only what stands around a verifier is in memory, and gone with the process.
"""

import hashlib
import os
import time
from typing import Any, Final

from arx_verifier.constraints.rule import Rule
from arx_verifier.journal.decision import InMemoryDecisions
from arx_verifier.request import HttpCall
from arx_verifier.revocation.epoch import UnsafeLocalEpochs
from arx_verifier.token import wire
from arx_verifier.token.call_proof import CallSigner, http_fields, tool_fields
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.keyring import KeyRing
from arx_verifier.token.macaroon import Identifier, Macaroon
from arx_verifier.verification.verifier import Verifier

_KID: Final = "k1.0"
_TTL_MS: Final = 600_000


class UnsafeCaller:
    """An agent with one task's token, which signs each call anew.

    ``httpx``, ``httpx2`` and the test clients of Starlette and FastAPI take it as ``auth=``.

    Attributes:
        macaroon: The token.
    """

    def __init__(self, macaroon: Macaroon, audience: str) -> None:
        self.macaroon, self._audience = macaroon, audience
        self._signer = CallSigner(macaroon, audience)

    def __call__(self, request: Any) -> Any:
        """Sign one request of an HTTP client, and return it."""
        call = HttpCall(request.method, request.url.raw_path, hashlib.sha256(request.read()).digest())
        request.headers["Authorization"] = f"Bearer {self._signer.sign(http_fields(call), _now_ms())}"
        return request

    def token(self, tool: str, /, **args: Any) -> str:
        """Return the token of one call without HTTP, as ``arx_token`` of a protected function."""
        return self._signer.sign(tool_fields(tool, args), _now_ms())

    def delegate(self, to: str, *rules: Rule) -> "UnsafeCaller":
        """Return the sub-agent ``to``, which may do what these rules leave; none of them leaves everything."""
        attenuated = Caveat(allow=rules) if rules else None
        return UnsafeCaller(self.macaroon.delegate(to, attenuated), self._audience)


class UnsafeTestRealm:
    """A realm with one audience, whose key nobody else has.  For tests alone.

    Attributes:
        verifier: Give it to the application where it would have that of ``open_verifier``.
        epochs: ``epochs.kill("agent:test/agent")`` is in force at once; so are ``freeze`` and ``thaw``.
        decisions: What was decided, ``decisions.decisions``, the last one last.

    Args:
        audience: The service's name.
    """

    def __init__(self, audience: str) -> None:
        self._audience, self._key = audience, os.urandom(32)
        self.epochs, self.decisions = UnsafeLocalEpochs(), InMemoryDecisions()
        keys = KeyRing({_KID: self._key}, realm="test")
        self.verifier = Verifier(audience=audience, keys=keys, epochs=self.epochs, decisions=self.decisions)

    def caller(
        self,
        *rules: Rule,
        agent: str = "test/agent",
        subject: tuple[str, str] | None = None,
        session: str = "s-test",
        task: str = "t-test",
        depth: int = 4,
        ttl_ms: int = _TTL_MS,
    ) -> UnsafeCaller:
        """Return an agent with a token for what the rules allow.

        Args:
            rules: At least one; ``Rule(tool="orders.get", args={"order_id": "o-1"})``.
            agent: Its path.
            subject: The issuer and subject of the person for whom it works, or None.
            session: Its session's id.
            task: Its task's id.
            depth: How many delegations may follow.
            ttl_ms: How long the token lives, ms; a negative one is over already.
        """
        now = _now_ms()
        identifier = Identifier(
            agent=agent,
            aud=self._audience,
            born=self.epochs.view()[:2],
            depth=depth,
            exp=now + ttl_ms,
            iat=min(now, now + ttl_ms - 1),
            id=wire.text_of(os.urandom(16)),
            kid=_KID,
            session=session,
            subject=subject,
            task=task,
            v=1,
        )
        caveats = (Caveat(allow=rules, require=("call",)),)
        macaroon = Macaroon.mint(identifier, key=self._key, realm="test", caveats=caveats)
        return UnsafeCaller(macaroon, self._audience)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
