# SPDX-License-Identifier: Apache-2.0
"""Open sessions and start tasks: what the policy grants becomes tokens.  SPEC 4, 15.1, 16.

The order is the point: the kill epoch is read, then authority is looked at, then a token is signed with what was read.
A session's token is good for the mint alone; a task's bundle is what services accept.
"""

import secrets
from base64 import b32encode
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from arx_caps.durations import format_duration, parse_duration
from arx_caps.jose import Proof, check_assertion
from arx_caps.mint.callers import Caller
from arx_caps.mint.core import Born, Mint
from arx_caps.mint.events import Event
from arx_caps.mint.identity import Shown, scopes_of, subject_of, subject_row, who_opens
from arx_caps.mint.issuers import Subject
from arx_caps.mint.operator_token import mint_operator_token
from arx_caps.mint.policy import SessionTerms, TaskGrant
from arx_caps.mint.roles import rules_of
from arx_caps.mint.state import HighWater, now_ms
from arx_verifier import canonical, codec
from arx_verifier.caveats import Caveat
from arx_verifier.constraints import Rule
from arx_verifier.errors import AttenuationError, Failure, GrantError, MalformedTokenError, refusal, shorten
from arx_verifier.macaroon import ABOUT, ID_BYTES, MAX_ABOUT_CHARS, MINT_AUDIENCE, Identifier, Macaroon
from arx_verifier.scopes import agent_scopes

SESSION_ACTIONS: Final = tuple(
    Rule(tool=action)
    for action in (
        "arx.sessions.end",
        "arx.sessions.read",
        "arx.tasks.finish",
        "arx.tasks.read",
        "arx.tasks.start",
        "arx.whoami",
    )
)
MAX_MODEL_CHARS: Final = 96


class Asked(NamedTuple):
    """What an agent asks for when it starts a task."""

    template: str
    params: Mapping[str, Any]
    ttl: str | None
    tools: Sequence[str] | None
    depth: int | None


class Opened(NamedTuple):
    """A new session's row and its token, a secret."""

    row: dict[str, Any]
    token: str


class Started(NamedTuple):
    """A new task's row and its bundle, a secret."""

    row: dict[str, Any]
    bundle: str


def grant_operator(mint: Mint, assertion: str, proof: Proof) -> tuple[str, int]:
    """Give an operator a token for ten minutes.

    Returns:
        The token, a secret, and when it ends, ms.

    Raises:
        GrantError: The assertion is wrong or used, or the proof is by another key.
    """
    checked = check_assertion(assertion, mint.state.find_key, audience=mint.realm.issuer, now=now_ms())
    name = checked.subject.removeprefix("operator:")
    if name == checked.subject:
        raise GrantError("this key is an agent's; operators have keys of their own", code="wrong_caller")
    if proof.key.kid != checked.kid:
        raise GrantError("the proof is not by the key that signed the assertion", code="bad_proof")
    mint.state.spend("proof", proof.key.kid, proof.jti, proof.until)
    mint.state.spend("assertion", checked.kid, checked.jti, checked.until)
    row = mint.state.operator(name)
    if row is None or row["status"] != "active":
        raise refusal("banned")
    kid, key = mint.roots.mint_key()
    rules = rules_of(row["role"], row["rules"])
    token, expires_at = mint_operator_token(name, rules, kid=kid, key=key, realm=mint.realm.name, now=now_ms())
    mint.state.record(Event.of("operator.signed_in", f"operator:{name}", key=checked.kid, expires_at=expires_at))
    return token.encode(), expires_at


def open_session(mint: Mint, shown: Shown, proof: Proof, *, ttl: str | None, purpose: str | None) -> Opened:
    """Open a session for an agent, bound to the key of the proof.

    Raises:
        RequestError: What is shown cannot be read.
        GrantError: What is shown is wrong or used, or the policy refuses.
        RevokedError: The agent, one above it, the subject, the policy or the mint's key is frozen.
        UnavailableError: The kill epoch, or an issuer's keys, are not known now.
    """
    born, policy, now = mint.born(), mint.policy, now_ms()
    opener = who_opens(mint, policy, shown, proof, now)
    path, subject = str(opener.agent["path"]), opener.subject
    terms = policy.may_open(path, subject)
    expires_at = now + _session_ttl(mint, terms, ttl)
    if opener.until is not None:
        # Nobody acts on behalf of somebody whose own login is long over.
        expires_at = min(expires_at, opener.until + terms.outlives_ms)
    kid, key = mint.roots.mint_key()
    mint.require(born, ("realm", f"key:{kid}", f"policy:{policy.digest}", *agent_scopes(path), *scopes_of(subject)))
    birth = _Birth(opener.agent, born, _name("s-"), None, policy.digest, now, expires_at, 0, _link(), subject)
    caveats = (Caveat(allow=SESSION_ACTIONS),)
    token = Macaroon.mint(birth.identifier(MINT_AUDIENCE, kid), key=key, realm=mint.realm.name, caveats=caveats)
    told = {"agent": birth.path, "expires_at": expires_at, "policy": policy.digest, "purpose": purpose}
    row = birth.row("opened_at") | told | {"id": birth.session, "jkt": proof.key.kid} | subject_row(opener)
    told |= {"opened_with": opener.by, "subject": subject and (subject.issuer, subject.name)}
    what = Event.of("session.opened", f"agent:{birth.path}", session=birth.session, key=proof.key.kid, **told)
    mint.state.add_session(row, HighWater(*born), mint.realm.name, what)
    return Opened(row, token.encode())


def start_task(mint: Mint, caller: Caller, asked: Asked) -> Started:
    """Start a task in the caller's session.

    Raises:
        GrantError: The policy refuses, or what it grants does not fit into a token.
        RevokedError: The policy or a key is frozen.
        UnavailableError: The kill epoch is not known now.
    """
    session, born, policy, now = caller.session, caller.born, mint.policy, now_ms()
    agent = mint.state.agent(caller.name)
    if session is None or born is None or agent is None:
        raise GrantError("tasks are started by agents, in a session", code="wrong_caller")
    subject, params = subject_of(session), dict(asked.params)
    grant = policy.grant(
        asked.template, caller.name, params, ttl=asked.ttl, tools=asked.tools, depth=asked.depth, subject=subject
    )
    numbers = mint.state.key_numbers()
    keys = {audience: mint.roots.audience_key(audience, numbers.get(audience, 0)) for audience in grant.rules}
    # The session, its agent and everyone above were held to their own birth when the session's token was verified.
    mint.require(born, [f"policy:{policy.digest}", *{f"key:{kid}" for kid, _ in keys.values()}])
    # A token lives at most as long as its session, and as its realm remembers kills.
    expires_at = min(now + grant.ttl_ms, now + mint.realm.max_ttl_ms, int(session["expires_at"]))
    birth = _Birth(
        agent, born, session["id"], _name("t-"), policy.digest, now, expires_at, grant.depth, _link(), subject
    )
    tokens = _tokens(mint, birth, grant, keys)
    told: dict[str, Any] = {"session": birth.session, "template": grant.template, "link": birth.link}
    told |= {"policy": policy.digest, "expires_at": expires_at}
    audiences = sorted(tokens)
    row = birth.row("started_at") | told | {"id": birth.task, "agent": birth.path}
    row |= {"params": _json(params), "audiences": _json(audiences)}
    row["subject_scope"] = next(iter(scopes_of(subject)), None)
    told |= {"task": birth.task, "params": params, "audiences": audiences}
    mint.state.add_task(row, HighWater(*born), mint.realm.name, Event.of("task.started", caller.by, **told))
    return Started(row, _bundle(mint, birth, grant, tokens))


class _Birth(NamedTuple):
    """What a session or a task is born with."""

    agent: Mapping[str, Any]
    born: Born
    session: str
    task: str | None
    policy: str
    at: int
    expires_at: int
    depth: int
    link: str
    subject: Subject | None

    @property
    def path(self) -> str:
        return str(self.agent["path"])

    def identifier(self, audience: str, kid: str) -> Identifier:
        return Identifier(
            agent=self.path,
            aud=audience,
            born=self.born[:2],
            depth=self.depth,
            exp=self.expires_at,
            iat=self.at,
            id=self.link,
            kid=kid,
            meta=_meta(self.agent),
            model=_model(self.agent),
            policy=self.policy,
            session=self.session,
            subject=(self.subject.issuer, self.subject.name) if self.subject is not None else None,
            task=self.task,
            v=1,
        )

    def row(self, began: str) -> dict[str, Any]:
        """Return what its row says of the kill epoch and of its state."""
        return {"inc": self.born.inc, "born": self.born.seq, began: self.at, "ended_at": None, "status": "open"}


def _tokens(mint: Mint, birth: _Birth, grant: TaskGrant, keys: Mapping[str, tuple[str, bytes]]) -> dict[str, str]:
    """Mint one token an audience; they share id, and so link and fate."""
    tokens = {}
    for audience, (kid, key) in keys.items():
        own = birth.identifier(audience, kid)
        first = Caveat(
            allow=grant.rules[audience],
            fresh=grant.fresh,
            hand_to=grant.hand_to or None,
            net=grant.net or None,
            require=grant.require or None,
        )
        # What the agent asked to go without is one more caveat: conjunction does the narrowing.
        narrow = grant.narrow.get(audience)
        caveats = (first, Caveat(allow=narrow)) if narrow else (first,)
        try:
            tokens[audience] = Macaroon.mint(own, key=key, realm=mint.realm.name, caveats=caveats).encode()
        except (AttenuationError, MalformedTokenError) as error:
            raise GrantError(
                f"what task {grant.template} grants at {audience} does not fit into a token: {error}",
                code="bad_parameters",
            ) from error
    return tokens


def _bundle(mint: Mint, birth: _Birth, grant: TaskGrant, tokens: Mapping[str, str]) -> str:
    """Write the bundle's text.  SPEC 15.1."""
    content = {
        "agent": birth.path,
        "issuer": mint.realm.issuer,
        "origins": {audience: list(grant.origins[audience]) for audience in tokens},
        "realm": mint.realm.name,
        "task": birth.task,
        "tokens": dict(tokens),
        "v": 1,
    }
    return codec.BUNDLE_PREFIX + codec.text_of(canonical.encode(content))


def _session_ttl(mint: Mint, terms: SessionTerms, ttl: str | None) -> int:
    longest = min(terms.ttl_ms, mint.realm.max_ttl_ms)
    if ttl is None:
        return longest
    try:
        asked = parse_duration(ttl)
    except ValueError:
        asked = 0
    if not 0 < asked <= longest:
        wanted = f"a duration of at most {format_duration(longest)}"
        failure = Failure(f"session {terms.name}", "ttl", wanted, shorten(ttl))
        raise GrantError(f"session {terms.name}: ttl: expected {wanted}", code="bad_parameters", failures=(failure,))
    return asked


def _model(agent: Mapping[str, Any]) -> str | None:
    model = msgspec.json.decode(agent["metadata"], type=dict[str, str]).get("model")
    return model[:MAX_MODEL_CHARS] if model else None


def _meta(agent: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return what a token says of its agent beside the model, cut to what fits; None for nothing."""
    enrolled = msgspec.json.decode(agent["metadata"], type=dict[str, str]) | {"owner": agent["owner"] or ""}
    said = [enrolled.get(name, "")[:MAX_ABOUT_CHARS] for name in ABOUT]
    while said and not said[-1]:
        said.pop()
    return tuple(said) or None


def _json(value: Any) -> str:
    return msgspec.json.encode(value, order="sorted").decode()


def _link() -> str:
    return codec.text_of(secrets.token_bytes(ID_BYTES))


def _name(prefix: str) -> str:
    return prefix + b32encode(secrets.token_bytes(10)).decode("ascii").lower()
