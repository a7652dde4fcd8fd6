# SPDX-License-Identifier: Apache-2.0
"""The simulator's store answers as the real functions do: random calls to both, on a real server."""

import random
import secrets
from typing import Any

import msgspec
import pytest
import redis

from arx_caps.revocation.store import RevocationStore
from arx_caps.revocation.wire import HISTORY_ERRORS
from arx_verifier.revocation.history import UNKNOWN
from arx_verifier.revocation.store_link import Crowd, EpochEntry, StoreAnswer, read_answer
from tests.revocation.calling import NO_MORE
from tests.simulation.model_store import Header, Logged, ModelStore, StoreRefused

pytestmark = [pytest.mark.servers, pytest.mark.spec("10.2")]

TARGETS = ["realm", *(f"{kind}:{name * 3}" for kind in ("agent", "session", "task") for name in "abcd")]
ODD = ["", "x" * 97, "a b", "session:é"]
CALLS = 250
CHANCES = {
    "move": 1,
    "attest": 10,
    "bump": 40,
    "probe": 30,
    "unacked": 10,
    "rotate": 3,
    "init": 2,
    "expire": 5,
    "evict": 0.5,
    "take": 3,
}


class Both:
    """A realm in a real store and in the model; whatever one says, the other must say."""

    def __init__(self, client: redis.Redis, store: RevocationStore, seed: int) -> None:
        self.random = random.Random(seed)
        self.client, self.keys = client, store.keys
        self.at_ms = 0
        self.published: list[tuple[str, int, str, str]] = []
        self.model = ModelStore(lambda: self.at_ms, lambda *entry: self.published.append(entry))
        self.channel = client.pubsub()
        self.channel.ssubscribe(store.keys.header[:-1] + "ch")
        assert self.channel.get_sharded_message(timeout=5) is not None

    def call(self, function: str, keys: tuple[str, ...], *arguments: Any, model: tuple[Any, ...]) -> None:
        """Call both, the real one first: the model's clock is then what the server's was."""
        expected: Any
        try:
            reply: Any = self.client.fcall(f"arx1_{function}", len(keys), *keys, *arguments)
        except redis.ResponseError as error:
            word = str(error).split(" ")[0]
            reply = word if word in HISTORY_ERRORS else "ERR"
        else:
            self.at_ms = reply[0] if function == "unacked" else reply[2]
        try:
            expected = getattr(self.model, function)(*model)
        except StoreRefused as error:
            expected = str(error)
        if function == "probe" and isinstance(expected, list):
            entries = tuple(EpochEntry(expected[0], entry.seq, entry.op, entry.target) for entry in expected.pop())
            *facts, askers = expected
            assert read_answer(reply) == StoreAnswer(*facts, entries, askers)
        elif function == "unacked":
            reply[3] = sorted([name.decode(), at_ms, applied] for name, at_ms, applied in reply[3])
            reply[4] = sorted([name.decode(), n, msgspec.json.decode(crowd, type=Crowd)] for name, n, crowd in reply[4])
            assert reply == expected
        else:
            values = [value.decode() if isinstance(value, bytes) else value for value in reply]
            assert values == list(expected), (function, arguments)

    def step(self) -> None:
        """Make one random call."""
        draw, header = self.random, self.model.header
        incarnation = header.incarnation if header is not None and draw.random() < 0.95 else "X" * 22
        seq = header.seq if header is not None else 0
        kind = draw.choices(list(CHANCES), list(CHANCES.values()))[0]
        if kind == "bump":
            op = draw.choice(
                ["kill", "freeze", "kill+freeze", "thaw", "thaw", "undo" if draw.random() < 0.1 else "freeze"]
            )
            targets = draw.choices(TARGETS, k=draw.randint(1, 4))
            targets += draw.choices(ODD, k=1) if draw.random() < 0.03 else []
            if draw.random() < 0.03:
                targets = [f"task:{number}" for number in range(draw.choice([4000, 4001]))]
            seen = draw.choice([0, 0, seq, seq + (draw.random() < 0.1)])
            until = str(self.at_ms + 5_000) if draw.random() < 0.1 else ""
            known = (incarnation, seen, self.chain(seen))
            real = (*known, op, until, "by", "why", *NO_MORE, *targets)
            self.call("bump", self.keys.written, *real, model=(*known, op, until, *targets))
        elif kind == "probe":
            applied = draw.choice([-1, seq, seq + 1, draw.randint(0, seq), max(0, seq - draw.randint(0, 30))])
            keys = tuple(self.keys.header[:-1] + part for part in ("h", "k", "f", "log", "v", "a"))
            asked = (draw.choice("vw"), incarnation, applied, self.chain(applied), draw.choice([1, 3, 1000]))
            crowd = Crowd(draw.randint(0, 3), draw.randint(-1, seq + 1), ()) if draw.random() < 0.3 else None
            more = () if crowd is None else (crowd.applied, msgspec.json.encode(crowd))
            keys = (*keys, self.keys.header[:-1] + "r") if more else keys
            self.call("probe", keys, *asked, *more, model=(*asked, crowd))
        elif kind == "unacked":
            wanted = (draw.randint(0, seq + 1), draw.choice([0, self.at_ms, self.at_ms + 10**6]))
            self.call("unacked", self.keys.registry, *wanted, model=wanted)
        elif kind == "rotate":
            asked = (
                incarnation,
                secrets.token_hex(11),
                draw.choice([0, seq + 5]),
                draw.choice([0, 400]),
                draw.choice([0, 9]),
            )
            self.call("rotate", self.keys.all, *asked, model=asked)
        elif kind == "init":
            begun = (secrets.token_hex(11), 1_000, 60_000, draw.randint(0, 5))
            self.call("init", self.keys.written, *begun, model=begun)
        else:
            self.meddle(kind)

    def chain(self, seq: int) -> str:
        """What led to a number, something else now and then, or nothing."""
        known = self.model.chain_at(seq) if self.model.header is not None else None
        return self.random.choices([known or "0" * 40, "1" * 40, UNKNOWN], [20, 1, 1])[0]

    def meddle(self, kind: str) -> None:
        """Do to the keys of both what time, a careless neighbour or a mint would."""
        draw, model = self.random, self.model
        if kind == "expire" and model.retain:
            target = draw.choice(list(model.retain))
            model.retain[target] = 1
            self.client.zadd(self.keys.retention, {target: 1})
        elif kind == "evict" and model.kills:
            target = draw.choice(list(model.kills))
            del model.kills[target]
            self.client.hdel(self.keys.kills, target)
        elif kind == "take" and model.header is not None:
            model.header = model.header._replace(taken=draw.randint(model.header.low, model.header.seq))
            self.client.hset(self.keys.header, "taken", str(model.header.taken))
        elif kind == "move" and model.header is not None:  # as if the attested server had been another one
            model.server += 1
            self.client.hset(self.keys.header, "replid", "0" * 40)
        elif kind == "attest" and model.header is not None:
            replid = self.client.info("replication")["master_replid"]
            facts = (model.header.incarnation, replid, "", "1", "0", "0")
            self.client.fcall("arx1_attest", len(self.keys.attested), *self.keys.attested, *facts)
            model.attest()

    def compare(self) -> None:
        """Hold every key of the one against the other."""
        raw: Any = self.client.hgetall(self.keys.header)
        fields = {name.decode(): value.decode() for name, value in raw.items()}
        words = {name: fields.pop(name) for name in ("incarnation", "chain", "base")}
        attested = fields.pop("replid") != "0" * 40
        for name in ("node", "lag_ms", "replicas", "moved", "had_replica"):
            fields.pop(name, None)
        assert self.model.header is not None
        assert attested == (self.model.header.server == self.model.server)
        header = Header(
            **words, **{name: int(value) for name, value in fields.items()}, server=self.model.header.server
        )
        assert header == self.model.header
        for key, hash_ in ((self.keys.kills, self.model.kills), (self.keys.freezes, self.model.freezes)):
            found: Any = self.client.hgetall(key)
            assert {target.decode(): int(seq) for target, seq in found.items()} == hash_
        retained: Any = self.client.zrange(self.keys.retention, 0, -1, withscores=True)
        assert {target.decode(): int(until) for target, until in retained} == self.model.retain
        entries: Any = self.client.xrange(self.keys.log)
        values = [
            Logged(int(key.split(b"-")[0]), at[b"op"].decode(), at[b"s"].decode(), int(at[b"t"]), at[b"c"].decode())
            for key, at in entries
        ]
        assert values == self.model.log
        acks: Any = self.client.zrange(self.keys.acks, 0, -1, withscores=True)
        assert {name.decode(): seq for name, seq in acks if not name.startswith(b"!")} == self.model.acks

    def compare_published(self) -> None:
        """Hold every push against the model's, in order."""
        for entry in self.published:
            message = self.channel.get_sharded_message(timeout=5)
            assert message is not None, entry
            assert message["data"].decode() == " ".join(map(str, entry))


@pytest.mark.parametrize("seed", range(4))
def test_the_model_answers_as_the_store_does(seed: int, valkey: Any, realm_name: str) -> None:
    """Bumps, probes, rotations, pruning, trimming and lost keys: the same answers, keys and pushes."""
    with RevocationStore(valkey.url, realm_name) as store, redis.Redis.from_url(valkey.url) as client:
        store.load_functions()
        both = Both(client, store, seed)
        for number in range(CALLS):
            if number == CALLS // 2 and both.model.header is not None:  # enough for the log to be trimmed
                for _ in range(11):
                    targets = [f"task:{number}" for number in range(1000)]
                    incarnation = both.model.header.incarnation
                    real = (incarnation, 0, "", "kill", "", "by", "why", *NO_MORE, *targets)
                    both.call("bump", both.keys.written, *real, model=(incarnation, 0, "", "kill", "", *targets))
            both.step()
        both.compare()
        both.compare_published()
        both.channel.close()
