# SPDX-License-Identifier: Apache-2.0
"""Vectors of stamps and taints (SPEC 18): what a check of an entry returns, in a view of the kill epoch."""

import hashlib
from typing import Any

import msgpack

from tests.vectors.second import AT, INCARNATION, step, text

KEY = hashlib.sha256(b"arx vectors: the key memory.1").digest()
NEXT = hashlib.sha256(b"arx vectors: the key memory.2").digest()
TOKEN, HOP = b"token-id-0000001", b"link-of-a-hop-01"
SUBJECT = hashlib.sha256(b"https://idp.example\0ann").digest()[:16]
HOUR = 3_600_000
Vectors = dict[str, dict[str, Any]]


def writer(agent: str = "acme/research", session: str = "s-aaaabbbbccccdddd", **changes: Any) -> bytes:
    """SPEC 18.2: who wrote it."""
    fields = {"to": [], "task": "t-aaaabbbbccccdddd", "tasks": [], "links": [TOKEN], "subject": None} | changes
    members = (fields["to"], session, fields["task"], fields["tasks"], fields["links"], fields["subject"])
    raw: bytes = msgpack.packb([agent, *members], use_bin_type=True)
    return raw


def stamp(content: str, *more: Any, by: bytes = b"", kid: str = "memory.1", key: bytes = KEY, **changes: Any) -> str:
    """SPEC 18.2: the text of a stamp."""
    fields = {"kind": "agent", "first": AT, "spread": 0, "incarnation": INCARNATION, "born": 7, "decision": "d-1"}
    fields |= changes
    digest = hashlib.sha256(content.encode()).digest()
    payload = msgpack.packb([1, kid, digest, *fields.values(), by or writer(), *more], use_bin_type=True)
    return "arxm1_" + text(step(key, payload) + payload)


def window(target: str, since: int = 0, until: int | None = None) -> str:
    """SPEC 18.4: the target of a taint."""
    times = [text(ms.to_bytes(6, "big")) for ms in (since, *(() if until is None else (until,)))]
    return f"memory:{target}@{'.'.join(times)}"


def digests(*targets: str) -> bytes:
    """SPEC 18.6: the first 8 bytes of each."""
    return b"".join(hashlib.sha256(target.encode()).digest()[:8] for target in targets)


def vector(comment: str, expect: str, entry: str | None, spec: str = "18.5", **more: Any) -> dict[str, Any]:
    """One vector; ``expect`` is the status, and the target of a taint after a space."""
    given = {"content": "the price is 5", "freezes": {}, "incarnation": INCARNATION, "applied": 9, "seen": False} | more
    return {
        "comment": comment,
        "spec": spec,
        "keys": {"memory.1": KEY.hex(), "memory.2": NEXT.hex()},
        "stamp": entry,
        **given,
        "expect": expect,
    }


def vectors() -> Vectors:
    """All of this file."""
    text_of_entry = "the price is 5"
    entry = stamp(text_of_entry)
    full = stamp(text_of_entry, by=writer(to=["acme/worker"], links=[TOKEN, HOP], subject=SUBJECT, tasks=["t-sub"]))
    return {
        "trusted": vector("an entry of a live agent", "trusted", entry),
        "trusted-key-2": vector("an entry of the next key", "trusted", stamp(text_of_entry, kid="memory.2", key=NEXT)),
        "no-stamp": vector("an entry without a stamp", "unknown", None),
        "not-a-stamp": vector("another text", "forged", "arxm1_AAAA"),
        "padded": vector("two spellings of the same bytes", "forged", entry + "=", "18.2"),
        "content-changed": vector("another content", "forged", entry, content="the price is 6"),
        "key-forged": vector("the MAC of another key", "forged", stamp(text_of_entry, key=NEXT)),
        "key-unknown": vector("a key that is not here", "unknown", stamp(text_of_entry, kid="memory.3"), "18.3"),
        "writer-not-an-array": vector("a writer that is none", "forged", stamp(text_of_entry, by=b"\x81")),
        "writer-no-path": vector("a writer that is no agent", "forged", stamp(text_of_entry, by=writer("acme//x"))),
        "writer-short-link": vector("a link of 15 bytes", "forged", stamp(text_of_entry, by=writer(links=[HOP[1:]]))),
        "version-2": vector("another version", "forged", "arxm1_" + text(bytes(32) + msgpack.packb([2]))),
        "behind": vector("born at 7, the view is at 6", "unknown", entry, applied=6),
        "other-history": vector("born in another history", "unknown", entry, incarnation="another"),
        "other-history-seen": vector(
            "the service has verified a token of the view's history", "trusted", entry, incarnation="another", seen=True
        ),
        **taints(entry, full),
        **derived(),
    }


def taints(entry: str, full: str) -> Vectors:
    """SPEC 18.4."""
    link = text(HOP)
    found = {
        f"frozen-{name}": vector(f"{name} is frozen", f"tainted {target}", full, "18.4", freezes={target: 8})
        for name, target in {
            "realm": "realm",
            "agent": "agent:acme/research",
            "agent-above": "agent:acme",
            "holder": "agent:acme/worker",
            "session": "session:s-aaaabbbbccccdddd",
            "task": "task:t-aaaabbbbccccdddd",
            "sub-task": "task:t-sub",
            "link": f"link:{link}",
            "subject": f"subject:{SUBJECT.hex()}",
            "key": "key:memory.1",
        }.items()
    }
    agent = "agent:acme/research"
    return found | {
        "frozen-other": vector("another agent is frozen", "trusted", entry, "18.4", freezes={"agent:acme/other": 8}),
        "window-whole": vector(
            "a session that an operator killed",
            "tainted session:s-aaaabbbbccccdddd",
            entry,
            "18.4",
            freezes={window("session:s-aaaabbbbccccdddd"): 8},
        ),
        "window-met": vector(
            "in the window", f"tainted {agent}", entry, "18.4", freezes={window(agent, AT - HOUR, AT + 1): 8}
        ),
        "window-over": vector("until is the entry's time", "trusted", entry, "18.4", freezes={window(agent, 0, AT): 8}),
        "window-later": vector(
            "since is after the entry's time", "trusted", entry, "18.4", freezes={window(agent, AT + 1): 8}
        ),
        "window-narrows": vector(
            "a younger window without an end replaces the freeze",
            "trusted",
            entry,
            "18.4",
            freezes={agent: 7, window(agent, AT + 1): 8},
        ),
        "window-before-the-kill": vector(
            "an older window does not", f"tainted {agent}", entry, "18.4", freezes={agent: 9, window(agent, AT + 1): 8}
        ),
    }


def derived() -> Vectors:
    """SPEC 18.6 and 18.7."""
    content, ids = "the price is 5", b"\1" * 8
    own = writer("acme/summary", "s-summarysummarysu", task="t-summarysummarysu", links=[HOP])
    group = [AT - HOUR, AT - HOUR, digests("agent:acme/bad", "agent:acme", "key:memory.1"), digests("session:s-bad"), 0]
    entry = stamp(content, ids, [group], by=own, kind="derived")
    folded = stamp(content, ids, [[AT - HOUR, AT, digests("agent:acme"), b"", 1]], by=own, kind="derived")
    whole = stamp(content, ids, [[AT - HOUR, AT, b"", b"", 2]], by=own, kind="derived")
    bad, any_task, other = window("session:s-bad"), window("task:t-any"), window("agent:other")
    late = window("agent:acme/bad", AT - 1)
    return {
        "derived": vector("no target of a source is tainted", "trusted", entry, "18.6", freezes={other: 8}),
        "derived-agent": vector(
            "the agent of a source is frozen", "tainted agent:acme/bad", entry, "18.6", freezes={"agent:acme/bad": 8}
        ),
        "derived-session": vector(
            "the session of a source was killed", "tainted session:s-bad", entry, "18.6", freezes={bad: 8}
        ),
        "derived-time": vector("the time of the source counts", "trusted", entry, "18.6", freezes={late: 8}),
        "derived-realm": vector("the realm is frozen", "tainted realm", entry, "18.6", freezes={"realm": 8}),
        "folded-task": vector("any task, in a fold", "tainted task:t-any", folded, "18.7", freezes={any_task: 8}),
        "folded-agent": vector("an agent that no source had", "trusted", folded, "18.7", freezes={other: 8}),
        "folded-whole": vector("any target, in a whole fold", "tainted agent:other", whole, "18.7", freezes={other: 8}),
        "folded-time": vector(
            "a window after the fold", "trusted", whole, "18.7", freezes={window("agent:other", AT + 1): 8}
        ),
    }
