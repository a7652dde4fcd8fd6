# SPDX-License-Identifier: Apache-2.0
"""A holder could fill the tables that all tokens share, because they counted entries and not bytes.

The tables of caveats, constraints and gathered rules were bounded by how many entries they have, not by what these
take: a holder who attenuated a token by rules that each speak of every tool, and asked for a new tool with each, filled
them with 65 MB that ``cache_bytes`` says nothing of.  And a chain whose rule is ``*`` kept the names of 64 tools,
however long: a caller who chooses its tool's name sent a megabyte each time.
"""

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from arx_verifier.constraints import constraint as arguments
from arx_verifier.constraints.constraint import Constraint
from arx_verifier.constraints.rule import Rule
from arx_verifier.token.caveats import Caveat
from arx_verifier.verification import compiled_caveats
from tests.support import access, mint, verifier

pytestmark = pytest.mark.long

TABLES = (
    compiled_caveats.KEPT,
    compiled_caveats.TOGETHER,
    compiled_caveats._GATHERED,
    compiled_caveats.REFUSED,
    compiled_caveats._THIRD_PARTIES,
    arguments._KEPT,
    arguments._SAID,
)
MOST_BYTES = 4_000_000  # with a quarter of what is allowed


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for table in TABLES:
        table.clear()
        monkeypatch.setattr(table, "_most", table._most // 4)
    gc.collect()
    tracemalloc.start()
    yield
    tracemalloc.stop()
    for table in TABLES:
        table.clear()


def every_tool_in_many_rules(_: int) -> list[Caveat]:
    return [Caveat(allow=(*[Rule(tool="*")] * 12, Rule(tool=f"a{place}"))) for place in range(20)]


def a_few_tests_restated(_: int) -> list[Caveat]:
    return [Caveat(allow=(_rule(Constraint(max=1000 + place, optional=True)),)) for place in range(20)]


def new_texts_each_time(number: int) -> list[Caveat]:
    any_of = tuple(f"{number}.{place}" for place in range(13))
    return [Caveat(allow=(_rule(Constraint(any_of=any_of, optional=True)),))]


def new_rules_each_time(number: int) -> list[Caveat]:
    return [
        Caveat(allow=(Rule(tool="*"), *[Rule(tool=f"a{number}.{place}.b{each}") for each in range(15)]))
        for place in range(6)
    ]


def unknown_words(number: int) -> list[Any]:
    return [Unknown(f"{number}" + "x" * 400)]


class Unknown:
    """A caveat that a holder wrote by hand."""

    def __init__(self, word: str) -> None:
        self._word = word

    def encode(self) -> bytes:
        return b'{"%b":1}' % self._word.encode()


def _rule(constraint: Constraint) -> Rule:
    return Rule(tool="*", args=dict.fromkeys("abcd", constraint), open=True)


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(
    "attenuation",
    [every_tool_in_many_rules, a_few_tests_restated, new_texts_each_time, new_rules_each_time, unknown_words],
)
@pytest.mark.parametrize("args", [{}, {"a": False}], ids=["allowed", "refused"])
def test_what_is_kept_for_all_is_bounded_by_what_it_takes(
    attenuation: Callable[[int], list[Any]], args: dict[str, bool]
) -> None:
    """Whatever holders write and callers ask for, the tables stay within their parts, and these within their bytes."""
    checked = verifier(cache_bytes=0)
    before = tracemalloc.get_traced_memory()[0]
    for number in range(130):
        checked.decide(mint().attenuate(*attenuation(number)).encode(), access(f"tool.n{number}", args=args))
        for table in TABLES:
            assert table.parts <= table._most
    checked.decisions.decisions.clear()  # type: ignore[attr-defined]
    gc.collect()
    assert any(TABLES)
    assert tracemalloc.get_traced_memory()[0] - before <= MOST_BYTES


def test_a_tools_name_is_kept_no_longer_than_a_tool_may_be() -> None:
    """What no tool is called is judged by its rules as ever, and not remembered."""
    checked, token = verifier(), mint().encode()
    for number in range(3):
        for _ in range(2):
            assert checked.decide(token, access(f"tool.{number}" + "x" * 100)).code == "ok"
    [kept] = checked._authenticator._wholes.values()
    assert not kept._by_tool
    assert checked.decide(token, access("tool.1")).code == "ok"
    assert list(kept._by_tool) == ["tool.1"]
