# SPDX-License-Identifier: Apache-2.0
"""The mint's tables, for SQLite and PostgreSQL alike. Times are in ms since the Unix epoch."""

from typing import Annotated, Any, Final, Literal, TypeAlias, get_args, get_origin

import msgspec
from sqlalchemy import (
    BigInteger,
    Column,
    DefaultClause,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.schema import SchemaItem
from sqlalchemy.types import TypeEngine

# No table holds a token or a private key: a copy of the database alone must open nothing.
METADATA: Final = MetaData()


# What follows a type in a field's annotation is its column's: a type of its own, a foreign key, or one of these.
KEY: Final = "primary_key"
INDEXED: Final = "index"
UNIQUE: Final = "unique"
Str16: TypeAlias = Annotated[str, String(16)]
Str32: TypeAlias = Annotated[str, String(32)]
Str64: TypeAlias = Annotated[str, String(64)]
Str96: TypeAlias = Annotated[str, String(96)]


def _table(name: str, *parts: SchemaItem, **options: Any) -> Table:
    return Table(name, METADATA, *parts, **options)


def table_of(name: str, kind: type[msgspec.Struct], *parts: SchemaItem) -> Table:
    """Return a table whose columns are a struct's fields: NULL where they may be None, and else as text or numbers."""
    return _table(name, *map(_column, msgspec.structs.fields(kind)), *parts)


def _column(field: msgspec.structs.FieldInfo) -> Column[Any]:
    nullable = type(None) in get_args(field.type)
    whole = get_args(field.type)[0] if nullable else field.type
    kind, *marks = get_args(whole) if get_origin(whole) is Annotated else [whole]
    options: dict[str, Any] = dict.fromkeys((mark for mark in marks if isinstance(mark, str)), True)
    if not any(isinstance(mark, TypeEngine) for mark in marks):
        marks.insert(0, BigInteger() if kind is int else Integer() if kind is bool else Text())
    return Column(field.name, *(mark for mark in marks if not isinstance(mark, str)), nullable=nullable, **options)


META: Final = _table("meta", Column("name", String(32), primary_key=True), Column("value", Text, nullable=False))


class OperatorRow(msgspec.Struct, frozen=True):
    """An operator; ``rules`` is JSON, and ``claims`` has those of the last login."""

    id: Annotated[Str64, KEY]
    status: Str16
    created_at: int
    role: Annotated[Str32, DefaultClause("admin")]  # the role that may do everything
    rules: str | None = None
    ended_at: int | None = None
    # Of a person who is an operator by login: the claims of the last one that the policy judges, as JSON.
    issuer: Annotated[str, String(256)] | None = None
    subject: Annotated[str, String(512)] | None = None
    claims: dict[str, Any] | None = None


OPERATORS: Final = table_of("operators", OperatorRow)


# One row for each sign-in to the console: first for its one-use link, then for the browser that used it.
class ConsoleSessionRow(msgspec.Struct, frozen=True, kw_only=True):
    """A sign-in; ``key`` is None for one by a login, and ``signed_in_at`` for a link that was not used yet."""

    id: Annotated[Str32, KEY]
    secret: Annotated[Str64, UNIQUE]  # digest of what the link, and then the cookie, has
    operator: Annotated[Str64, ForeignKey("operators.id"), INDEXED]
    key: Str64 | None = None  # thumbprint of the operator's key that asked for the link; None for a login
    fresh_until: int = 0  # until when acts that grant rights are let through
    draft: str | None = None  # the form that waits for another sign-in, as JSON
    created_at: int
    signed_in_at: int | None = None  # when the link was used; None before
    used_at: int
    until: Annotated[int, INDEXED]


CONSOLE_SESSIONS: Final = table_of("console_sessions", ConsoleSessionRow)


class AgentRow(msgspec.Struct, frozen=True, kw_only=True):
    """An agent."""

    path: Annotated[Str64, KEY]
    status: Str16
    owner: str | None = None
    metadata: dict[str, str]
    created_at: int
    ended_at: int | None = None


AGENTS: Final = table_of("agents", AgentRow)


# The key id is unique, so that a key has one holder: the signer of a proof is never ambiguous.
class HolderKeyRow(msgspec.Struct, frozen=True):
    """A key of a holder; ``until`` is None for one without an end."""

    kid: Annotated[Str64, KEY]
    holder: Annotated[Str96, INDEXED]
    x: Str64
    added_at: int
    used_at: int | None = None  # to about a minute; None for a key that never signed a call
    until: int | None = None  # of a key that a login enrolled; None for no end


HOLDER_KEYS: Final = table_of("holder_keys", HolderKeyRow)


class SessionRow(msgspec.Struct, frozen=True, kw_only=True):
    """A session; columns of its subject are None without one."""

    id: Annotated[Str32, KEY]
    agent: Annotated[Str64, ForeignKey("agents.path")]
    jkt: Str64
    opened_with: dict[str, str] | None = None
    subject_issuer: str | None = None
    subject: str | None = None
    subject_claims: dict[str, Any] | None = None
    subject_until: int | None = None  # expiry of the ID token that proved the subject
    status: Str16
    purpose: str | None = None
    policy: Str32
    opened_at: int
    expires_at: int  # of the session's last token
    ends_at: Annotated[int, DefaultClause("0")]  # the latest expiry that a renewal may set
    ended_at: int | None = None
    incarnation: Str32
    born: int


SESSIONS: Final = table_of(
    "sessions",
    SessionRow,
    Index("sessions_by_time", "opened_at", "id"),
    Index("sessions_of_agents", "agent", "opened_at", "id"),
    Index("sessions_of_subjects", "subject", "opened_at", "id"),
)


class TaskRow(msgspec.Struct, frozen=True, kw_only=True):
    """A task; ``above`` has the ids of the tasks that it is a part of, the outermost first."""

    id: Annotated[Str32, KEY]
    session: Annotated[Str32, ForeignKey("sessions.id")]
    agent: Str64
    subject_target: Str64 | None = None
    above: Annotated[list[str], DefaultClause("[]")] = []  # ids of its parent tasks, the outermost first
    template: str  # or several, with a space between
    params: dict[str, Any]
    audiences: list[str]
    link: Str32
    status: Str16
    policy: Str32
    started_at: int
    expires_at: int
    ended_at: int | None = None
    incarnation: Str32
    born: int


TASKS: Final = table_of(
    "tasks",
    TaskRow,
    Index("tasks_by_time", "started_at", "id"),
    Index("tasks_of_sessions", "session", "started_at", "id"),
    Index("tasks_of_agents", "agent", "started_at", "id"),
    Index("tasks_of_templates", "template", "started_at", "id"),
    Index("tasks_by_template", "session", "template"),
)


# What a task may do: a row for its start and for each extension. An attenuation replaces all of them by one row.
class GrantRow(msgspec.Struct, frozen=True):
    """A grant of a task; ``content`` is the text of a ``StoredGrant``."""

    link: Annotated[Str32, KEY]  # the first link of its tokens
    task: Annotated[Str32, ForeignKey("tasks.id"), INDEXED]
    content: str
    policy: Str32
    granted_at: int
    expires_at: int
    ended_at: int | None = None
    replaced_by: Str32 | None = None


TASK_GRANTS: Final = table_of("task_grants", GrantRow)


class ShownMark(msgspec.Struct, frozen=True):
    """A mark that operators are shown, with the call that set it, ms since the Unix epoch."""

    mark: str
    set_at: int
    tool: str
    service: str


# Requests for approval and operators' answers. Whether the task still runs is in the task's row alone.
class ApprovalRow(msgspec.Struct, frozen=True, kw_only=True):
    """A request for an approval, with its answer; ``marks`` is None if the call needs one also without a mark."""

    id: Annotated[Str32, KEY]
    task: Annotated[Str32, ForeignKey("tasks.id"), INDEXED]
    session: Str32
    agent: Str64
    subject_issuer: str | None = None
    subject: str | None = None
    template: Str64
    audience: Str64
    caveat: str  # the third-party caveat, with the bytes of the token
    tool: Str96
    args: dict[str, Any]
    why: str | None = None
    need: Annotated[int, Integer()]
    ttl_ms: int
    once: bool  # 1: the discharge allows one call
    status: Str16
    asked_at: int
    by: tuple[str, ...] = ()  # ids of the operators who approved, as JSON
    denied_by: Str64 | None = None
    answer_why: str | None = None
    approved_at: int | None = None
    expires_at: int | None = None  # of its discharge
    handle: Str64 | None = None  # the access token for which a gateway asked; NULL: an agent asked itself
    # Those that operators are shown, as JSON; NULL: the call needs an approval without any.
    marks: tuple[ShownMark, ...] | None = None

    def facts(self) -> dict[str, Any]:
        """Return the facts that each event of it has."""
        names = {"approval": self.id, "session": self.session, "task": self.task}
        return names | {"agent": self.agent, "audience": self.audience}


APPROVALS: Final = table_of(
    "approvals",
    ApprovalRow,
    Index("approvals_by_time", "asked_at", "id"),
    Index("approvals_of_sessions", "session", "asked_at", "id"),
    Index("approvals_waiting", "session", "status"),
    Index("approvals_in_state", "status", "asked_at", "id"),
)


# The primary key makes a jti single use, between two mints of this database too.
USED_JTI: Final = _table(
    "used_jti",
    Column("digest", String(64), primary_key=True),
    Column("until", BigInteger, nullable=False, index=True),
)

# What calls with an Idempotency-Key made: the facts of their events, and the content of their tokens, unsigned.
REPEATS: Final = _table(
    "repeats",
    Column("caller", String(96), primary_key=True),
    Column("key", String(64), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("facts", Text, nullable=False),
    Column("recipe", Text),
    Column("until", BigInteger, nullable=False, index=True),
)


class ServiceRow(msgspec.Struct, frozen=True):
    """An enrolled service."""

    audience: Annotated[Str64, KEY]
    enrolled_at: int
    enrolled_by: Str96


SERVICES: Final = table_of("services", ServiceRow)


# The realm's root keys. They are sealed like the root key file; the first key is in that file alone.
ROOT_KEYS: Final = _table(
    "root_keys",
    Column("name", String(16), primary_key=True),
    Column("created_at", BigInteger, nullable=False),
    Column("mints_from", BigInteger),
    Column("waits", Integer, nullable=False),  # 1: mints only after all services have fetched it
    Column("used_at", BigInteger, nullable=False),
    Column("retired_at", BigInteger),
    Column("nonce", Text),
    Column("sealed", Text),
)


# OAuth clients that an operator has registered. A secret is random, so that its SHA-256 is enough.
class OAuthClientRow(msgspec.Struct, frozen=True, kw_only=True):
    """A client; ``secret`` is a digest, ``jwks`` has its public keys, and a document at ``url`` describes it."""

    id: Annotated[Str32, KEY]
    agent: Annotated[Str64, ForeignKey("agents.path"), INDEXED]
    secret: Str64 | None = None  # its SHA-256, in hex; null for a client with keys
    jwks: list[dict[str, str]] | None = None
    scopes: tuple[str, ...] = ()  # templates
    introspects: tuple[str, ...] = ()  # audiences whose tokens it may introspect
    redirects: Annotated[tuple[str, ...], DefaultClause("[]")] = ()
    url: str | None = None  # of the document that describes it, and is its client id
    name: str | None = None  # what a client that no operator has registered calls itself
    created_at: int
    by: Annotated[Str96, INDEXED]
    used_at: int | None = None  # the last access token
    expires_at: int | None = None  # of one that an operator registered for a time
    ended_at: int | None = None

    @property
    def public(self) -> bool:
        """Whether it has no credential."""
        return self.secret is None and self.jwks is None


OAUTH_CLIENTS: Final = table_of(
    "oauth_clients", OAuthClientRow, UniqueConstraint("url", "agent", name="oauth_clients_by_url")
)


# What a person was asked to consent to, and the code that a consent gave. Cookie and code are random: digests suffice.
class ConsentRow(msgspec.Struct, frozen=True, kw_only=True):
    """What a person is asked; a used code has neither person nor parameters."""

    id: Annotated[Str32, KEY]
    cookie: Annotated[Str64, UNIQUE]
    client: Annotated[Str32, ForeignKey("oauth_clients.id")]
    redirect: str
    state: str | None = None
    challenge: Str64
    jkt: Str64 | None = None  # of the key that must prove the code's use
    resource: str
    audience: Str64
    template: str
    params: dict[str, Any]
    tools: tuple[str, ...] | None = None
    subject_issuer: str | None = None
    subject: str | None = None
    subject_claims: dict[str, Any] | None = None
    subject_until: int | None = None
    policy: Str32
    incarnation: Str32
    born: int
    until: Annotated[int, INDEXED]  # of the page, and then of the code
    code: Annotated[Str64, UNIQUE] | None = None
    used_at: int | None = None
    replayed_at: int | None = None
    session: Annotated[Str32, ForeignKey("sessions.id")] | None = None


OAUTH_CONSENTS: Final = table_of("oauth_consents", ConsentRow)


# Refresh tokens: what the next task of a consented session is. A token is random, so its digest suffices. ``parent`` is
# the token in exchange for which this one was given, and ``task`` is what came with it.
class RefreshRow(msgspec.Struct, frozen=True, kw_only=True):
    """A refresh token: the next task, and ``parent``, the token in exchange for which it was given."""

    digest: Annotated[Str64, KEY]
    client: Annotated[Str32, ForeignKey("oauth_clients.id")]
    session: Annotated[Str32, ForeignKey("sessions.id"), INDEXED]
    resource: str
    audience: Str64
    template: str
    terms: Str64  # digest of the template that the person saw
    params: dict[str, Any]
    tools: tuple[str, ...] | None
    jkt: Str64 | None  # of the key that must prove its use
    until: Annotated[int, INDEXED]
    parent: Annotated[Str64, INDEXED] | None = None
    task: Annotated[Str32, ForeignKey("tasks.id")]
    used_at: int | None = None
    replaced_at: int | None = None


OAUTH_REFRESHES: Final = table_of("oauth_refreshes", RefreshRow)


# What an access token stands for: the content of its task's tokens, unsigned.
class HandleRow(msgspec.Struct, frozen=True):
    """What an access token stands for; ``recipe`` is the content of the task's tokens.

    In it, ``added`` is the caveats of delegations, ``targets`` what ends them, and ``last`` the newest one's link.
    """

    jti: Annotated[Str32, KEY]
    client: Annotated[Str32, ForeignKey("oauth_clients.id")]
    session: Annotated[Str32, ForeignKey("sessions.id")]
    task: Annotated[Str32, ForeignKey("tasks.id")]
    audience: Str64
    issued_at: int
    expires_at: Annotated[int, INDEXED]
    recipe: dict[str, Any]


OAUTH_HANDLES: Final = table_of("oauth_handles", HandleRow, Index("oauth_handles_of_clients", "client", "issued_at"))


# Keys that sign access tokens. The private half is sealed like the root keys, and gone once the key is retired.
SIGNING_KEYS: Final = _table(
    "signing_keys",
    Column("kid", String(64), primary_key=True),  # its thumbprint
    Column("algorithm", String(8), nullable=False),
    Column("jwk", Text, nullable=False),  # the public half
    Column("created_at", BigInteger, nullable=False),
    Column("signs_from", BigInteger, nullable=False),
    Column("retired_at", BigInteger),
    Column("nonce", Text),
    Column("sealed", Text),
)

# The keys of stamps in memories. None is ever deleted: entries outlive keys, and must be checked for as long.
MEMORY_KEYS: Final = _table(
    "memory_keys",
    Column("kid", String(32), primary_key=True),  # memory.1, and so on
    Column("created_at", BigInteger, nullable=False),
    Column("nonce", Text, nullable=False),
    Column("sealed", Text, nullable=False),
)

# Numbers of audience keys. No two audiences have one number, so that a kill of a key id affects one audience.
AUDIENCE_KEYS: Final = _table(
    "audience_keys",
    Column("audience", String(64), primary_key=True),
    Column("n", Integer, primary_key=True, autoincrement=False),
    Column("created_at", BigInteger, nullable=False),
    Column("used_at", BigInteger, nullable=False),
    Column("retired_at", BigInteger),
)


# Every policy that was ever in force, as its TOML; the one with the latest in_force_at is in force.
class PolicyRow(msgspec.Struct, frozen=True):
    """A policy with its TOML."""

    digest: Annotated[Str32, KEY]
    text: str
    first_at: int
    in_force_at: int
    by: Str96


POLICIES: Final = table_of("policies", PolicyRow)


class PolicyMark(msgspec.Struct, frozen=True):
    """A policy by its digest, and when it came into force last and first, ms since the Unix epoch."""

    digest: str
    in_force_at: int
    first_at: int
    by: str


# The audience keys that each own key of a service fetched last; ``file:<audience>`` for a service file.
KEY_FETCHES: Final = _table(
    "key_fetches",
    Column("holder_key", String(96), primary_key=True),
    Column("audience", String(64), nullable=False),
    Column("kids", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
)

# Unused enrolment tokens, by their digest: a use deletes the row, so that a token enrols one key.
ENROLMENTS: Final = _table(
    "enrolments",
    Column("digest", String(64), primary_key=True),
    Column("audience", String(64), nullable=False),
    Column("by", String(96), nullable=False),
    Column("until", BigInteger, nullable=False),
)

# The highest position in the kill sequence that a mint has acted on: a store that is behind it has lost kills.
HIGH_WATER: Final = _table(
    "epoch_high_water",
    Column("realm", String(32), primary_key=True),
    Column("incarnation", String(32), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("chain", String(40), nullable=False, server_default=""),  # hash of the sequence up to seq; empty if unknown
    Column("max_ttl_ms", BigInteger, nullable=False),
)

# The entry of the store's log up to which the freezes below are known.
FOLLOWED: Final = _table(
    "epoch_followed",
    Column("realm", String(32), primary_key=True),
    Column("incarnation", String(32), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("chain", String(40), nullable=False),
)


# Every freeze in force, also those made at the store directly. The mint restores them in a store that lost them.
class Freeze(msgspec.Struct, frozen=True):
    """A freeze in force.

    Attributes:
        target: Its target.
        at_ms: When it was made, in ms since the Unix epoch.
        by: The actor.
        why: The reason.
        op: ``freeze``, or ``kill+freeze`` if a kill left it.
        seq: The number of its entry; 0 if the store's log did not have it any more.
    """

    target: Annotated[Str96, KEY]
    at_ms: int
    by: Str96
    why: str
    op: Annotated[Str16, DefaultClause("freeze")] = "freeze"  # or kill+freeze, if a kill left it
    seq: Annotated[int, DefaultClause("0")] = 0  # of its entry; 0 if the log had no entry any more


FREEZES: Final = table_of("epoch_freezes", Freeze, Index("epoch_freezes_by_time", "at_ms", "target"))


# Every kill, freeze and thaw by an operator or the mint, also those made at the store directly: one row for all targets
# of one step. What agents end by themselves is not here. ``report`` is set once, when its confirmations are known.
KILLS: Final = _table(
    "epoch_kills",
    Column("seq", BigInteger, primary_key=True, autoincrement=False),  # of its last entry
    Column("incarnation", String(32), primary_key=True),
    Column("first", BigInteger, nullable=False),  # of its first entry
    Column("op", String(16), nullable=False),
    Column("targets", Text, nullable=False),  # [operation, target] each
    Column("at_ms", BigInteger, nullable=False),
    Column("by", String(96), nullable=False),
    Column("why", Text, nullable=False),
    Column("settled_at", BigInteger),
    Column("report", Text),
    Index("epoch_kills_unsettled", "settled_at", "at_ms"),
)


Format = Literal["json", "slack", "get"]  # get: a request without a body, for heartbeats alone


# Receivers of notifications. The URL is sealed with the secret, because some receivers are secret URLs.
class WebhookRow(msgspec.Struct, frozen=True, kw_only=True):
    """A receiver of events of some ``kinds``, or of all; an ended one has no seal."""

    id: Annotated[Str32, KEY]
    origin: str  # scheme, host and port of the URL, for people
    format: Annotated[Format, String(16)]
    kinds: tuple[str, ...]  # of the events that it gets, as JSON; an empty list for all
    nonce: str | None = None
    sealed: str | None = None
    created_at: int
    by: Str96
    delivered_at: int | None = None  # the last notification that it took
    failed_at: int | None = None  # the last attempt that failed
    error: str | None = None  # of that attempt
    ended_at: int | None = None
    ended_why: Str16 | None = None
    heartbeat_ms: int | None = None  # of one that gets heartbeats alone: the time between two
    beat_at: int | None = None  # when a mint began to send the last one


WEBHOOKS: Final = table_of("webhooks", WebhookRow)


# Notifications that a receiver has not taken, each written in the transaction of its event.
class NoticeRow(msgspec.Struct, frozen=True):
    """A notification that its receiver has not taken."""

    id: Annotated[Str32, KEY]
    webhook: Annotated[Str32, ForeignKey("webhooks.id")]
    kind: Str64
    at_ms: int
    facts: dict[str, Any]
    status: Str16
    tries: Annotated[int, Integer()]
    next_at: int  # of the next attempt; a sending mint sets it past its own end
    error: str | None = None
    failed_at: int | None = None  # when the last attempt failed, of one that waits for no other


NOTIFICATIONS: Final = table_of(
    "notifications",
    NoticeRow,
    Index("notifications_due", "webhook", "status", "next_at"),
    Index("notifications_failed", "status", "failed_at"),
)


# What is wrong now and has been notified, so that of many looks by many mints one notifies.
ALARMS: Final = _table(
    "alarms",
    Column("name", String(160), primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
)


# A key for what is sealed of one person. Without its row, nothing of that person opens.
class StoredKey(msgspec.Struct, frozen=True):
    """A person's key, sealed, and when it was made, ms since the Unix epoch."""

    subject: Annotated[Str64, KEY]  # the person's target
    created_at: int
    nonce: str
    sealed: str


PERSON_KEYS: Final = table_of("person_keys", StoredKey)


# Accounts of people at upstreams. The tokens are sealed with the person's key, and gone once the connection has ended.
class ConnectionRow(msgspec.Struct, frozen=True, kw_only=True):
    """An account; ``refresher`` is of a refresh that has begun; until ``refresh_until`` no other one begins."""

    id: Annotated[Str32, KEY]
    name: Str32  # of its table in the realm's settings
    subject: Str64  # the person's target
    person: str  # the person's name at the login
    issuer: str  # of the account
    account: str
    scopes: tuple[str, ...]
    status: Str16
    nonce: str | None = None
    sealed: str | None = None
    created_at: int
    used_at: int | None = None
    refreshed_at: int | None = None
    # Of a refresh that has begun, and until when no other one begins. A mint that dies leaves both.
    refresher: Str32 | None = None
    refresh_until: Annotated[int, DefaultClause("0")] = 0
    ended_at: int | None = None
    ended_why: Str16 | None = None
    incarnation: Str32
    born: int

    @property
    def key(self) -> str:
        """The value of its primary key."""
        return self.id


CONNECTIONS: Final = table_of(
    "connections",
    ConnectionRow,
    Index("connections_of_people", "subject", "name", "status"),
    Index("connections_of_accounts", "name", "status"),
    Index("connections_by_time", "created_at", "id"),
)


# Links by which people connect. Link and cookie are random: digests suffice. The tokens wait, sealed, for the person.
class LinkRow(msgspec.Struct, frozen=True, kw_only=True):
    """A link; ``granted`` has what an issuer gave, which waits for the person."""

    digest: Annotated[Str64, KEY]
    name: Str32
    subject: Annotated[Str64, INDEXED]
    person: str
    scopes: tuple[str, ...]
    until: Annotated[int, INDEXED]
    cookie: Annotated[Str64, UNIQUE] | None = None  # of the browser in which the person logged in
    used_at: int | None = None  # when the issuer's code was redeemed
    account: str | None = None
    granted: dict[str, Any] | None = None
    nonce: str | None = None
    sealed: str | None = None
    incarnation: Str32
    born: int

    @property
    def key(self) -> str:
        """The value of its primary key."""
        return self.digest

    @property
    def issuer(self) -> str:
        """The issuer of the account; empty without one."""
        return str((self.granted or {}).get("issuer", ""))


CONNECTION_LINKS: Final = table_of("connection_links", LinkRow)


# Events, each written in the transaction of its change. A number is never used again.
OUTBOX: Final = _table(
    "outbox",
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("mint", String(64), nullable=False),
    Column("kind", String(64), nullable=False),
    Column("by", String(96), nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("outbox_by_time", "at_ms"),
    sqlite_autoincrement=True,
)
