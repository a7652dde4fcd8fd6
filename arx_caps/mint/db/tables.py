# SPDX-License-Identifier: Apache-2.0
"""The mint's tables, for SQLite and PostgreSQL alike. Times are in ms since the Unix epoch."""

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
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

# No table holds a token or a private key: a copy of the database alone must open nothing.
METADATA: Final = MetaData()


def _table(name: str, *parts: SchemaItem, **options: Any) -> Table:
    return Table(name, METADATA, *parts, **options)


META: Final = _table("meta", Column("name", String(32), primary_key=True), Column("value", Text, nullable=False))

OPERATORS: Final = _table(
    "operators",
    Column("id", String(64), primary_key=True),
    Column("status", String(16), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("role", String(32), nullable=False, server_default="admin"),  # the role that may do everything
    Column("rules", Text),
    Column("ended_at", BigInteger),
    # Of a person who is an operator by login: the claims of the last one that the policy judges, as JSON.
    Column("issuer", String(256)),
    Column("subject", String(512)),
    Column("claims", Text),
)

# One row for each sign-in to the console: first for its one-use link, then for the browser that used it.
CONSOLE_SESSIONS: Final = _table(
    "console_sessions",
    Column("id", String(32), primary_key=True),
    Column("secret", String(64), nullable=False, unique=True),  # digest of what the link, and then the cookie, has
    Column("operator", String(64), ForeignKey("operators.id"), nullable=False, index=True),
    Column("key", String(64)),  # thumbprint of the operator's key that asked for the link; None for a login
    Column("fresh_until", BigInteger, nullable=False),  # until when acts that grant rights are let through
    Column("draft", Text),  # the form that waits for another sign-in, as JSON
    Column("created_at", BigInteger, nullable=False),
    Column("signed_in_at", BigInteger),  # when the link was used; None before
    Column("used_at", BigInteger, nullable=False),
    Column("until", BigInteger, nullable=False, index=True),
)

AGENTS: Final = _table(
    "agents",
    Column("path", String(64), primary_key=True),
    Column("status", String(16), nullable=False),
    Column("owner", Text),
    Column("metadata", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
)

# The key id is unique, so that a key has one holder: the signer of a proof is never ambiguous.
HOLDER_KEYS: Final = _table(
    "holder_keys",
    Column("kid", String(64), primary_key=True),
    Column("holder", String(96), nullable=False, index=True),
    Column("x", String(64), nullable=False),
    Column("added_at", BigInteger, nullable=False),
    Column("used_at", BigInteger),  # to about a minute; None for a key that never signed a call
    Column("until", BigInteger),  # of a key that a login enrolled; None for no end
)

SESSIONS: Final = _table(
    "sessions",
    Column("id", String(32), primary_key=True),
    Column("agent", String(64), ForeignKey("agents.path"), nullable=False),
    Column("jkt", String(64), nullable=False),
    Column("opened_with", Text),
    Column("subject_issuer", Text),
    Column("subject", Text),
    Column("subject_claims", Text),
    Column("subject_until", BigInteger),  # expiry of the ID token that proved the subject
    Column("status", String(16), nullable=False),
    Column("purpose", Text),
    Column("policy", String(32), nullable=False),
    Column("opened_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),  # of the session's last token
    Column("ends_at", BigInteger, nullable=False, server_default="0"),  # the latest expiry that a renewal may set
    Column("ended_at", BigInteger),
    Column("incarnation", String(32), nullable=False),
    Column("born", BigInteger, nullable=False),
    Index("sessions_by_time", "opened_at", "id"),
    Index("sessions_of_agents", "agent", "opened_at", "id"),
    Index("sessions_of_subjects", "subject", "opened_at", "id"),
)

TASKS: Final = _table(
    "tasks",
    Column("id", String(32), primary_key=True),
    Column("session", String(32), ForeignKey("sessions.id"), nullable=False),
    Column("agent", String(64), nullable=False),
    Column("subject_target", String(64)),
    Column("above", Text, nullable=False, server_default="[]"),  # ids of its parent tasks, the outermost first
    Column("template", Text, nullable=False),  # or several, with a space between
    Column("params", Text, nullable=False),
    Column("audiences", Text, nullable=False),
    Column("link", String(32), nullable=False),
    Column("status", String(16), nullable=False),
    Column("policy", String(32), nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Column("incarnation", String(32), nullable=False),
    Column("born", BigInteger, nullable=False),
    Index("tasks_by_time", "started_at", "id"),
    Index("tasks_of_sessions", "session", "started_at", "id"),
    Index("tasks_of_agents", "agent", "started_at", "id"),
    Index("tasks_of_templates", "template", "started_at", "id"),
    Index("tasks_by_template", "session", "template"),
)

# What a task may do: a row for its start and for each extension. An attenuation replaces all of them by one row.
TASK_GRANTS: Final = _table(
    "task_grants",
    Column("link", String(32), primary_key=True),  # the first link of its tokens
    Column("task", String(32), ForeignKey("tasks.id"), nullable=False, index=True),
    Column("content", Text, nullable=False),
    Column("policy", String(32), nullable=False),
    Column("granted_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Column("replaced_by", String(32)),
)

# Requests for approval and operators' answers. Whether the task still runs is in the task's row alone.
APPROVALS: Final = _table(
    "approvals",
    Column("id", String(32), primary_key=True),
    Column("task", String(32), ForeignKey("tasks.id"), nullable=False, index=True),
    Column("session", String(32), nullable=False),
    Column("agent", String(64), nullable=False),
    Column("subject_issuer", Text),
    Column("subject", Text),
    Column("template", String(64), nullable=False),
    Column("audience", String(64), nullable=False),
    Column("caveat", Text, nullable=False),  # the third-party caveat, with the bytes of the token
    Column("tool", String(96), nullable=False),
    Column("args", Text, nullable=False),
    Column("why", Text),
    Column("need", Integer, nullable=False),
    Column("ttl_ms", BigInteger, nullable=False),
    Column("once", Integer, nullable=False),  # 1: the discharge allows one call
    Column("status", String(16), nullable=False),
    Column("asked_at", BigInteger, nullable=False),
    Column("by", Text, nullable=False),  # ids of the operators who approved, as JSON
    Column("denied_by", String(64)),
    Column("answer_why", Text),
    Column("approved_at", BigInteger),
    Column("expires_at", BigInteger),  # of its discharge
    Column("handle", String(64)),  # the access token for which a gateway asked; NULL: an agent asked itself
    Column("marks", Text),  # those that operators are shown, as JSON; NULL: the call needs an approval without any
    Index("approvals_by_time", "asked_at", "id"),
    Index("approvals_of_sessions", "session", "asked_at", "id"),
    Index("approvals_waiting", "session", "status"),  # a session has few; a status has all old ones
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

SERVICES: Final = _table(
    "services",
    Column("audience", String(64), primary_key=True),
    Column("enrolled_at", BigInteger, nullable=False),
    Column("enrolled_by", String(96), nullable=False),
)

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
OAUTH_CLIENTS: Final = _table(
    "oauth_clients",
    Column("id", String(32), primary_key=True),
    Column("agent", String(64), ForeignKey("agents.path"), nullable=False, index=True),
    Column("secret", String(64)),  # its SHA-256, in hex; null for a client with keys
    Column("jwks", Text),
    Column("scopes", Text, nullable=False),  # templates
    Column("introspects", Text, nullable=False),  # audiences whose tokens it may introspect
    Column("redirects", Text, nullable=False, server_default="[]"),
    Column("url", Text),  # of the document that describes it, and is its client id
    Column("name", Text),  # what a client that no operator has registered calls itself
    Column("created_at", BigInteger, nullable=False),
    Column("by", String(96), nullable=False, index=True),
    Column("used_at", BigInteger),  # the last access token
    Column("expires_at", BigInteger),  # of one that an operator registered for a time
    Column("ended_at", BigInteger),
    UniqueConstraint("url", "agent", name="oauth_clients_by_url"),
)

# What a person was asked to consent to, and the code that a consent gave. Cookie and code are random: digests suffice.
OAUTH_CONSENTS: Final = _table(
    "oauth_consents",
    Column("id", String(32), primary_key=True),
    Column("cookie", String(64), nullable=False, unique=True),
    Column("client", String(32), ForeignKey("oauth_clients.id"), nullable=False),
    Column("redirect", Text, nullable=False),
    Column("state", Text),
    Column("challenge", String(64), nullable=False),
    Column("jkt", String(64)),  # of the key that must prove the code's use
    Column("resource", Text, nullable=False),
    Column("audience", String(64), nullable=False),
    Column("template", Text, nullable=False),
    Column("params", Text, nullable=False),
    Column("tools", Text),
    Column("subject_issuer", Text),
    Column("subject", Text),
    Column("subject_claims", Text),
    Column("subject_until", BigInteger),
    Column("policy", String(32), nullable=False),
    Column("incarnation", String(32), nullable=False),
    Column("born", BigInteger, nullable=False),
    Column("until", BigInteger, nullable=False, index=True),  # of the page, and then of the code
    Column("code", String(64), unique=True),
    Column("used_at", BigInteger),
    Column("replayed_at", BigInteger),
    Column("session", String(32), ForeignKey("sessions.id")),
)

# Refresh tokens: what the next task of a consented session is. A token is random, so its digest suffices. ``parent`` is
# the token in exchange for which this one was given, and ``task`` is what came with it.
OAUTH_REFRESHES: Final = _table(
    "oauth_refreshes",
    Column("digest", String(64), primary_key=True),
    Column("client", String(32), ForeignKey("oauth_clients.id"), nullable=False),
    Column("session", String(32), ForeignKey("sessions.id"), nullable=False, index=True),
    Column("resource", Text, nullable=False),
    Column("audience", String(64), nullable=False),
    Column("template", Text, nullable=False),
    Column("terms", String(64), nullable=False),  # digest of the template that the person saw
    Column("params", Text, nullable=False),
    Column("tools", Text),
    Column("jkt", String(64)),  # of the key that must prove its use
    Column("until", BigInteger, nullable=False, index=True),
    Column("parent", String(64), index=True),
    Column("task", String(32), ForeignKey("tasks.id"), nullable=False),
    Column("used_at", BigInteger),
    Column("replaced_at", BigInteger),
)

# What an access token stands for: the content of its task's tokens, unsigned.
OAUTH_HANDLES: Final = _table(
    "oauth_handles",
    Column("jti", String(32), primary_key=True),
    Column("client", String(32), ForeignKey("oauth_clients.id"), nullable=False),
    Column("session", String(32), ForeignKey("sessions.id"), nullable=False),
    Column("task", String(32), ForeignKey("tasks.id"), nullable=False),
    Column("audience", String(64), nullable=False),
    Column("issued_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False, index=True),
    Column("recipe", Text, nullable=False),
    Index("oauth_handles_of_clients", "client", "issued_at"),
)

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
POLICIES: Final = _table(
    "policies",
    Column("digest", String(32), primary_key=True),
    Column("text", Text, nullable=False),
    Column("first_at", BigInteger, nullable=False),
    Column("in_force_at", BigInteger, nullable=False),
    Column("by", String(96), nullable=False),
)

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
FREEZES: Final = _table(
    "epoch_freezes",
    Column("target", String(96), primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("by", String(96), nullable=False),
    Column("why", Text, nullable=False),
    Column("op", String(16), nullable=False, server_default="freeze"),  # or kill+freeze, if a kill left it
    Column("seq", BigInteger, nullable=False, server_default="0"),  # of its entry; 0 if the log had no entry any more
    Index("epoch_freezes_by_time", "at_ms", "target"),
)

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

# Receivers of notifications. The URL is sealed with the secret, because some receivers are secret URLs.
WEBHOOKS: Final = _table(
    "webhooks",
    Column("id", String(32), primary_key=True),
    Column("origin", Text, nullable=False),  # scheme, host and port of the URL, for people
    Column("format", String(16), nullable=False),
    Column("kinds", Text, nullable=False),  # of the events that it gets, as JSON; an empty list for all
    Column("nonce", Text),
    Column("sealed", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("by", String(96), nullable=False),
    Column("delivered_at", BigInteger),  # the last notification that it took
    Column("failed_at", BigInteger),  # the last attempt that failed
    Column("error", Text),  # of that attempt
    Column("ended_at", BigInteger),
    Column("ended_why", String(16)),
    Column("heartbeat_ms", BigInteger),  # of one that gets heartbeats alone: the time between two
    Column("beat_at", BigInteger),  # when a mint began to send the last one
)

# Notifications that a receiver has not taken, each written in the transaction of its event.
NOTIFICATIONS: Final = _table(
    "notifications",
    Column("id", String(32), primary_key=True),
    Column("webhook", String(32), ForeignKey("webhooks.id"), nullable=False),
    Column("kind", String(64), nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("facts", Text, nullable=False),
    Column("status", String(16), nullable=False),
    Column("tries", Integer, nullable=False),
    Column("next_at", BigInteger, nullable=False),  # of the next attempt; a sending mint sets it past its own end
    Column("error", Text),
    Column("failed_at", BigInteger),  # when the last attempt failed, of one that waits for no other
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
PERSON_KEYS: Final = _table(
    "person_keys",
    Column("subject", String(64), primary_key=True),  # the person's target
    Column("created_at", BigInteger, nullable=False),
    Column("nonce", Text, nullable=False),
    Column("sealed", Text, nullable=False),
)

# Accounts of people at upstreams. The tokens are sealed with the person's key, and gone once the connection has ended.
CONNECTIONS: Final = _table(
    "connections",
    Column("id", String(32), primary_key=True),
    Column("name", String(32), nullable=False),  # of its table in the realm's settings
    Column("subject", String(64), nullable=False),  # the person's target
    Column("person", Text, nullable=False),  # the person's name at the login
    Column("issuer", Text, nullable=False),  # of the account
    Column("account", Text, nullable=False),
    Column("scopes", Text, nullable=False),
    Column("status", String(16), nullable=False),
    Column("nonce", Text),
    Column("sealed", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("used_at", BigInteger),
    Column("refreshed_at", BigInteger),
    # Of a refresh that has begun, and until when no other one begins. A mint that dies leaves both.
    Column("refresher", String(32)),
    Column("refresh_until", BigInteger, nullable=False, server_default="0"),
    Column("ended_at", BigInteger),
    Column("ended_why", String(16)),
    Column("incarnation", String(32), nullable=False),
    Column("born", BigInteger, nullable=False),
    Index("connections_of_people", "subject", "name", "status"),
    Index("connections_of_accounts", "name", "status"),
    Index("connections_by_time", "created_at", "id"),
)

# Links by which people connect. Link and cookie are random: digests suffice. The tokens wait, sealed, for the person.
CONNECTION_LINKS: Final = _table(
    "connection_links",
    Column("digest", String(64), primary_key=True),
    Column("name", String(32), nullable=False),
    Column("subject", String(64), nullable=False, index=True),
    Column("person", Text, nullable=False),
    Column("scopes", Text, nullable=False),
    Column("until", BigInteger, nullable=False, index=True),
    Column("cookie", String(64), unique=True),  # of the browser in which the person logged in
    Column("used_at", BigInteger),  # when the issuer's code was redeemed
    Column("account", Text),
    Column("granted", Text),
    Column("nonce", Text),
    Column("sealed", Text),
    Column("incarnation", String(32), nullable=False),
    Column("born", BigInteger, nullable=False),
)

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
