# SPDX-License-Identifier: Apache-2.0
"""A holder could fill a verifier's memory by attenuation, or evict all other holders' tokens from its cache.

A holder of one token that allows anything attenuated it again and again, each time by an ``any_of`` of two thousand
operands.  Each kept chain took 630 kB and was charged as 10 kB, so that a cache of 32 MB grew to 2 GB.  Constraints
below 256 bytes, and lists of ``delegate_to``, went the same way into tables of their own.  And tokens shown whole
pushed out every parent and were never pushed out themselves: all other holders paid for a cold check on every call, for
good.
"""

import gc
import tracemalloc
from collections.abc import Callable, Iterator

import pytest

from arx_verifier import names
from arx_verifier.constraints import constraint as arguments
from arx_verifier.constraints.constraint import Constraint, ConstraintLike
from arx_verifier.constraints.rule import Rule
from arx_verifier.limits import MAX_TOOL_PARTS
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.discharge import ThirdPartyCaveat, require_discharge
from arx_verifier.token.macaroon import Macaroon
from tests.support import ANYTHING, access, mint, sign, verifier

CACHE_BYTES = 1_000_000


def many_operands(number: int) -> Caveat:
    """One argument that may be left out, and two thousand tests of it."""
    return Caveat(
        allow=(Rule(tool="*", args={"z": Constraint(any_of=(*(1,) * 2200, number), optional=True)}, open=True),)
    )


def many_objects(number: int) -> Caveat:
    """Objects in objects, which no comma separates."""
    args: dict[str, ConstraintLike] = {}
    for at in range(50):
        inner = Constraint(fields={"a": Constraint(fields={"a": Constraint(each=Constraint(max=number * 100 + at))})})
        args[f"a{at}"] = Constraint(fields={"a": inner}, optional=True)
    return Caveat(allow=(Rule(tool="*", args=args, open=True),))


def many_rules(number: int) -> Caveat:
    """The same rule, three hundred times."""
    return Caveat(allow=(*(Rule(tool="*"),) * 300, Rule(tool=f"x{number}")))


def many_networks(number: int) -> Caveat:
    """The caller's network, and all that there is room for."""
    return Caveat(net=("192.0.2.7/32", *(f"10.{number}.{low // 250}.{low % 250}/32" for low in range(270))))


def many_members(number: int) -> Caveat:
    """What an ordinary delegation says."""
    return Caveat(allow=tuple(Rule(tool=tool) for tool in (f"x{number}", "orders.get")), exp=2**52, nbf=0, depth=0)


def many_requires(number: int) -> Macaroon:
    """What as many third parties as there is room for have to agree to."""
    token = mint()
    for each in range(12):
        raw = ThirdPartyCaveat(f"{each}.{number}".ljust(160, "x"), ("x.y",)).encode()
        token = require_discharge(token, raw, bytes(32))
    return token


def many_tools(number: int) -> Macaroon:
    """One who has to agree to calls of a thousand tools."""
    return require_discharge(mint(), ThirdPartyCaveat(str(number), ("a",) * 1000).encode(), bytes(32))


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(
    "attenuated",
    [
        *(
            lambda number, say=say: mint().attenuate(say(number))
            for say in (many_operands, many_objects, many_rules, many_networks)
        ),
        *(lambda number: mint().attenuate(many_members(number)), many_requires, many_tools),
    ],
)
def test_what_is_kept_is_charged_by_what_it_takes(attenuated: Callable[[int], Macaroon]) -> None:
    """However a holder attenuates, the cache takes about as much as it was given."""
    checked = verifier(cache_bytes=CACHE_BYTES)
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(40):
        assert checked.decide(attenuated(number).encode(), access()).code == "ok"
    checked.decisions.decisions.clear()  # type: ignore[attr-defined]
    arguments._KEPT.clear()  # a table of all tokens, with a bound of its own
    gc.collect()
    assert checked._authenticator._cached <= CACHE_BYTES
    assert tracemalloc.get_traced_memory()[0] - before <= 1.6 * checked._authenticator._cached + 200_000


def test_short_constraints_of_many_tests_are_not_kept() -> None:
    """What one process keeps for all tokens is bounded by what it takes too."""
    for number in range(20):
        constraint = Constraint(any_of=(*(1,) * 100, number), optional=True)
        token = mint().attenuate(Caveat(allow=(Rule(tool="*", args={"z": constraint}, open=True),)))
        assert verifier().decide(token.encode(), access()).code == "ok"
    assert all(kept.weight <= 16 for kept in arguments._KEPT.values())


def test_long_lists_of_names_are_not_kept() -> None:
    """A list of patterns as long as a token is compared, and not remembered for all tokens."""
    before = names._matches_any_path.cache_info().currsize
    for number in range(20):
        patterns = ("acme/**", *(f"a{number}/{other}" for other in range(500)))
        token = mint(depth=2).attenuate(Caveat(delegate_to=patterns)).delegate("acme/worker")
        assert verifier().decide(token.encode(), access()).code == "ok"
        refused = mint(depth=2).attenuate(Caveat(delegate_to=patterns)).delegate("other/worker")
        assert verifier().decide(refused.encode(), access()).code == "name_not_allowed"
    assert names._matches_any_path.cache_info().currsize == before


def test_a_chain_of_many_rules_keeps_few_tools() -> None:
    """The rules gathered for each tool are bounded together, not tool by tool."""
    checked = verifier()
    parent = mint().attenuate(many_rules(0)).encode()
    for number in range(40):
        assert checked.decide(parent, access(f"tool.n{number}")).code == "ok"
    [kept] = checked._authenticator._wholes.values()
    assert len(kept._by_tool) * kept.parts <= MAX_TOOL_PARTS


def test_no_caller_keeps_the_cache_empty_for_others() -> None:
    """However many tokens one holder shows whole, another's parent is found again at its next call."""
    checked = verifier(cache_bytes=100_000)
    for number in range(60):
        whole: Macaroon = mint(ANYTHING, session=f"s-{number}")
        assert checked.decide(whole.encode(), access()).code == "ok"
    parent = mint(session="s-other")
    assert checked.decide(sign(parent, access()), access()).code == "ok"
    assert len(checked._authenticator._parents) == 1
    assert checked._authenticator._wholes
