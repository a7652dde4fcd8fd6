# SPDX-License-Identifier: Apache-2.0
"""``arx token explain``: would this call be allowed, and if not, why not?  SPEC 11.

With a service file it is the whole verification with the service's key, and the store's kills and freezes when the
store can be asked.  Without one the caveats alone are judged, and the signature is not.  Nothing is spent or recorded.
The proof of a call is made here, as the holder would make it: what is explained is the token, not one attempt.
"""

import os
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import click

from arx_caps.agent.approval import Approval, add_approvals
from arx_caps.agent.forecast import forecast
from arx_caps.agent.outline import outline
from arx_caps.cli.credentials import Holding
from arx_caps.cli.exit_codes import DENIED, OK, Stop
from arx_caps.cli.options import common_options, pass_console
from arx_caps.cli.parse import Moment, read_pairs
from arx_caps.cli.secure_files import read_text
from arx_caps.cli.terminal import Console, plain
from arx_caps.cli.token_description import fingerprint
from arx_caps.durations import show_time
from arx_caps.revocation import RevocationStore
from arx_verifier.errors import REASONS, Failure, StoreError
from arx_verifier.journal import InMemoryDecisions
from arx_verifier.names import matches_tool
from arx_verifier.request import AccessRequest
from arx_verifier.revocation import FOREVER_NS, EpochTable, Lease, is_relay
from arx_verifier.service import ServiceConfig, open_verifier, read_service_file
from arx_verifier.token import JOINT, Identifier, Macaroon, call_proof


# No verifier's view: it takes no lease and joins no registry, because a kill would wait for it to confirm.
def known_kills(service: ServiceConfig, macaroon: Macaroon) -> tuple[EpochTable, str | None]:
    """Read the store's kills and freezes.

    Args:
        service: Names the store.
        macaroon: The token to explain; where the store cannot be asked, its own birth is believed.

    Returns:
        A view to verify with, and a note on what it leaves out, or None.
    """
    table, because = EpochTable(), "the service file names no store"
    if service.store is not None and is_relay(service.store):
        because = "the service follows a relay, which answers followers only"
    elif service.store is not None:
        store = RevocationStore(
            service.store, service.realm, password=os.environ.get("ARX_STORE_PASSWORD"), ca=service.ca
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


class Verdict(NamedTuple):
    """What a service would answer.

    Attributes:
        code: ``ok`` or a reason code.
        failures: What was expected and what came.
        notes: What was assumed or left out.
    """

    code: str
    failures: tuple[Failure, ...]
    notes: tuple[str, ...]


class _Added(NamedTuple):
    """What goes along with the token: presented with it, and approvals that would be.  Secrets."""

    discharges: tuple[Macaroon, ...]
    approvals: Sequence[Approval]

    def to(self, text: str, macaroon: Macaroon, audience: str, at: int) -> str:
        """Return the credential."""
        text = add_approvals(text, macaroon, self.approvals, audience=audience, at=at)
        return JOINT.join([text, *[each.encode() for each in self.discharges]])

    def read(self) -> list[Macaroon]:
        """Return all of them."""
        return [*[each.discharge for each in self.approvals], *self.discharges]


class _NothingSpent:
    """A nonce store that knows of no call: an explanation must neither spend a call nor fail by one."""

    waits = False
    not_before_ms = 0

    def spend(self, key: bytes | str, expires_ms: int, now_ms: int) -> bool:  # noqa: ARG002
        """Return that the call is new."""
        return True


@click.command("explain")
@click.argument("file")
@click.option("--tool", required=True, help="the tool that would be called")
@click.option("--arg", "arguments", multiple=True, metavar="NAME=VALUE", help="one of its arguments; name:=JSON")
@click.option("--audience", help="the service, where FILE is a bundle for several")
@click.option("--service", metavar="FILE", help="the service's file: checks the signature, and kills if it can")
@click.option("--approval", "approvals", multiple=True, metavar="FILE", help="goes along, as --discharge wrote it")
@click.option("--at", type=Moment(), help="judge as of this time; now when left out")
@click.option("--peer", help="the address the call would come from")
@common_options
@pass_console
def explain_command(
    console: Console, /, file: str, tool: str, arguments: tuple[str, ...], approvals: tuple[str, ...], **where: Any
) -> None:
    """Say whether a call with this token would be allowed; exits with 1 when it would be denied.

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
        verdict = _verified(macaroon, request, added, where["service"], service)
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
        console.hint("`arx task ask` asks operators to approve it; --approval FILE explains it with what they gave")
    click.get_current_context().exit(OK if allowed else DENIED)


def _choose(holding: Holding, tool: str, audience: str | None) -> Macaroon:
    """Pick the token that the call would use: the named service's, the only one, or the one that knows the tool."""
    if audience is not None:
        return holding.token(audience)
    if len(holding.tokens) == 1:
        return next(iter(holding.tokens.values()))
    knowing = [token for token in holding.tokens.values() if _knows(token, tool)]
    if len(knowing) == 1:
        return knowing[0]
    raise Stop(
        f"it holds tokens for {', '.join(sorted(holding.tokens))}; say which service is called",
        hint="give --audience",
        code="audience",
    )


def _knows(macaroon: Macaroon, tool: str) -> bool:
    return any(matches_tool(pattern, tool) for pattern in outline(macaroon).tools)


def _unverified(macaroon: Macaroon, request: AccessRequest, added: _Added) -> Verdict:
    """Judge the caveats alone."""
    added.to("", macaroon, macaroon.unverified_identifier.aud, request.at)  # whether they belong to it at all
    notes = ["the signature is not checked, nor any kill: give --service for both"]
    answer = forecast(macaroon, request, added.read())
    if macaroon.is_one_shot:
        notes.append("this token is for one call; whether it is this one is not checked")
    elif answer.needs_call:
        notes.append("the token must be signed for each call: explained as if it were")
    return Verdict(answer.code, answer.failures, tuple(notes))


def _verified(macaroon: Macaroon, request: AccessRequest, added: _Added, path: str, service: ServiceConfig) -> Verdict:
    """Verify as the service would, with a proof of this call made here."""
    epochs, note = known_kills(service, macaroon)
    notes = [note] if note else []
    verifier = open_verifier(path, epochs=epochs, decisions=InMemoryDecisions(), nonces=_NothingSpent())
    text = macaroon.encode()
    if macaroon.is_one_shot:
        notes.append("this token is for one call, and is judged as one of this tool and these arguments")
    else:
        notes.append("explained as if the call were signed, with a proof made here")
        fields = call_proof.fields_of(request)
        try:
            text = call_proof.CallSigner(macaroon, service.audience).sign(fields, request.at)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--at") from error
    text = added.to(text, macaroon, service.audience, request.at)
    decision = verifier.decide(text, request)
    return Verdict(decision.code, decision.all_failures(), tuple(notes))


def _meaning(code: str) -> str | None:
    reason = REASONS.get(code)
    return None if reason is None else reason.meaning


def _show(verdict: Verdict, tool: str, at_ms: int) -> str:
    if verdict.code == "ok":
        return f"allowed: {plain(tool)} at {show_time(at_ms)}"
    lines = [f"denied: {verdict.code}: {_meaning(verdict.code) or ''}".rstrip(": ")]
    for failure in verdict.failures:
        lines.append(f"  {plain(failure)}")
    return "\n".join(lines)
