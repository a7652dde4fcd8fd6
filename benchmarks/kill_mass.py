# SPDX-License-Identifier: Apache-2.0
"""What many kills and many verifiers cost: a check, a copy, a probe, a message, a connection, a kill."""

import functools
import subprocess
import sys
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import redis

from arx_caps.revocation.wire import Keys
from arx_verifier.revocation.epoch import UnsafeLocalEpochs
from arx_verifier.revocation.store_url import Address
from benchmarks.kill_child import Child, memory
from benchmarks.kill_crowd import Crowd
from benchmarks.kill_stage import BY, SESSION, Stage, cpu_s, spread

MILLION: Final = 1_000_000
TARGETS: Final = (
    "realm", "key:k1.0", "policy:AAAAAAAAAAAAAAAAAAAAAA", "agent:acme", "agent:acme/support",
    "agent:acme/support/triage", "session:s-abcdefghijklmnop", "task:t-abcdefghijklmnop", "link:AAAAAAAAAAAAAAAAAAAAAA",
)  # fmt: skip
DIGITS: Final = "abcdefghijklmnopqrstuvwxyz234567"

PINGER: Final = """
import sys, time, redis
client = redis.Redis(unix_socket_path=sys.argv[1], protocol=2)
client.ping()
print("ready", flush=True)
longest = count = 0
import threading
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
while not stop.is_set():
    began = time.monotonic()
    client.ping()
    longest, count = max(longest, time.monotonic() - began), count + 1
    time.sleep(0.0005)
print(longest * 1000, count, flush=True)
"""


def target(index: int) -> str:
    """Name one of very many tasks."""
    letters = ""
    for _ in range(16):
        index, digit = divmod(index, 32)
        letters = DIGITS[digit] + letters
    return f"task:t-{letters}"


def check_cost(kills: int) -> dict[str, Any]:
    """Time one check of a token with nine targets beside so many live kills, ns."""
    epochs = UnsafeLocalEpochs()
    for first in range(0, kills, 1_000):
        epochs.kill(*(target(index) for index in range(first, first + 1_000)))
    incarnation, born = epochs.incarnation, epochs.seq
    assert epochs.check(incarnation, born, TARGETS) is None
    rounds = 20_000
    check = functools.partial(epochs.check, incarnation, born, TARGETS)
    times = timeit.repeat(check, number=rounds, repeat=15, timer=time.process_time)
    return {"kills": kills, "check_ns": round(min(times) / rounds * 1e9)}


class Pinger:
    """Another client of the server, in a process of its own, and the longest it had to wait."""

    def __init__(self, path: Path) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([sys.executable, "-c", PINGER, path], stdin=pipe, stdout=pipe, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def stop(self) -> float:
        """End it; returns the longest wait for an answer, ms."""
        told, _ = self._process.communicate("stop\n")
        return round(float(told.split()[0]), 2)


def load(stage: Stage, kills: int) -> dict[str, Any]:
    """Kill very many tasks, then let a new verifier copy it all, and ask how long another client had to wait."""
    store = stage.realm(1_000)
    client = redis.Redis(unix_socket_path=str(stage.server.data_dir / "valkey.sock"))
    before = _used(client)
    began = time.monotonic()
    for first in range(0, kills, 1_000):
        store.kill([target(index) for index in range(first, first + 1_000)], "benchmark", BY)
    filled_s = time.monotonic() - began
    path = stage.server.data_dir / "valkey.sock"
    pinger = Pinger(path)
    time.sleep(2)
    quiet_ms = pinger.stop()
    empty = Child(stage.server.url, "nobody", "v").say(memory=True)
    child, pinger = Child(stage.server.url, store.realm, "v"), Pinger(path)
    began = time.monotonic()
    child.ready()
    loaded_s = time.monotonic() - began
    longest_ms = pinger.stop()
    full = child.say(memory=True)
    child.close()
    facts = {
        "kills": kills,
        "filled_s": round(filled_s, 1),
        "loaded_s": round(loaded_s, 2),
        "ping_longest_ms": longest_ms,
        "ping_longest_without_ms": quiet_ms,
        "verifier_bytes_a_kill": round((full - empty) / kills),
        "server_bytes_a_kill": round((_used(client) - before) / kills),
    }
    client.close()
    return facts


def _used(client: redis.Redis) -> int:
    facts: Any = client.info("memory")
    return int(facts["used_memory"])


def unit_costs(stage: Stage, rounds: int) -> dict[str, Any]:
    """What a probe, a pushed message and a connection cost the server, and what a probe costs a relay."""
    store = stage.realm(1_000)
    keys = Keys.of(store.realm)
    path = str(stage.server.data_dir / "valkey.sock")
    client = redis.Redis(unix_socket_path=path)
    header = store.header()
    names = (keys.header, keys.kills, keys.freezes, keys.log, keys.probes, keys.acks)
    before = _server_us(client)
    for _ in range(rounds):
        client.fcall("arx1_probe", len(names), *names, "v", *header.place, 1000)
    probe_us = (_server_us(client) - before) / rounds
    alone_us = _kills_us(stage, client, rounds // 10)
    subscribers, memory_before = [], _used(client)
    for _ in range(SUBSCRIBERS):
        one = Address(f"unix://{path}").connection(5.0)
        one.connect()
        one.send_command("SSUBSCRIBE", f"arx:{{{store.realm}}}:ch")
        one.read_response(push_request=True)
        subscribers.append(one)
    bytes_each = (_used(client) - memory_before) / SUBSCRIBERS
    fan_us = (_kills_us(stage, client, rounds // 10) - alone_us) / SUBSCRIBERS
    for one in subscribers:
        one.disconnect()
    client.close()
    facts = {"probe_us": probe_us, "kill_us": alone_us, "message_us": fan_us, "connection_bytes": bytes_each}
    return {name: round(value, 1) for name, value in facts.items()} | relay_cost(stage)


SUBSCRIBERS: Final = 200


def _kills_us(stage: Stage, client: redis.Redis, rounds: int) -> float:
    before = _server_us(client)
    for _ in range(rounds):
        stage.store.kill([SESSION], "benchmark", BY)
    return (_server_us(client) - before) / rounds


def _server_us(client: redis.Redis) -> float:
    facts: Any = client.info("cpu")
    return float(facts["used_cpu_user"] + facts["used_cpu_sys"]) * 1e6


def relay_cost(stage: Stage, verifiers: int = 500, seconds: float = 10.0) -> dict[str, Any]:
    """What a relay costs itself and the server while nothing happens, and what a kill costs both."""
    store, server = stage.realm(1_000), stage.server.server_pid
    with stage.relays(1) as relays:
        crowd = Crowd(relays[0].url, store.realm, verifiers)
        while store.unacked(0, 0).verifiers < verifiers:
            time.sleep(0.05)
        time.sleep(1.2)
        relay = relays[0].pid
        idle = _used_s(lambda: time.sleep(seconds), relay, server)
        took: list[float] = []

        def kills() -> None:
            for _ in range(30):
                report = store.wait_confirmed(store.kill([SESSION], "benchmark", BY))
                assert (report.status, report.confirmed) == ("confirmed", verifiers), report.summary
                took.append(report.took_ms)
                time.sleep(0.05)

        busy = _used_s(kills, relay, server)
        size = memory(relay)
        crowd.close()
    return {
        "relay_verifiers": verifiers,
        "relay_idle_percent": round(idle[0] / seconds * 100, 1),
        "relay_server_percent": round(idle[1] / seconds * 100, 2),
        "relay_kill_ms": round(busy[0] / 30 * 1000, 1),
        "relay_confirmed_ms": spread(took),
        "relay_bytes": size,
    }


def _used_s(what: Callable[[], None], *pids: int) -> list[float]:
    """Return the processor time that each process used meanwhile, s."""
    before = [cpu_s(pid) for pid in pids]
    what()
    return [cpu_s(pid) - used for pid, used in zip(pids, before, strict=True)]
