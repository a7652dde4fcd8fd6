# SPDX-License-Identifier: Apache-2.0
"""A task's tokens, one an audience, handed around as one text.  SPEC 15.1.

``arxb1_`` and base64url of one canonical JSON object.  Only a verifier proves what its tokens allow; a verifier never
accepts a bundle, and an agent never sends one.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from arx_caps.agent.tasks.copies import Shared
from arx_caps.agent.tasks.origins import read_origin
from arx_caps.agent.tasks.outline import Outline, caveats_of, outline
from arx_verifier import jcs, names
from arx_verifier.errors import ArxError, MalformedTokenError
from arx_verifier.token import wire
from arx_verifier.token.macaroon import Macaroon

MAX_AUDIENCES: Final = 32  # one task calls a handful of services
MAX_ORIGINS: Final = 16  # of one audience: regions, ports, a name kept while it moves
MAX_BUNDLE_CHARS: Final = 320 * 1024  # above 32 tokens of the greatest size in base64url, and their origins


class _Written(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The JSON of a bundle; the mint writes the same."""

    agent: str
    issuer: Annotated[str, Meta(min_length=1, max_length=300)]
    origins: dict[str, Annotated[tuple[str, ...], Meta(max_length=MAX_ORIGINS)]]
    realm: str
    task: Annotated[str, Meta(min_length=1, max_length=64)]
    tokens: Annotated[dict[str, str], Meta(min_length=1, max_length=MAX_AUDIENCES)]
    v: Annotated[int, Meta(ge=1, le=1)]


_WRITTEN: Final = msgspec.json.Decoder(_Written)


class Bundle(Shared):
    """The tokens of one task.  Immutable; ``repr`` shows no secret.

    Attributes:
        agent: The agent that the mint gave the task to.
        issuer: The mint's public address.
        origins: Where each audience lives; a token is sent nowhere else.
        realm: The realm's name.
        task: The task's id.
        tokens: A macaroon for each audience.
        outlines: What each of them says, unproven.
    """

    __slots__ = ("agent", "issuer", "origins", "outlines", "realm", "task", "tokens")

    def __init__(
        self,
        *,
        agent: str,
        issuer: str,
        origins: Mapping[str, tuple[str, ...]],
        realm: str,
        task: str,
        tokens: Mapping[str, Macaroon],
    ) -> None:
        """Make a bundle of tokens that belong together.

        Raises:
            MalformedTokenError: They do not: another agent, task, id, realm, audience or chain of delegations.
        """
        self.agent, self.issuer, self.realm, self.task = agent, issuer, realm, task
        self.tokens: Mapping[str, Macaroon] = MappingProxyType(dict(sorted(tokens.items())))
        self.origins: Mapping[str, tuple[str, ...]] = MappingProxyType(
            {audience: tuple(origins.get(audience, ())) for audience in self.tokens}
        )
        # Strict, so that the holder notices a text that was cut, mixed or edited, and not the third service that it
        # calls.
        self._check_names(origins)
        self.outlines: Mapping[str, Outline] = MappingProxyType(
            {audience: self._check_token(audience, macaroon) for audience, macaroon in self.tokens.items()}
        )
        # One kill of a link must end all tokens of a bundle, so all have the same links.
        if len({(held.identifier.session, held.links, held.holder) for held in self.outlines.values()}) != 1:
            raise MalformedTokenError("the tokens of this bundle come from different grants or delegations")

    @classmethod
    def parse(cls, text: str) -> "Bundle":
        """Read a bundle's text.

        Args:
            text: ``arxb1_…``, a secret.

        Returns:
            The bundle; its tokens agree with it and with one another, and none of them is proven.

        Raises:
            MalformedTokenError: The text is not a bundle in its one form, or its tokens do not belong together.
        """
        written = _read(text)
        tokens: dict[str, Macaroon] = {}
        # Parsed one by one, so that the error names the audience and quotes no token.
        for audience, token in written.tokens.items():
            try:
                tokens[audience] = Macaroon.parse(token)
            except ArxError as error:
                raise MalformedTokenError(f"the token for {audience!r:.80}: {error}") from error
        return cls(
            agent=written.agent,
            issuer=written.issuer,
            origins=written.origins,
            realm=written.realm,
            task=written.task,
            tokens=tokens,
        )

    def encode(self) -> str:
        """Return the text form, ``arxb1_…``.  It is a secret: it is enough to hold the task."""
        written = _Written(
            agent=self.agent,
            issuer=self.issuer,
            origins=dict(self.origins),
            realm=self.realm,
            task=self.task,
            tokens={audience: macaroon.encode() for audience, macaroon in self.tokens.items()},
            v=1,
        )
        return wire.BUNDLE_PREFIX + wire.text_of(jcs.encode(written))

    @property
    def audiences(self) -> tuple[str, ...]:
        """The services that this bundle has a token for, sorted."""
        return tuple(self.tokens)

    @property
    def holder(self) -> str:
        """The agent that holds it now: the last one it was delegated to."""
        return (self.agent, *self.outline.named)[-1]

    @property
    def outline(self) -> Outline:
        """What one of the tokens says; identifier, names, links and depth are those of the first."""
        return next(iter(self.outlines.values()))

    def describe(self) -> dict[str, Any]:
        """Return what the bundle says it allows as plain data.  Read without a key: nothing of it is proven.

        ``rules`` holds each ``allow`` of a token: one rule of every list must match a call.
        """
        held, identifier = self.outline, self.outline.identifier
        return {
            "agent": self.agent,
            "holder": self.holder,
            "named": list(held.named),
            "realm": self.realm,
            "issuer": self.issuer,
            "session": identifier.session,
            "task": self.task,
            "subject": None if identifier.subject is None else list(identifier.subject),
            "policy": identifier.policy,
            "token": identifier.id,
            "link": held.link,
            "issued_at": identifier.iat,
            "bound_to": held.holder,
            "expires_at": min(each.exp for each in self.outlines.values()),
            "depth": min(each.depth for each in self.outlines.values()),
            "audiences": {audience: self._describe(audience) for audience in self.tokens},
        }

    def _describe(self, audience: str) -> dict[str, Any]:
        held = self.outlines[audience]
        return {
            "origins": list(self.origins[audience]),
            "kid": held.identifier.kid,
            "expires_at": held.exp,
            "depth": held.depth,
            "delegate_to": [list(patterns) for patterns in held.delegate_to],
            "needs_call": held.needs_call,
            "tools": list(held.tools),
            "requires": msgspec.json.decode(msgspec.json.encode(held.requires)),
            "rules": msgspec.json.decode(msgspec.json.encode(held.groups)),  # lists, not tuples, at every level
            "caveats": caveats_of(self.tokens[audience]),
        }

    def with_tokens(self, tokens: Mapping[str, Macaroon]) -> "Bundle":
        """Return the same task with other tokens, and the origins of their audiences."""
        return Bundle(
            agent=self.agent,
            issuer=self.issuer,
            origins={audience: self.origins[audience] for audience in tokens},
            realm=self.realm,
            task=self.task,
            tokens=tokens,
        )

    def _check_names(self, origins: Mapping[str, tuple[str, ...]]) -> None:
        if not names.is_agent_path(self.agent) or not names.is_realm(self.realm):
            raise MalformedTokenError("the bundle's agent is no agent path, or its realm no realm's name")
        if not self.tokens:
            raise MalformedTokenError("a bundle holds at least one token")
        for audience in (*self.tokens, *origins):
            if not names.is_audience(audience):
                raise MalformedTokenError(f"{audience!r:.80} cannot name an audience")
        # An origin without a token shows that a token was cut out of the text.
        stray = sorted(set(origins) - set(self.tokens))
        if stray:
            raise MalformedTokenError(f"the bundle gives origins for {', '.join(stray)} and no token")
        for texts in self.origins.values():
            for text in texts:
                read_origin(text)

    def _check_token(self, audience: str, macaroon: Macaroon) -> Outline:
        try:
            held = outline(macaroon)
        except ArxError as error:
            raise MalformedTokenError(f"the token for {audience}: {error}") from error
        # A one-shot token can be neither attenuated nor signed with: it would fail at its second use.
        if macaroon.is_one_shot:
            raise MalformedTokenError(f"the token for {audience} was signed for one call; a bundle holds the task's")
        identifier = held.identifier
        for what, says, wanted in (
            ("realm", macaroon.location, self.realm),
            ("audience", identifier.aud, audience),
            ("agent", identifier.agent, self.agent),
            ("task", identifier.task, self.task),
        ):
            if says != wanted:
                raise MalformedTokenError(f"the token for {audience} has another {what} than its bundle")
        return held

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Bundle):
            return NotImplemented
        return (self.tokens, self.origins, self.issuer) == (other.tokens, other.origins, other.issuer)

    def __hash__(self) -> int:
        return hash((self.task, self.audiences))

    def __repr__(self) -> str:
        return f"<Bundle of {self.agent}, task {self.task}: {', '.join(self.audiences)}>"


def _read(text: str) -> _Written:
    # Before anything is decoded: the text comes from another agent.
    if len(text) > MAX_BUNDLE_CHARS:
        raise MalformedTokenError(f"this bundle has more than {MAX_BUNDLE_CHARS} characters")
    if text.startswith(wire.TOKEN_PREFIX):
        raise MalformedTokenError("this is a single token; a task is delegated as a bundle (arxb1_…), task.encode()")
    if not text.startswith(wire.BUNDLE_PREFIX):
        raise MalformedTokenError(f"a bundle begins with {wire.BUNDLE_PREFIX}")
    try:
        # Canonical JSON alone: a bundle has one text, so two texts mean two bundles.
        return jcs.decode(_WRITTEN, wire.bytes_of(text[len(wire.BUNDLE_PREFIX) :]))
    except MalformedTokenError as error:
        raise MalformedTokenError(f"this bundle was cut short or altered: {error}") from error
