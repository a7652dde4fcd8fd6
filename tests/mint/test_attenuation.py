# SPDX-License-Identifier: Apache-2.0
"""What a holder took away is gone everywhere: in every token of the bundle, and in each that services get for one.

A real mint with a real store, real verifiers, tasks attenuated at the mint and offline, delegated, exchanged by one
service after the other.  What is asserted of each call that some token allows is computed from what was written alone.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from itertools import product
from typing import Any, Final, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arx_caps.agent import Bundle, Task
from arx_caps.agent.sessions.started_task import StartedTask
from arx_caps.embedded import EmbeddedValkey
from arx_caps.settings.durations import parse_duration
from arx_verifier.constraints.constraint import compile_constraint, read_constraint
from arx_verifier.constraints.rule import compile_rule, permits, read_rule
from arx_verifier.errors import AttenuationError
from arx_verifier.names import matches_tool
from tests.mint.harness import now_ms, open_live
from tests.mint.test_token_exchange import Shop
from tests.servers import FAST_LEASE_MS

pytestmark = [pytest.mark.servers, pytest.mark.spec("CONTROL 2.4", "CONTROL 2.6")]
MAX_PATH: Final = 3  # services in a row
# The agent has tokens for two services; a third is reached through them alone.  Two tools are called `search`.
POLICY = """
[audience.orders]
origins = ["http://127.0.0.1:9001"]
[audience.payments]
origins = ["http://127.0.0.1:9002"]
[audience.ledger]
origins = ["http://127.0.0.1:9003"]

[session]
agents = ["acme/**"]
ttl = "8h"

[task.pay]
agents = ["acme/**"]
params = { order_id = { max_length = 8 }, amount = { range = [1, 100] } }
ttl = "10m"
depth = 5
audience = ["orders", "payments"]
exchange = { orders = ["payments", "ledger"], payments = ["orders", "ledger"], ledger = ["payments"] }
allow = [
  { tool = "orders.get", args = { order_id = "$order_id" } },
  { tool = "orders.list", any = true },
  { tool = "search", at = "orders", args = { order_id = "$order_id" } },
  { tool = "search", at = "payments", args = { amount = { max = 60, optional = true } } },
  { tool = "payments.refund", args = { order_id = "$order_id", amount = { range = [1, "$amount"] } } },
  { tool = "payments.note", args = { order_id = "$order_id", amount = { max = 60, optional = true } } },
  { tool = "ledger.add", args = { order_id = "$order_id", amount = { max = 60 } } },
]
"""
# What each service's rules say of each tool's arguments by name; `orders.list` takes any.
NAMED: dict[str, dict[str, set[str]]] = {
    "orders": {"orders.get": {"order_id"}, "orders.list": set(), "search": {"order_id"}},
    "payments": {
        "payments.refund": {"order_id", "amount"},
        "payments.note": {"order_id", "amount"},
        "search": {"amount"},
    },
    "ledger": {"ledger.add": {"order_id", "amount"}},
}
ONWARDS = {"orders": ("payments", "ledger"), "payments": ("orders", "ledger"), "ledger": ("payments",)}
AMOUNTS: tuple[dict[str, Any], ...] = ({}, {"amount": 5}, {"amount": 20}, {"amount": 50})
CALLS = [order | amount for order in ({}, {"order_id": "o-1"}) for amount in AMOUNTS]

TOOLS = ["orders.get", "orders.list", "orders.*", "payments.refund", "payments.note", "search", "*"]
BOUNDS: list[Any] = [20, "o-1", {"max": 20}, {"range": [10, 60]}, {"max": 20, "optional": True}, {"none_of": [50]}]
BY_ARGUMENT = st.dictionaries(st.sampled_from(["amount", "order_id"]), st.sampled_from(BOUNDS), min_size=1, max_size=2)
LESS = st.fixed_dictionaries(
    {},
    optional={
        "tools": st.lists(st.sampled_from(TOOLS), min_size=1, max_size=4),
        "args": BY_ARGUMENT | st.dictionaries(st.sampled_from(TOOLS), BY_ARGUMENT, min_size=1, max_size=2),
        "ttl": st.sampled_from(["60s", "5m"]),
        "depth": st.integers(0, 5),
        "audiences": st.lists(st.sampled_from(["orders", "payments"]), min_size=1, max_size=2, unique=True),
    },
)
# What one service's token is attenuated by at the mint, as a caveat; the library writes the same one for all.
CAVEATS: list[dict[str, Any]] = [
    {"allow": [{"args": {"amount": {"max": 20}}, "open": True, "tool": "*"}]},
    {"allow": [{"tool": "orders.*"}, {"tool": "ledger.*"}]},
    {"aud": ["ledger", "orders"]},
    {"depth": 1},
    {"delegate_to": ["acme/support/worker"]},
    {"net": ["192.0.2.0/24"]},
]
STEPS = st.lists(st.tuples(st.sampled_from(["attenuate", "attenuate_for_all", "delegate"]), LESS), max_size=3)
WORKER = "acme/support/worker"


class Written(NamedTuple):
    """The attenuation by a holder with tokens for some services, after how many delegations, and when it expires.

    Where ``of`` is one of them, it is a caveat of that one's token alone.
    """

    less: Mapping[str, Any]
    known: tuple[str, ...]
    hops: int
    ends: int | None = None
    of: str | None = None


class Held(NamedTuple):
    """A token of a holder: the services it passed, the delegations, and the caveats before."""

    task: Task
    path: tuple[str, ...]
    hops: int
    written: tuple[Written, ...]

    def after(self, task: Task, less: Mapping[str, Any], hops: int) -> "Held":
        ends = now_ms() + parse_duration(less["ttl"]) if "ttl" in less else None
        written = Written(less, self.task.audiences, self.hops + hops, ends)
        return Held(task, self.path, written.hops, (*self.written, written))


def within(held: Held, written: Written, tool: str, args: Mapping[str, Any]) -> bool:
    """Whether a call is within an attenuation."""
    less, at = written.less, held.path[-1]
    if written.of is not None:
        return written.of not in held.path or within_caveat(held, less, tool, args)
    if at not in less.get("audiences", [at]) or not any(matches_tool(each, tool) for each in less.get("tools", [tool])):
        return False
    if held.hops - written.hops > less.get("depth", 16):
        return False
    if written.ends is not None and held.task.expires_at > written.ends:
        return False
    answer = less.get("args", {})
    flat = (
        [answer]
        if not set(answer) & set(TOOLS)
        else [each for name, each in answer.items() if matches_tool(name, tool)]
    )
    named = NAMED[at][tool] if at in written.known else ()
    return all(keeps(args, name, bound, named) for each in flat for name, bound in each.items())


def keeps(args: Mapping[str, Any], name: str, bound: Any, named: Collection[str]) -> bool:
    """An argument that comes keeps its bound; one that the holder saw named comes, unless the bound says otherwise."""
    if name in args:
        return bool(compile_constraint(read_constraint(bound))(args[name]))
    return name not in named or (isinstance(bound, dict) and "optional" in bound)


def within_caveat(held: Held, caveat: Mapping[str, Any], tool: str, args: Mapping[str, Any]) -> bool:
    rules = [compile_rule(read_rule(rule)) for rule in caveat.get("allow", ()) if matches_tool(rule["tool"], tool)]
    return (
        ("allow" not in caveat or any(permits(rule, args) for rule in rules))
        and held.path[-1] in caveat.get("aud", held.path)
        and held.hops <= caveat.get("depth", 16)
        and ("delegate_to" not in caveat or len(held.path) == 1)  # no service is the worker
        and "net" not in caveat  # no call comes from there
    )


class AtMint:
    """The task's session, as far as an attenuation at the mint needs it."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None

    def attenuate_task(self, task: str, link: str, caveats: Mapping[str, Any]) -> Bundle:
        answer = self._shop.agent.call("POST", f"/v1/tasks/{task}/attenuate", {"link": link, "caveats": caveats}).json()
        if "bundle" not in answer:
            raise AttenuationError(answer["detail"])
        return Bundle.parse(answer["bundle"])


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, valkey: EmbeddedValkey) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("attenuation") / "realm"
    with open_live(folder, valkey.url, name="attenuation", lease_ms=FAST_LEASE_MS) as live:
        yield Shop(live, POLICY)


def reached(shop: Shop, held: Held, then: Mapping[str, Any]) -> Iterator[Held]:
    """A token, what services get for it, and for what a service attenuated before it went on."""
    yield held
    at = held.path[-1]
    for audience in ONWARDS[at] if len(held.path) < MAX_PATH else ():
        answer = shop.exchange(at, held.task.call_token(at, "anything", {}), audience)
        if "bundle" not in answer:
            continue
        got = Held(Task(Bundle.parse(answer["bundle"])), (*held.path, audience), held.hops + 1, held.written)
        yield from reached(shop, got, then)
        if len(held.path) == 1:
            with suppress(AttenuationError):
                yield from reached(shop, got.after(got.task.attenuate(**then), then, 0), {})


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    caveats=st.dictionaries(st.sampled_from(["orders", "payments"]), st.sampled_from(CAVEATS), max_size=1),
    steps=STEPS,
    then=LESS,
)
def test_nothing_that_is_reached_is_wider_than_what_was_written(
    shop: Shop, caveats: dict[str, Any], steps: list[tuple[str, dict[str, Any]]], then: dict[str, Any]
) -> None:
    """Whatever any token allows, of the bundle or got for one of it, is within all that was taken away before."""
    session = AtMint(shop)
    task: Task = StartedTask(shop.start().bundle, session=session)
    held = Held(task, (), 0, ())
    if caveats:
        values = {each: [caveats[each]] if each in caveats else [] for each in task.audiences}
        bundle = session.attenuate_task(task.id, task.link, values)
        written = tuple(Written(caveat, (), 0, of=audience) for audience, caveat in caveats.items())
        held = Held(StartedTask(bundle, session=session), (), 0, written)
    for how, less in steps:
        way = how if isinstance(held.task, StartedTask) or how != "attenuate_for_all" else "attenuate"
        with suppress(AttenuationError):
            given = held.task.delegate(WORKER, **less) if way == "delegate" else getattr(held.task, way)(**less)
            held = held.after(given, less, int(way == "delegate"))
    for audience in held.task.audiences:
        for got in reached(shop, held._replace(path=(audience,)), then):
            at = got.path[-1]
            for tool, args in product(NAMED[at], CALLS):
                code = shop.judge(got.task.call_token(at, tool, args), at, tool, args)
                if code == "ok":
                    assert all(within(got, each, tool, args) for each in got.written), (got, tool, args)
                else:
                    assert code not in ("malformed", "bad_signature", "unknown_caveat", "revoked"), code
