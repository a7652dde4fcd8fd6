# SPDX-License-Identifier: Apache-2.0
"""Nothing that a holder or a caller controls takes more than linear work: counted, not timed, at n, 2n and 4n.

Each dimension is measured with words that no earlier one used, so that nothing is met again.  Tests times characters of
arguments is a product, which ``bounds.MAX_WORK`` bounds; here each of both grows alone.  What a regular expression does
inside is not seen here: ``test_patterns`` counts that.
"""

import json
import os
from collections.abc import Callable

import pytest

from arx_verifier import jcs, limits
from arx_verifier.constraints.constraint import Constraint
from arx_verifier.constraints.rule import Rule
from arx_verifier.journal import record
from arx_verifier.journal.decision import Decision
from arx_verifier.journal.record import digest_arguments
from arx_verifier.token.caveats import Caveat
from benchmarks.counting import count
from tests.support import access, forge_caveats, mint, sign, verifier
from tests.verifier.work import (
    _NEW,
    TOOL,
    URL,
    Work,
    address,
    allows,
    argument,
    body,
    caveats,
    constraints,
    constraints_refused,
    decides,
    delegations,
    discharges,
    forwarded,
    glob_mismatch,
    glob_pattern,
    glob_segments,
    half_a_pair,
    handing,
    items,
    items_last,
    items_pinned,
    logic,
    meaning,
    member,
    members,
    members_refused,
    nested,
    nested_discharges,
    new,
    nonces,
    operands,
    presented,
    required_tools,
    requires,
    ruled,
    rules,
    rules_refused,
    target,
    text,
    third_parties,
    unnamed,
)

pytestmark = pytest.mark.spec("7.4")

NO = "argument_not_allowed"
LINEAR = 2.35  # from 2n to 4n twice as much is added as from n to 2n; a logarithm's worth is let through
SLACK = 400  # bytecodes: a branch taken once
DIMENSIONS: dict[str, tuple[Callable[[int], Work], int]] = {
    "caveats": (caveats, 14),
    "rules": (rules, 20),
    "rules, parent seen": (lambda n: rules(n, seen=True), 20),
    "rules, none holds": (rules_refused, 20),
    "allows": (allows, 12),
    "allows, parent seen": (lambda n: allows(n, seen=True), 12),
    "delegations": (delegations, 4),
    "delegations, parent seen": (lambda n: delegations(n, seen=True), 4),
    "constraints": (constraints, 40),
    "constraints, parent seen": (lambda n: constraints(n, seen=True), 40),
    "constraints, all wrong": (constraints_refused, 40),
    "one_of": (operands("one_of", lambda words: words[-1]), 80),
    "none_of": (operands("none_of", lambda words: "other"), 80),
    "contains": (operands("contains", lambda words: words[::-1]), 80),
    "subset": (operands("subset", lambda words: words[::-1] * 2), 80),
    "any_of": (logic("any_of", 7), 30),
    "all_of": (logic("all_of", 7), 30),
    "stars of a glob": (glob_pattern, 50),
    "text that nearly matches a glob": (glob_mismatch, 2000),
    "segments of a glob": (glob_segments, 60),
    "text under a glob": (text(lambda a: (Constraint(glob=f"a*{new()}"), a), "argument_not_allowed"), 8000),
    "text under a subpath": (text(lambda a: (Constraint(subpath="/a"), f"/a/{a}")), 8000),
    "segments under a subpath": (text(lambda a: (Constraint(subpath="/a"), "/a" * len(a))), 4000),
    "dots under a subpath": (text(lambda a: (Constraint(subpath="/a"), f"/a/{'. ' * len(a)}b")), 4000),
    "path of a URL": (text(lambda a: (URL, f"https://x.example.com/a/{a}")), 2000),
    "labels of a URL's host": (
        text(lambda a: (URL, f"https://{'a.' * len(a)}example.org/a"), "argument_not_allowed"),
        1000,
    ),
    "user of a URL": (text(lambda a: (URL, f"https://{a}@x.example.com/a"), "argument_not_allowed"), 2000),
    "scheme of a URL": (text(lambda a: (URL, f"{a}://x.example.com/a"), "argument_not_allowed"), 2000),
    "text under a network": (
        text(lambda a: (Constraint(cidr="10.0.0.0/8"), "1" * len(a)), "argument_not_allowed"),
        8000,
    ),
    "digits under a range": (text(lambda a: (Constraint(max="9.5"), "9" * len(a) + "9"), "argument_not_allowed"), 8000),
    "text under a length": (text(lambda a: (Constraint(max_length=1 << 20), a)), 8000),
    "members of an object": (members, 40),
    "members that no constraint names": (members_refused, 200),
    "items of a list, all wrong": (items, 100),
    "items of a list, the last wrong": (items_last, 100),
    "items of a pinned list": (items_pinned, 60),
    "items of a list of fractions": (
        lambda n: ruled({"a": Constraint(subset=(next(_NEW),))}, {"a": [float(at) for at in range(n)]}, NO),
        400,
    ),
    "nesting": (nested, 3),
    "arguments": (lambda n: decides(mint(), access(TOOL, {f"a{number}": number for number in range(n)})), 400),
    "arguments that no rule names": (unnamed, 400),
    "text": (argument(lambda n: "x" * n), 16_000),
    "text that is escaped": (argument(lambda n: '"\\\n' * n), 8000),
    "text beyond ASCII": (argument(lambda n: "\u20ac" * n), 8000),
    "half of a surrogate pair": (half_a_pair, 8000),
    "integers": (argument(lambda n: list(range(n))), 1000),
    "fractions": (argument(lambda n: [number + 0.1 for number in range(n)]), 400),
    "names beyond ASCII": (argument(lambda n: {f"\u20ac{number}": 1 for number in range(n)}), 400),
    "names beyond U+FFFF": (argument(lambda n: {f"\U0001f600{number}": 1 for number in range(n)}), 400),
    "lists": (argument(lambda n: [[]] * n), 800),
    "body of members": (body(lambda n: json.dumps({f"a{number}": number for number in range(n)})), 1000),
    "body of long numbers": (body(lambda n: '{"a":' + "1" * n + "}"), 8000),
    "body of long fractions": (body(lambda n: '{"a":0.' + "1" * n + "}"), 8000),
    "body of many fractions": (body(lambda n: '{"a":[' + "0.1," * n + "1]}"), 1000),
    "body of brackets": (body(lambda n: '{"a":' + "[" * n), 60_000),
    "body of pairs of brackets": (body(lambda n: '{"a":[' + "[]," * n + "1]}"), 1000),
    "body of one name": (body(lambda n: "{" + '"a":1,' * n + '"a":1}'), 1000),
    "body of surrogates": (body(lambda n: '{"a":"' + "\\ud83d\\ude00" * n + '"}'), 1000),
    "body of spaces": (body(lambda n: '{"a":' + " " * n + "1}"), 8000),
    "header of letters": (presented(lambda n: "a" * n), 1700),
    "header of a token's letters": (presented(lambda n: "arx1_" + "A" * n), 1700),
    "header of discharges": (presented(lambda n: "arx1_" + "A~" * n), 800),
    "header of empty packets": (presented(lambda n: "arx1_" + "AgAA" * n), 400),
    "header of spaces": (presented(lambda n: " " * n + "a"), 1700),
    "header beyond ASCII": (presented(lambda n: "\u20ac" * n), 800),
    "header that is too long": (presented(lambda n: "arx1_" + "A" * n), 20_000),
    "caveats that are forged": (lambda n: presented(lambda _: forge_caveats(*[b'{"exp":1}'] * n)[:-4] + "AAAA")(n), 14),
    "third-party caveats": (third_parties, 14),
    "demands": (requires, 7),
    "requires, parent seen": (lambda n: requires(n, seen=True), 7),
    "tools of a third-party caveat": (required_tools, 80),
    "discharges": (discharges, 2),
    "discharges of discharges": (nested_discharges, 2),
    "caveats of a discharge": (lambda n: discharges(1, caveats=n), 12),
    "networks": (member(lambda n: Caveat(net=(*map(address, range(n)), "192.0.2.0/24"))), 40),
    "audiences": (member(lambda n: Caveat(aud=(*[new() for _ in range(n)], "orders"))), 80),
    "patterns": (member(lambda n: Caveat(delegate_to=(*[new() for _ in range(n)], "acme/**"))), 80),
    "proofs that are required": (member(lambda n: Caveat(require=("call",) * n)), 80),
    "nonces": (nonces, 500),
    "segments of a path": (meaning(lambda n: ("/orders" + "/a" * n, b"")), 1000),
    "escapes of a path": (meaning(lambda n: ("/orders/" + "%41" * n, b"")), 1000),
    "fields of a query": (meaning(lambda n: ("/orders/1", b"&".join(b"a%d=1" % i for i in range(n)))), 60),
    "fields of a query that is too long": (meaning(lambda n: ("/orders/1", b"a=1&" * n)), 1000),
    "escapes of a query": (meaning(lambda n: ("/orders/1", b"a=" + b"%41" * n)), 1000),
    "proxies": (forwarded, 100),
    "target": (target, 8000),
    "a holder's caveats": (handing, 14),
    "arguments of a record": (lambda n: lambda: digest_arguments({"a": ["x"] * n}), 1000),
    "canonical form of a list": (lambda n: lambda: jcs.jcs(["x", 1.5] * n), 400),
}


@pytest.mark.parametrize("name", DIMENSIONS)
def test_work_grows_no_faster_than_its_input(name: str) -> None:
    """
    Four times as much of anything that others control takes at most four times the work, and what is fixed once.
    """
    make, size = DIMENSIONS[name]
    for warm in (1, 2):
        make(warm)()
    record._SALTS.extend(os.urandom(16) for _ in range(100))  # none is counted that draws the next ones
    least, middle, most = (count(make(size * times)).work for times in (1, 2, 4))
    assert most - middle <= LINEAR * max(0, middle - least) + SLACK, (least, middle, most)


def test_the_judge_sees_what_is_worse() -> None:
    """
    A comparison of each with each would not pass.
    """

    def square(n: int) -> Work:
        return lambda: [(a, b) for a in range(n) for b in range(n)]

    least, middle, most = (count(square(20 * times)).work for times in (1, 2, 4))
    assert most - middle > LINEAR * (middle - least) + SLACK


def test_tests_times_characters_are_bounded() -> None:
    """
    Many rules and long arguments multiply; their product is refused before it is worked off.
    """
    token = mint(Caveat(allow=tuple(Rule(tool=TOOL, args={"a": Constraint(glob=f"{new()}*")}) for _ in range(60))))
    request = access(TOOL, {"a": "x" * (limits.MAX_WORK // 60)})
    decision: Decision = verifier().decide(sign(token, request), request)
    assert decision.code == "argument_not_allowed"
    assert decision.failures[0].rule == "size of the arguments"


def test_counting_sees_one_step_more() -> None:
    """
    What counts can fail: one call more, one loop more and one longer text are seen, and the same work counts the same.
    """

    def work(times: int, text: str = "a" * 400) -> int:
        return sum(len(text.lower()) for _ in range(times))

    few, again, more = count(lambda: work(3)), count(lambda: work(3)), count(lambda: work(4))
    assert few == again
    assert more.bytecodes > few.bytecodes
    assert more.calls == few.calls + 2
    assert more.characters == few.characters + 400
