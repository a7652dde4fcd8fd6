# SPDX-License-Identifier: Apache-2.0
"""Makers of work that grows with ``n``, one for each thing that a holder or a caller controls; ``test_work`` counts it.

Each uses words that no earlier one used, so that nothing is met again.
"""

import contextlib
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from arx_verifier.constraints import constraint as arguments
from arx_verifier.constraints.constraint import Constraint, Url
from arx_verifier.constraints.rule import Rule
from arx_verifier.enforcement.base.client_address import Peers
from arx_verifier.enforcement.base.enforcement import Enforcement, RefusedCall
from arx_verifier.enforcement.base.problems import answer
from arx_verifier.enforcement.base.routes import RouteMap, collect_headers
from arx_verifier.errors import RequestError
from arx_verifier.request import AccessRequest, HttpCall, read_json_object
from arx_verifier.token import wire
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.discharge import ThirdPartyCaveat, bind, issue_discharge, join, require_discharge
from arx_verifier.token.macaroon import Macaroon
from arx_verifier.verification.nonces import MemoryNonces
from arx_verifier.verification.verifier import Verifier
from tests.support import ANYTHING, AT, access, http_call, mint, sign, verifier

Work = Callable[[], Any]
TOOL = "orders.get"
_NEW = itertools.count()


def new() -> str:
    """A word that no token has said yet."""
    return f"w{next(_NEW):06}"


def decides(token: Macaroon, request: AccessRequest, code: str = "ok", *, seen: bool = False) -> Work:
    """One call of a token whose parent was not met before, or was met twice."""
    checked = verifier()
    for _ in range(2 if seen else 0):
        assert checked.decide(sign(token, request), request).code in (code, "ok")
    text = sign(token, request)

    def work() -> None:
        decision = checked.decide(text, request)
        assert decision.code == code, (decision.code, decision.failures)
        decision.pack()
        if code != "ok":
            answer(code, realm="acme", failures=decision.all_failures(), decision=decision.id)

    return work


def refuses(checked: Verifier, shown: str, request: AccessRequest, *codes: str) -> None:
    """Present a text that is refused."""
    assert checked.decide(shown, request).code in codes


def screened(checked: Verifier, header: bytes) -> None:
    """Present a header that is refused."""
    with pytest.raises(RefusedCall) as refused:
        Enforcement(checked).screen(header)
    assert refused.value.code in ("malformed", "bad_signature")


def ruled(args: dict[str, Any], called: dict[str, Any], code: str = "ok", *, seen: bool = False) -> Work:
    """One call under one rule of these constraints."""
    return decides(mint(Caveat(allow=(Rule(tool=TOOL, args=args),))), access(TOOL, called), code, seen=seen)


def caveats(n: int) -> Work:
    """Caveats of one member."""
    return decides(mint(ANYTHING, *[Caveat(exp=AT + 7_000_000 + next(_NEW)) for _ in range(n)]), access())


def rules(n: int, *, seen: bool = False) -> Work:
    """Rules of one ``allow``, the last of which holds."""
    wanted = [new() for _ in range(n)]
    allow = tuple(Rule(tool=TOOL, args={"a": word}) for word in wanted)
    return decides(mint(Caveat(allow=allow)), access(TOOL, {"a": wanted[-1]}), seen=seen)


def rules_refused(n: int) -> Work:
    """Rules of one ``allow``, none of which holds: each is reported."""
    allow = tuple(Rule(tool=TOOL, args={"a": new()}) for _ in range(n))
    return decides(mint(Caveat(allow=allow)), access(TOOL, {"a": "other"}), "argument_not_allowed")


def allows(n: int, *, seen: bool = False) -> Work:
    """Caveats with a rule each, which are merged."""
    attenuate = [Caveat(allow=(Rule(tool=TOOL, args={"a": Constraint(max=10_000 + next(_NEW))}),)) for _ in range(n)]
    return decides(mint(*attenuate), access(TOOL, {"a": 1}), seen=seen)


def delegations(n: int, *, seen: bool = False) -> Work:
    """Links, names and their targets."""
    token = mint(ANYTHING, depth=16)
    for _ in range(n):
        token = token.delegate(f"acme/{new()}")
    return decides(token, access(), seen=seen)


def constraints(n: int, *, seen: bool = False) -> Work:
    """Constraints of one rule, an argument each."""
    args = {new(): next(_NEW) for _ in range(n)}
    return ruled(dict(args), args, seen=seen)


def constraints_refused(n: int) -> Work:
    """Arguments that are all wrong."""
    args = {new(): next(_NEW) for _ in range(n)}
    return ruled(dict(args), dict.fromkeys(args, -1), "argument_not_allowed")


def operands(member: str, value: Callable[[list[str]], Any]) -> Callable[[int], Work]:
    """Operands of one list."""

    def make(n: int) -> Work:
        words = [new() for _ in range(n)]
        return ruled({"a": Constraint(**{member: tuple(words)})}, {"a": value(words)})

    return make


def logic(member: str, at: int) -> Callable[[int], Work]:
    """Parts of ``any_of``, or of ``all_of``, each of which is tried."""

    def make(n: int) -> Work:
        parts = tuple(Constraint(max=20_000 + next(_NEW)) for _ in range(n))
        leaves = tuple(arguments.FlatConstraint(max=part.max) for part in parts[:-1]) if member == "all_of" else ()
        if member == "any_of":
            leaves = tuple(arguments.FlatConstraint(equal=new()) for _ in range(n - 1))
        return ruled({"a": Constraint(**{member: (*leaves, arguments.FlatConstraint(min=at))})}, {"a": at})

    return make


def glob_pattern(n: int) -> Work:
    """Stars of a pattern, each of which is looked for."""
    word = new()
    return ruled({"a": Constraint(glob=f"{word}{'*a' * n}*")}, {"a": word + "a" * 1000})


def glob_mismatch(n: int) -> Work:
    """A text that nearly matches everywhere: leftmost search never comes back."""
    args = {"a": Constraint(glob=f"{new()}*ab*ab*ac*")}
    return ruled(args, {"a": "w" + "ab" * n}, "argument_not_allowed")


def glob_segments(n: int) -> Work:
    """Segments of a pattern, and as many of a text."""
    word = new()
    return ruled({"a": Constraint(glob=word + "/a*b*" * n)}, {"a": word + "/aXb" * n})


def text(test: Callable[[str], tuple[Constraint, str]], code: str = "ok") -> Callable[[int], Work]:
    """The length of a text that one constraint looks at."""

    def make(n: int) -> Work:
        constraint, value = test("a" * n)
        return ruled({"a": constraint}, {"a": value}, code)

    return make


def members(n: int) -> Work:
    """Members of an object, each of which has a constraint."""
    value = {new(): next(_NEW) for _ in range(n)}
    return ruled({"a": Constraint(fields=dict(value))}, {"a": value})


def members_refused(n: int) -> Work:
    """Members of an object that no constraint names."""
    return ruled({"a": Constraint(fields={new(): 1})}, {"a": {new(): 1 for _ in range(n)}}, "argument_not_allowed")


def items(n: int) -> Work:
    """Items of a list, each of which is an object."""
    return ruled(
        {"a": Constraint(each=Constraint(fields={new(): 1}, open=True))}, {"a": [{}] * n}, "argument_not_allowed"
    )


def items_pinned(n: int) -> Work:
    """Items of a pinned list, the last of which is wrong."""
    words = [new() for _ in range(n)]
    return ruled({"a": Constraint(each=tuple(words))}, {"a": [*words[:-1], "x"]}, "argument_not_allowed")


def items_last(n: int) -> Work:
    """Items of a list, the last of which is wrong."""
    return ruled({"a": Constraint(each=Constraint(max=next(_NEW)))}, {"a": [*[0] * n, "x"]}, "argument_not_allowed")


def nested(n: int) -> Work:
    """Containers in each other."""
    value: Any = 1
    for _ in range(n):
        value = {"a": [value]}
    return decides(mint(), access(TOOL, {"a": value}))


def argument(make_value: Callable[[int], Any], code: str = "ok") -> Callable[[int], Work]:
    """The size of what a call carries, whatever its rules."""
    return lambda n: decides(mint(), access(TOOL, {"a": make_value(n)}), code)


def half_a_pair(n: int) -> Work:
    """The length of a text that has no UTF-8, which no holder could have signed."""
    checked, signed = verifier(), sign(mint(), access(TOOL, {"a": "x"}))
    return lambda: refuses(checked, signed, access(TOOL, {"a": "x" * n + "\ud800"}), "malformed_request")


def unnamed(n: int) -> Work:
    """Arguments that a closed rule does not name."""
    return ruled({new(): 1}, {f"x{number}": number for number in range(n)}, "argument_not_allowed")


def body(make_body: Callable[[int], str]) -> Callable[[int], Work]:
    """The size of a JSON body, also of one that is refused."""

    def make(n: int) -> Work:
        raw = make_body(n).encode("utf-8", "surrogatepass")

        def work() -> None:
            with contextlib.suppress(RequestError):
                read_json_object(raw)

        return work

    return make


def presented(make_text: Callable[[int], str]) -> Callable[[int], Work]:
    """The length of any content of the header."""

    def make(n: int) -> Work:
        checked, header = verifier(), b"Bearer " + make_text(n).encode()
        scope: Any = {"headers": [(b"host", b"a"), (b"authorization", header)]}
        return lambda: screened(checked, collect_headers(scope["headers"])[b"authorization"])

    return make


def third_parties(n: int) -> Work:
    """Caveats that wait for a discharge."""
    token = mint()
    parsed = wire.split_body(token.to_bytes())
    raw = parsed[0] + b"".join(
        wire.caveat_packet(wire.ThirdPartyPacket(b"https://a.example", bytes(16), bytes(40))) for _ in range(n)
    )
    checked, shown = verifier(), wire.TOKEN_PREFIX + wire.text_of(raw + wire.TAIL + bytes(32))
    return lambda: refuses(checked, shown, access(), "bad_signature")


def requires(n: int, *, seen: bool = False) -> Work:
    """Third-party caveats that nothing answers, of this call's tool and of others."""
    token = mint()
    for _ in range(n):
        token = require_discharge(token, ThirdPartyCaveat(new(), (new(), TOOL)).encode(), bytes(32))
    return decides(token, access(), "missing_discharge", seen=seen)


def required_tools(n: int) -> Work:
    """Tools of one third-party caveat."""
    raw = ThirdPartyCaveat(new(), tuple(new() for _ in range(n))).encode()
    return decides(require_discharge(mint(), raw, bytes(32)), access())


def discharges(n: int, *, caveats: int = 1) -> Work:
    """Discharges of one credential, or caveats of the only one."""
    token, names = mint(), [ThirdPartyCaveat(new()).encode() for _ in range(n)]
    for raw in names:
        token = require_discharge(token, raw, bytes(32))
    needed = [Caveat(exp=AT + 7_000_000 + next(_NEW)) for _ in range(caveats)]
    bound = [bind(issue_discharge(raw, bytes(32), realm="acme", caveats=(*needed,)), token) for raw in names]
    checked, text = verifier(), join(token.encode(), bound)

    def work() -> None:
        assert checked.decide(text, access()).code == "ok"

    return work


def nested_discharges(n: int) -> Work:
    """A discharge that requires another, and so on; too deep or not."""
    names = [ThirdPartyCaveat(new()).encode() for _ in range(n)]
    token = require_discharge(mint(), names[0], bytes(32))
    made = [issue_discharge(raw, bytes(32), realm="acme") for raw in names]
    for at, raw in enumerate(names[1:]):
        made[at] = require_discharge(made[at], raw, bytes(32))
    checked, text = verifier(), "~".join([token.encode(), *[bind(each, token).encode() for each in made]])
    return lambda: refuses(checked, text, access(), "ok", "malformed")


def member(make_caveat: Callable[[int], Caveat], code: str = "ok") -> Callable[[int], Work]:
    """The length of a list in a caveat."""
    return lambda n: decides(mint(ANYTHING, make_caveat(n)).delegate("acme/a"), access(), code)


def nonces(n: int) -> Work:
    """Calls of one second, and the next second, which forgets them."""

    def work() -> None:
        store = MemoryNonces(now_ms=AT)
        for number in range(n):
            assert store.spend(number.to_bytes(8, "big"), AT + 1, AT)
        assert store.spend(b"next", AT + 60_000, AT + 30_000)
        assert len(store) == 1

    return work


def meaning(make_scope: Callable[[int], tuple[str, bytes]]) -> Callable[[int], Work]:
    """The length of path and query."""
    routes = RouteMap({"GET /orders/{order_id}": TOOL})

    def make(n: int) -> Work:
        path, query = make_scope(n)
        scope: Any = {"method": "GET", "path": path, "raw_path": path.encode(), "query_string": query, "headers": []}

        def work() -> None:
            with contextlib.suppress(RequestError):
                routes(scope, b"")

        return work

    return make


def forwarded(n: int) -> Work:
    """Addresses that a chain of proxies, or a client that pretends to be one, has named."""
    numbers = [next(_NEW) for _ in range(n)]
    peers, named = Peers(["10.0.0.0/8"]), ", ".join(f"10.{number // 250}.{number % 250}.7" for number in numbers)
    return lambda: peers.of("10.1.1.1", [named])


def target(n: int) -> Work:
    """The target of an HTTP call, under its proof."""
    request = access(TOOL, {}, http=HttpCall("GET", b"/" + b"a" * n, http_call().body_digest))
    return decides(mint(), request)


def handing(n: int) -> Work:
    """What a holder does with a token of so many caveats: read, attenuate, write, sign."""
    written = mint(ANYTHING, *[Caveat(exp=AT + 1000 + number) for number in range(n)]).encode()
    return lambda: sign(Macaroon.parse(written).delegate("acme/a", Caveat(exp=AT + 900)), access())


def address(number: int) -> str:
    """A network of its own."""
    return f"10.{number // 250}.{number % 250}.0/24"


URL = Constraint(url=Url(scheme="https", host="*.example.com", path="/a"))
