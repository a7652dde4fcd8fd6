# SPDX-License-Identifier: Apache-2.0
"""An approval, as its asker holds it: wait for an operator's answer, hand it on.  SPEC 6.6, CONTROL 2.7.

What an operator approves is one tool with these very arguments.  The mint then issues a *discharge*, a secret that
answers the third-party caveat in the task's token and is of no use without that token.
"""

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Protocol, Self

import msgspec
from msgspec import Meta

from arx_caps.agent.tasks.copies import Shared
from arx_verifier.clock import now_ms
from arx_verifier.constraints.rule import Rule
from arx_verifier.errors import (
    ArxError,
    AttenuationError,
    GrantError,
    MalformedTokenError,
    RequestError,
    StoreError,
    UnavailableError,
    shorten,
)
from arx_verifier.names import is_id
from arx_verifier.token import discharge
from arx_verifier.token.discharge import ThirdPartyCaveat
from arx_verifier.token.macaroon import Macaroon
from arx_verifier.token.wire import ThirdPartyPacket

FIRST_PAUSE_S: Final = 1.0  # an operator takes longer than that to read what is asked for
LONGEST_PAUSE_S: Final = 5.0
SLOWER: Final = 1.25
WAITING, APPROVED = "waiting", "approved"
_OVER: Final = {
    "approval_denied": "denied",
    "approval_expired": "expired",
    "approval_withdrawn": "withdrawn",
    "session_ended": "ended",
}


class Asker(Protocol):
    """The session that asked, as far as an approval needs it."""

    def fetch_discharge(self, approval: str) -> dict[str, Any]:
        """Ask the mint how an approval stands, and for its discharge."""


class Said(msgspec.Struct, frozen=True):
    """What a holder looks at in a discharge's caveats."""

    allow: tuple[Rule, ...] = ()
    exp: int | None = None
    task: Annotated[str, Meta(max_length=64)] | None = None


class Approval(Shared):
    """An operator's answer to one call, asked for by ``StartedTask.ask_approval`` or delegated as a text.

    ``repr`` shows no secret.

    Attributes:
        id: What operators call it, ``a-…``; a kill of ``task:a-…`` ends it and nothing else.
        task: The task that it was asked for.
        tool: The tool that it is for.
        args: The arguments that it is for; of one that was delegated, the constraints that say so.
        state: As of the last look: waiting, approved, denied, withdrawn, expired, ended.
        by: The operators who have said yes, as of the last look.
        need: How many have to; None where it was delegated.
        expires_at: When the task ends while it waits, then when the approval does; ms since the Unix epoch.
    """

    __slots__ = (
        "_asker",
        "_discharge",
        "_third_party",
        "args",
        "by",
        "expires_at",
        "id",
        "need",
        "state",
        "task",
        "tool",
    )

    state: str
    by: tuple[str, ...]
    expires_at: int | None

    def __init__(
        self,
        about: Mapping[str, Any],
        *,
        asker: Asker | None,
        third_party: bytes | None = None,
        discharge: str | None = None,
    ) -> None:
        """Make an approval of what the mint returned.

        Args:
            about: The approval as the mint returns it.
            asker: The session that asked; None where the approval was delegated.
            third_party: What its discharge has to answer, where that is known.
            discharge: The discharge, where operators have approved it already.

        Raises:
            StoreError: The discharge is of another approval.
        """
        self._asker, self._third_party = asker, third_party
        self._discharge: Macaroon | None = None
        self.id, self.task, self.tool = (str(about.get(name)) for name in ("id", "task", "tool"))
        self.args: Mapping[str, Any] = about.get("args") or {}
        self.need: int | None = about.get("need")
        self._take(about)
        if discharge is not None:
            self._discharge = self._checked(discharge)

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Take over an approval.

        Args:
            text: What ``encode`` gave the asker, a secret; white space around it is ignored.

        Raises:
            MalformedTokenError: The text is something else, such as a token.
        """
        if text.strip().startswith("a-"):
            raise MalformedTokenError(
                "this is the id of an approval; what encode() gave, or `arx approval wait`, is it"
            )
        macaroon = Macaroon.parse(text.strip())
        # Unproven: these texts are for people.  Only the service that gets the call can check the discharge.
        said = read_discharge(macaroon)
        rule = next((rules[0] for each in said if (rules := each.allow)), Rule(tool="*"))
        about: dict[str, Any] = {
            "id": next((each.task for each in said if each.task), "an approval"),
            "task": ThirdPartyCaveat.read(macaroon.identifier).id.rpartition(":")[2],
            "tool": rule.tool,
            "args": msgspec.to_builtins(rule.args or {}),
            "state": APPROVED,
            "expires_at": min((each.exp for each in said if each.exp is not None), default=None),
        }
        taken = cls(about, asker=None)
        taken._discharge = macaroon
        return taken

    def look(self) -> str:
        """Ask the mint how it stands.

        Returns:
            The state.

        Raises:
            GrantError: It was denied, withdrawn, or is over; or the task or its session is.
            TokenError: The session was ended, frozen or killed.
            StoreError: The mint does not answer.
            UnavailableError: It cannot say now.
        """
        if self._asker is None:
            return self.state
        try:
            answer = self._asker.fetch_discharge(self.id)
        except GrantError as error:
            if error.code in _OVER:
                # A discharge from before is forgotten: no service accepts it any more.
                self.state, self._discharge = _OVER[error.code], None
            raise
        about, text = answer.get("approval"), answer.get("discharge")
        # An answer about another approval must not pass for this one: its discharge may allow other arguments.
        if not isinstance(about, Mapping) or about.get("id") != self.id:
            raise StoreError("the mint answered with another approval; is it of another version?")
        self._take(about)
        if text is not None:
            self._discharge = self._checked(str(text))
        return self.state

    def wait(self, timeout_s: float | None = None, notify: Callable[["Approval"], object] | None = None) -> Self:
        """Wait until operators have answered; the mint is asked each second, later every five.

        A mint that does not answer meanwhile is asked again.  On an event loop: ``await AsyncApproval.wait()``.

        Args:
            timeout_s: How long at most, in seconds; until the task ends when left out.
            notify: Called whenever something is new, such as a yes of one of several operators.

        Returns:
            This approval, to be sent with the call.

        Raises:
            GrantError: It was denied, withdrawn, or is over; or the task or its session is.
            TokenError: The session was ended, frozen or killed.
            TimeoutError: No operator has answered yet; a later ``wait`` may go on.
        """
        for pause_s in self.pauses(timeout_s, notify):
            time.sleep(pause_s)
        return self

    def pauses(
        self, timeout_s: float | None = None, notify: Callable[["Approval"], object] | None = None
    ) -> Iterator[float]:
        """Ask the mint before each pause, and yield how long to wait until it is asked again; see ``wait``.

        Args:
            timeout_s: As for ``wait``.
            notify: Called whenever something is new.

        Yields:
            The pause, in seconds; nothing more once operators have answered.

        Raises:
            ArxError: As ``wait``.
            TimeoutError: As ``wait``.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        # The monotonic clock: a step of the wall clock must not end the wait, or prolong it.
        pause, known = FIRST_PAUSE_S, (self.state, self.by)
        while not self._answered():
            if notify is not None and known != (self.state, self.by):
                notify(self)
            known = (self.state, self.by)
            left = pause if until is None else min(pause, until - time.monotonic())
            if left <= 0:
                raise TimeoutError(f"{self.id} still waits: {len(self.by)} of {self.need} operators have said yes")
            yield left * random.uniform(0.8, 1.0)  # noqa: S311 - agents that asked together spread out
            pause = min(pause * SLOWER, LONGEST_PAUSE_S)

    def encode(self) -> str:
        """Return the text that hands this approval to a sub-agent that makes the call, ``arx1_…``.  It is a secret.

        Raises:
            AttenuationError: No operator has approved it yet.
        """
        return self.discharge.encode()

    @property
    def discharge(self) -> Macaroon:
        """What answers the third-party caveat, not bound to a token yet; a secret.

        Raises:
            AttenuationError: No operator has approved it yet.
        """
        if self._discharge is None:
            do = "wait() for it" if self.state == WAITING else "ask for another"
            raise AttenuationError(f"{self} is {self.state}: {do}")
        return self._discharge

    def _answered(self) -> bool:
        """Ask the mint, and return whether there is something to send."""
        if self._discharge is not None:
            return True
        try:
            self.look()
        except (StoreError, UnavailableError):
            # The mint may be restarting; but no answer can come once the task is over.
            if self.expires_at is not None and now_ms() >= self.expires_at:
                raise
        if self.state not in (WAITING, APPROVED):
            code = next((code for code, state in _OVER.items() if state == self.state), "approval_denied")
            raise GrantError(f"{self} is {self.state}: ask for another", code=code)
        return self._discharge is not None

    def _take(self, about: Mapping[str, Any]) -> None:
        self.state, self.by = str(about.get("state")), tuple(about.get("by") or ())
        self.expires_at = about.get("expires_at")

    def _checked(self, text: str) -> Macaroon:
        try:
            macaroon = Macaroon.parse(text)
            names = {said.task for said in read_discharge(macaroon)}
        except MalformedTokenError as error:
            raise StoreError(f"the mint answered with a discharge that cannot be used: {error}") from error
        # Checked before it is kept: bound to another caveat, it would fail only at the service, after the call was
        # sent.
        if self.id not in names or self._third_party not in (None, macaroon.identifier):
            raise StoreError("the mint answered with the discharge of another approval")
        return macaroon

    def __str__(self) -> str:
        return f"{self.id} for {shorten(self.tool)}"

    def __repr__(self) -> str:
        return f"<Approval {self}: {self.state}>"


def find_approval(asker: Asker, approval: str) -> Approval:
    """Return an approval as it stands now, by its id alone; see ``Session.approval``.

    Args:
        asker: The session that asked.
        approval: The id.

    Raises:
        RequestError: It is no id of an approval.
        ArxError: As ``Session.approval``.
    """
    # It becomes a part of the mint's address.
    if not approval.startswith("a-") or not is_id(approval[2:]):
        raise RequestError(f"{shorten(approval)} is not the id of an approval, such as a-abcdefghijklmnop")
    answer = asker.fetch_discharge(approval)
    about, text = answer.get("approval"), answer.get("discharge")
    if not isinstance(about, Mapping) or about.get("id") != approval:
        raise StoreError("the mint answered with another approval; is it of another version?")
    return Approval(about, asker=asker, discharge=None if text is None else str(text))


def read_discharge(macaroon: Macaroon) -> list[Said]:
    """Read a discharge's caveats as far as a holder looks at them.

    Raises:
        MalformedTokenError: It is no discharge.
    """
    try:
        ThirdPartyCaveat.read(macaroon.identifier)
        return [msgspec.json.decode(packet, type=Said) for packet in macaroon.packets if isinstance(packet, bytes)]
    except (ArxError, ValueError, RecursionError) as error:
        raise MalformedTokenError("this is no approval, but perhaps a token: `arx token inspect` says what") from error


# A service would answer only that a discharge is wrong, so an approval that no service would take is refused here,
# with the reason, before anything is sent.
def asks_for(token: Macaroon, approval: Approval, others: Sequence[Approval] = ()) -> bool:
    """Return whether a task's token, or another approval, has the third-party caveat that an approval answers."""
    # A discharge may have third-party caveats of its own, which another discharge answers.
    asking = [token, *[other.discharge for other in others if other is not approval]]
    return any(
        packet.identifier == approval.discharge.identifier
        for macaroon in asking
        for packet in macaroon.packets
        if isinstance(packet, ThirdPartyPacket)
    )


def add_approvals(text: str, token: Macaroon, approvals: Sequence[Approval], *, audience: str, at: int) -> str:
    """Send approvals along with a call.  SPEC 6.6.

    Args:
        text: The token of one call, made of ``token``.
        token: The task's token.
        approvals: What operators have approved.
        audience: The service that is called.
        at: The holder's clock, ms since the Unix epoch.

    Returns:
        The credential to send.

    Raises:
        AttenuationError: One is not approved yet, over, of another task or for another service; two answer the same; or
            the credential would be too long.
    """
    for approval in approvals:
        refuse_unusable(approval, at)
        if not asks_for(token, approval, approvals):
            raise AttenuationError(_wrong(token, approval, audience))
    answered = [approval.discharge.identifier for approval in approvals]
    # SPEC 6.6: a verifier uses each discharge once, and refuses a token with one that nothing asks for.
    for approval, third_party in zip(approvals, answered, strict=True):
        if answered.count(third_party) > 1:
            raise AttenuationError(f"one call carries one approval: {approval} answers what another here does, too")
    # Bound here and not by the mint: a delegated token has another signature, and the mint never sees it.
    return discharge.join(text, [discharge.bind(approval.discharge, token) for approval in approvals])


def spread(approvals: Sequence[Approval], tokens: Mapping[str, Macaroon], at: int) -> dict[str, list[Approval]]:
    """Return the approvals for each service.

    Args:
        approvals: What operators have approved.
        tokens: The task's tokens, by audience.
        at: The holder's clock, ms since the Unix epoch.

    Returns:
        Approvals by audience.

    Raises:
        AttenuationError: One of them is for none of these, not approved yet, or over.
    """
    found = {
        audience: [each for each in approvals if asks_for(token, each, approvals)] for audience, token in tokens.items()
    }
    for approval in approvals:
        refuse_unusable(approval, at)
        if not any(approval in those for those in found.values()):
            raise AttenuationError(_wrong(next(iter(tokens.values())), approval, " or ".join(tokens)))
    return found


def refuse_unusable(approval: Approval, at: int) -> None:
    """Refuse what no service would take any more.

    Raises:
        AttenuationError: It is not approved, or over.
    """
    held = approval.discharge
    # The earliest end: each caveat of a discharge must hold.
    ends = min((said.exp for said in read_discharge(held) if said.exp is not None), default=None)
    if ends is not None and at >= ends:
        raise AttenuationError(f"{approval} is over since {(at - ends) // 1000} s: ask for another")


def _wrong(token: Macaroon, approval: Approval, audience: str) -> str:
    task = getattr(token.unverified_identifier, "task", None)
    if approval.task != task:
        return f"{approval} is for the task {approval.task}, and this is {task}"
    held = (packet.identifier for packet in token.packets if isinstance(packet, ThirdPartyPacket))
    if any(_of_task(identifier, approval.task) for identifier in held):
        return (
            f"{approval} is of other tools, or was asked for with an older token: ask with the one that you call with"
        )
    return f"{approval} is for a call of another service: the token for {audience} does not ask for it"


def _of_task(identifier: bytes, task: str) -> bool:
    try:
        # An id is the key's id and the task's; a key rotation changes the first alone.
        return ThirdPartyCaveat.read(identifier).id.endswith(f":{task}")
    except ArxError:
        return False
