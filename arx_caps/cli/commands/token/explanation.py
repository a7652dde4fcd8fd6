# SPDX-License-Identifier: Apache-2.0
"""``arx token explain``: whether a call with a token would be allowed, and the reasons of a refusal.  SPEC 11.

With a service file, this is the whole verification, with the store's kills and freezes if the store answers.  Without
one, only the caveats are evaluated.  No nonce is used, no budget is drawn on and no decision is recorded.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from arx_caps.agent.tasks.approval import Approval, add_approvals
from arx_caps.agent.tasks.forecast import forecast
from arx_caps.agent.tasks.outline import outline, unverified_chain
from arx_caps.cli.access.credentials import Holding, holder_key_option, read_holder_key
from arx_caps.cli.access.secure_files import read_text
from arx_caps.cli.exit_codes import DENIED, OK, Stop
from arx_caps.cli.options import command_options
from arx_caps.cli.parse import Moment, pairs_option, read_pairs
from arx_caps.cli.terminal import Console, plain
from arx_caps.cli.token_description import fingerprint
from arx_caps.revocation.store import RevocationStore
from arx_caps.settings.durations import show_time
from arx_verifier.errors import REASONS, Failure, StoreError
from arx_verifier.journal.decision import InMemoryDecisions
from arx_verifier.ledger.memory import MemoryLedger
from arx_verifier.ledger.pools import MarkQuestion, PoolDraw, Short, Stopped, Taken, UsedKey
from arx_verifier.names import matches_tool
from arx_verifier.request import AccessRequest
from arx_verifier.revocation.epoch import FOREVER_NS, EpochTable, Lease
from arx_verifier.revocation.password import find_password
from arx_verifier.revocation.relay_link import is_relay
from arx_verifier.service import ServiceConfig, open_verifier, read_service_file
from arx_verifier.token import call_proof
from arx_verifier.token.macaroon import Identifier, Macaroon
from arx_verifier.token.wire import JOINT


# The view takes no lease and joins no registry: a kill would wait for its confirmation.
def known_kills(service: ServiceConfig, macaroon: Macaroon) -> tuple[EpochTable, str | None]:
    """Return the store's kills and freezes.

    Args:
        service: The service, which names the store.
        macaroon: The token; if the store does not answer, its own birth is taken for the present.

    Returns:
        The view, and a note on what it lacks, or None.
    """
    table, because = EpochTable(), "the service file names no store"
    if service.store is not None and is_relay(service.store):
        because = "the service follows a relay, which answers followers only"
    elif service.store is not None:
        store = RevocationStore(
            service.store, service.realm, password=find_password("ARX_STORE_PASSWORD"), ca=service.ca
        )
        try:
            header = store.header()
            table.adopt(header.incarnation, header.seq, store.kills(), store.freezes())
        except StoreError as error:
            because = str(error)
        else:
            table.renew(header.incarnation, header.seq, Lease(FOREVER_NS, FOREVER_NS, FOREVER_NS))
            return table, None
    identifier = macaroon.unverified_identifier
    incarnation, born = identifier.born if isinstance(identifier, Identifier) else ("", 0)
    table = EpochTable()
    table.adopt(incarnation, born, {}, {})
    table.renew(incarnation, born, Lease(FOREVER_NS, FOREVER_NS, FOREVER_NS))
    return table, f"kills and freezes are not checked: {because}"


class Explanation(NamedTuple):
    """The decision of a service on the call.

    Attributes:
        code: ``ok`` or a reason code.
        failures: The conditions that did not hold.
        notes: What was assumed or not checked.
    """

    code: str
    failures: tuple[Failure, ...]
    notes: tuple[str, ...]


class _Added(NamedTuple):
    """The discharges that came with the token, and further approvals.  Secrets."""

    discharges: tuple[Macaroon, ...]
    approvals: Sequence[Approval]

    def to(self, text: str, macaroon: Macaroon, audience: str, at: int) -> str:
        """Return the credential."""
        text = add_approvals(text, macaroon, self.approvals, audience=audience, at=at)
        return JOINT.join([text, *[each.encode() for each in self.discharges]])

    def read(self) -> list[Macaroon]:
        """Return the discharges of both."""
        return [*[each.discharge for each in self.approvals], *self.discharges]


class _NothingSpent:
    """A nonce store in which every call is new: an explanation uses no nonce."""

    waits = False

    def spend(self, key: bytes | str, expires_ms: int, now_ms: int) -> bool:  # noqa: ARG002
        """Return true: the call is new."""
        return True

    def not_before(self, key: bytes | str) -> int:  # noqa: ARG002
        """Return 0: nothing is forgotten."""
        return 0

    def close(self) -> None:
        """Do nothing."""


class _NothingDrawn:
    """A ledger in which every pool is full and no mark is set: an explanation draws from none."""

    waits = False

    def take(
        self,
        kind: str,  # noqa: ARG002
        op: str,
        draws: Sequence[PoolDraw],
        used: UsedKey | None = None,  # noqa: ARG002
        marks: MarkQuestion | None = None,
    ) -> Taken | Short | Stopped:
        """Return what a call gets of full pools, in a new session."""
        if marks is not None:
            judged = MemoryLedger(clock=lambda: marks.at).take("draw", op, (), None, marks._replace(opened=marks.at))
            if isinstance(judged, Stopped):
                return judged
        for at, draw in enumerate(draws):
            if draw.cost > draw.max:
                return Short(at, draw.max)
        left = tuple([draw.max - draw.cost for draw in draws])
        return Taken(left, tuple([draw.cost for draw in draws]), (-1,) * len(draws))

    def settle(self, op: str, used: Sequence[tuple[PoolDraw, int]]) -> Short | None:
        """Do nothing."""

    def undo(self, draws: Sequence[PoolDraw]) -> None:
        """Do nothing."""

    def start(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


@click.command("explain")
@click.argument("file")
@click.option("--tool", required=True, help="tool of the call")
@pairs_option("--arg", "arguments", "argument of the call")
@click.option("--audience", help="service of the call, if FILE is a bundle for several")
@click.option(
    "--service", metavar="FILE", help="service file: verify the signature as well, and kills if the store answers"
)
@holder_key_option
@click.option(
    "--approval",
    "approvals",
    multiple=True,
    metavar="FILE",
    help="approval for the call, as --discharge wrote it; repeatable",
)
@click.option("--at", type=Moment(), help="time of the call [now]")
@click.option("--peer", help="address of the caller")
@command_options
def explain_command(
    console: Console, /, file: str, tool: str, arguments: tuple[str, ...], approvals: tuple[str, ...], **where: Any
) -> None:
    """Print whether a call with this token would be allowed; exit with 1 if it would be denied.

    \b
        arx token explain task.bundle --tool orders.get --arg order_id=o-1001
    """
    holding = Holding.read(file)
    service = read_service_file(where["service"]) if where["service"] else None
    audience = where["audience"] or (service.audience if service else None)
    macaroon = _choose(holding, tool, audience)
    at_ms = where["at"] if where["at"] is not None else time.time_ns() // 1_000_000
    request = AccessRequest(tool, read_pairs(arguments), at_ms, where["peer"])
    added = _Added(holding.discharges, [Approval.from_text(read_text(each)) for each in approvals])
    if service is not None:
        verdict = _verified(macaroon, request, added, where["service"], service, where["holder_key"])
    else:
        verdict = _unverified(macaroon, request, added)
    allowed = verdict.code == "ok"
    value = {
        "allowed": allowed,
        "code": verdict.code,
        "meaning": _meaning(verdict.code),
        "failures": [failure._asdict() for failure in verdict.failures],
        "notes": list(verdict.notes),
        "signature_checked": service is not None,
        "audience": macaroon.unverified_identifier.aud,
        "tool": tool,
        "at": at_ms,
        "fingerprint": fingerprint(macaroon.encode()),
    }
    console.data("explanation", value, lambda: _show(verdict, tool, at_ms))
    for note in verdict.notes:
        console.say(f"note: {note}")
    if verdict.code == "missing_discharge":
        console.hint("request an approval with `arx task ask`, and explain the call with --approval FILE")
    click.get_current_context().exit(OK if allowed else DENIED)


def _choose(holding: Holding, tool: str, audience: str | None) -> Macaroon:
    """Return the token of the call: of the named service, the only one, or the only one that allows the tool."""
    if audience is not None:
        return holding.token(audience)
    if len(holding.tokens) == 1:
        return next(iter(holding.tokens.values()))
    # Two services can have a tool of the same name; then the caller must choose.
    knowing = [token for token in holding.tokens.values() if _knows(token, tool)]
    if len(knowing) == 1:
        return knowing[0]
    raise Stop(
        f"the bundle has tokens for {', '.join(sorted(holding.tokens))}: expected one service",
        hint="name the service with --audience",
        code="audience",
    )


def _knows(macaroon: Macaroon, tool: str) -> bool:
    return any(matches_tool(pattern, tool) for pattern in outline(macaroon).tools)


def _unverified(macaroon: Macaroon, request: AccessRequest, added: _Added) -> Explanation:
    """Evaluate the caveats alone."""
    added.to("", macaroon, macaroon.unverified_identifier.aud, request.at)  # raises if an approval is of another token
    notes = ["signature, kills and freezes are not checked: give --service FILE to check them"]
    answer = forecast(macaroon, request, added.read())
    if macaroon.is_one_shot:
        notes.append("this one-shot token is for one call, which is not compared with this call")
    elif answer.needs_call:
        notes.append("the token must be signed for each call; this call is taken as signed")
    return Explanation(answer.code, answer.failures, tuple(notes))


def _verified(
    macaroon: Macaroon, request: AccessRequest, added: _Added, path: str, service: ServiceConfig, key: Path | None
) -> Explanation:
    """Verify as the service would, with a call proof that is made here as the holder would make it."""
    # The same Verifier as in a service, so that the explanation cannot differ from the decision.
    epochs, note = known_kills(service, macaroon)
    notes = [note] if note else []
    ledger = None if service.ledger is None else _NothingDrawn()
    if ledger is not None and unverified_chain(macaroon).pools:
        notes.append("budgets are taken as full: what they have left is not asked, and nothing is drawn")
    verifier = open_verifier(path, epochs=epochs, decisions=InMemoryDecisions(), nonces=_NothingSpent(), ledger=ledger)
    text = macaroon.encode()
    if macaroon.is_one_shot:
        notes.append("this one-shot token is verified for a call of this tool with these arguments")
    else:
        notes.append("the call was signed here, as the token's holder would sign it")
        said = outline(macaroon)
        bound = said.holder is not None
        holder = read_holder_key(key) if bound else None
        signer = call_proof.CallSigner(macaroon, service.audience, holder, signs=bound and said.needs_signature)
        try:
            text = signer.sign(call_proof.fields_of(request), request.at)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--at") from error
    text = added.to(text, macaroon, service.audience, request.at)
    decision = verifier.decide(text, request)
    return Explanation(decision.code, decision.all_failures(), tuple(notes))


def _meaning(code: str) -> str | None:
    reason = REASONS.get(code)
    return None if reason is None else reason.meaning


def _show(verdict: Explanation, tool: str, at_ms: int) -> str:
    if verdict.code == "ok":
        return f"allowed: {plain(tool)} at {show_time(at_ms)}"
    lines = [f"denied: {verdict.code}: {_meaning(verdict.code) or ''}".rstrip(": ")]
    for failure in verdict.failures:
        lines.append(f"  {plain(failure.located())}")
    return "\n".join(lines)
