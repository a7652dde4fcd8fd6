# SPDX-License-Identifier: Apache-2.0
"""Test a service that embeds a verifier, without a mint, a store or a journal.

Tokens, call proofs and decisions are real.  Keys, epochs and records are in memory and end with the process.
"""

import hashlib
import os
from collections.abc import Mapping
from typing import Any, Final

from arx_verifier.amounts import Amount
from arx_verifier.clock import now_ms
from arx_verifier.constraints.rule import Rule
from arx_verifier.journal.decision import InMemoryDecisions
from arx_verifier.ledger.memory import MemoryLedger
from arx_verifier.request import HttpCall
from arx_verifier.revocation.epoch import UnsafeLocalEpochs
from arx_verifier.token import wire
from arx_verifier.token.call_proof import CallSigner, http_fields, tool_fields
from arx_verifier.token.caveats import Caveat, spend_caveats
from arx_verifier.token.holder import HolderKey, audience_public
from arx_verifier.token.keyring import KeyRing
from arx_verifier.token.macaroon import Identifier, Macaroon
from arx_verifier.verification.verifier import Verifier

_KID: Final = "k1.0"
_TTL_MS: Final = 600_000


class UnsafeCaller:
    """An agent with one task's token, which signs each call.

    ``httpx``, ``httpx2`` and the test clients of Starlette and FastAPI take it as ``auth=``.

    Attributes:
        macaroon: The token.
    """

    def __init__(self, macaroon: Macaroon, audience: str, key: HolderKey | None = None) -> None:
        self.macaroon, self._audience, self._key = macaroon, audience, key
        self._signer = CallSigner(macaroon, audience, key)

    def __call__(self, request: Any) -> Any:
        """Sign one request of an HTTP client.

        Args:
            request: The client's request; its ``Authorization`` header is set.

        Returns:
            The same request.
        """
        call = HttpCall(request.method, request.url.raw_path, hashlib.sha256(request.read()).digest())
        request.headers["Authorization"] = f"Bearer {self._signer.sign(http_fields(call), now_ms())}"
        return request

    def token(self, tool: str, /, **args: Any) -> str:
        """Return the token of one call without HTTP, as ``arx_token`` of a protected function.

        Args:
            tool: The tool.
            args: The arguments of the call.

        Raises:
            RequestError: The arguments have no RFC 8785 form.
        """
        return self._signer.sign(tool_fields(tool, args), now_ms())

    def delegate(
        self, to: str, *rules: Rule, key: HolderKey | None = None, budget: Mapping[str, Amount] | None = None
    ) -> "UnsafeCaller":
        """Return a sub-agent with the token attenuated by rules; without rules, only delegated.  SPEC 5.2.

        Args:
            to: The sub-agent's path.
            rules: What it may do, within what this caller may do.
            key: The sub-agent's key; for a bound token, and only for one.
            budget: What its calls may cost together, by unit, within what this caller has left.

        Raises:
            AttenuationError: The result would be too large.
        """
        attenuated = Caveat(allow=rules) if rules else None
        public = key.public if key is not None else None
        made = self.macaroon.delegate(to, attenuated, key=public, by=self._key)
        for caveat in spend_caveats(to.rpartition("/")[2], budget or {}, "task", now_ms()):
            made = made.attenuate(caveat)
        return UnsafeCaller(made, self._audience, key)


class UnsafeTestRealm:
    """A realm with one audience and a key of its own.  For tests alone.

    Attributes:
        verifier: Pass it to the application instead of the result of ``open_verifier``.
        epochs: ``epochs.kill("agent:test/agent")`` is in force at once; so are ``freeze`` and ``thaw``.
        ledger: The budgets and marks of its callers.
        opened: When their sessions were opened, ms since the Unix epoch.
        decisions: The decisions so far, in ``decisions.decisions``, the last one last.

    Args:
        audience: The service's name.
        costs: What its tools cost, as for ``Verifier``.
    """

    def __init__(self, audience: str, *, costs: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self._audience, self._key = audience, os.urandom(32)
        self.epochs, self.decisions = UnsafeLocalEpochs(), InMemoryDecisions()
        keys = KeyRing({_KID: self._key}, realm="test")
        self.ledger, self.opened = MemoryLedger(), now_ms()
        self.verifier = Verifier(
            audience=audience,
            keys=keys,
            epochs=self.epochs,
            decisions=self.decisions,
            ledger=self.ledger,
            costs=costs,
        )

    def caller(
        self,
        *rules: Rule,
        agent: str = "test/agent",
        subject: tuple[str, str] | None = None,
        session: str = "s-test",
        task: str = "t-test",
        depth: int = 4,
        ttl_ms: int = _TTL_MS,
        key: HolderKey | None = None,
        budget: Mapping[str, Amount] | None = None,
        per: str = "task",
        marks: Mapping[str, Any] | None = None,
    ) -> UnsafeCaller:
        """Return an agent with a token for the calls that the rules allow.

        Args:
            rules: At least one; ``Rule(tool="orders.get", args={"order_id": "o-1"})``.
            agent: Its path.
            subject: The issuer and subject of the person on whose behalf it works, or None.
            session: Its session's id.
            task: Its task's id.
            depth: How many delegations may follow.
            ttl_ms: The token's life, ms; a negative one makes an expired token.
            key: The key that the token is bound to; None for a bearer token.
            budget: What its calls may cost together, by unit: ``{"usd": "5.00", "calls": 200}``.
            per: The period of the budget: ``task``, ``hour`` or ``day``.
            marks: Rows about marks, by the member of the caveat: SPEC 21.2.
        """
        now = now_ms()
        identifier = Identifier(
            agent=agent,
            aud=self._audience,
            aud_key=audience_public(self._key) if key is not None else None,
            born=self.epochs.view()[:2],
            depth=depth,
            exp=now + ttl_ms,
            holder=key.public if key is not None else None,
            iat=min(now, now + ttl_ms - 1),
            id=wire.text_of(os.urandom(16)),
            kid=_KID,
            session=session,
            subject=subject,
            task=task,
            v=1,
        )
        # As the mint does, so that tests cover the call proof: without it a token would be accepted without one.
        rows = {**marks, "opened": self.opened} if marks else {}
        caveats = (Caveat(allow=rules, require=("call",), **rows), *spend_caveats("test", budget or {}, per, now))
        macaroon = Macaroon.mint(identifier, key=self._key, realm="test", caveats=caveats)
        return UnsafeCaller(macaroon, self._audience, key)
