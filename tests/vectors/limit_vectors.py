# SPDX-License-Identifier: Apache-2.0
"""Vectors on both sides of each limit (SPEC 4.4, 6, 7.4 and 14), and signatures at the edge of Ed25519 (SPEC 16.1)."""

from typing import Any, ClassVar

from tests.vectors import curve
from tests.vectors.discharge_vectors import REFUND, named
from tests.vectors.form_vectors import Vectors, vector
from tests.vectors.holder_vectors import REQUEST, mixed_key
from tests.vectors.second import (
    ANYTHING,
    AT,
    FIRST,
    HOP,
    SECOND,
    Holder,
    Token,
    bound,
    bound_call,
    discharge,
    hop,
    joined,
    mint,
    mint_bound,
    requiring,
    text,
)

NO, YES, WRONG = "argument_not_allowed", "grant", "malformed"
FACE = "\U0001f600"


def vectors() -> Vectors:
    """All of this file."""
    return names() | members() | chains() | credentials() | values() | work() | signatures()


def after(*caveats: Any, **changes: Any) -> Token:
    """A token that allows anything, and then these caveats."""
    return mint(ANYTHING, *caveats, **changes)


def names() -> Vectors:
    """SPEC 4.4."""
    path, eight = "a" * 64, "/".join("a" * 8)
    to: dict[str, Any] = {"hop": HOP}
    long = "t" * 96
    cases: dict[str, tuple[Token, str, str]] = {
        "agent-64": (mint(agent=path), YES, "64 bytes"),
        "agent-65": (mint(agent=path + "a"), WRONG, "65 bytes"),
        "agent-8": (mint(agent=eight), YES, "eight segments"),
        "agent-9": (mint(agent=eight + "/a"), WRONG, "nine segments"),
        "agent-dot": (mint(agent="acme/.x"), WRONG, "a segment begins with a letter or a digit"),
        "agent-last-slash": (mint(agent="acme/"), WRONG, "an empty segment"),
        "agent-line-end": (mint(agent="acme/x\n"), WRONG, "a line end behind"),
        "to-64": (after(to | {"to": path}), YES, "64 bytes"),
        "to-65": (after(to | {"to": path + "a"}), WRONG, "65 bytes"),
        "to-8": (after(to | {"to": eight}), YES, "eight segments"),
        "to-9": (after(to | {"to": eight + "/a"}), WRONG, "nine segments"),
        "to-star": (after(to | {"to": "acme/*"}), WRONG, "a pattern is no path"),
        "pattern-8": (after({"delegate_to": ["/".join("*" * 7) + "/**"]}), YES, "eight segments"),
        "pattern-9": (after({"delegate_to": ["/".join("*" * 8) + "/**"]}), WRONG, "nine segments"),
        "pattern-65": (after({"delegate_to": [path + "a"]}), WRONG, "65 bytes"),
        "pattern-inside": (after({"delegate_to": ["acme/**/x"]}), WRONG, "two stars are the last segment"),
        "pattern-part": (after({"delegate_to": ["acme/x*"]}), WRONG, "a star is a whole segment"),
        "pattern-any": (after({"delegate_to": ["**"]}, to | {"to": "other/x"}), YES, "every path"),
        "tool-96": (mint({"allow": [{"tool": "*"}, {"tool": long}]}), YES, "96 characters"),
        "tool-97": (mint({"allow": [{"tool": "*"}, {"tool": long + "t"}]}), WRONG, "97 characters"),
        "tool-empty": (mint({"allow": [{"tool": "*"}, {"tool": ""}]}), WRONG, "no name"),
        "tool-empty-part": (mint({"allow": [{"tool": "*"}, {"tool": "a..b"}]}), WRONG, "an empty part"),
        "tool-star-first": (mint({"allow": [{"tool": "*"}, {"tool": "*.a"}]}), WRONG, "a star is the last part"),
        "tool-star-part": (mint({"allow": [{"tool": "*"}, {"tool": "a*"}]}), WRONG, "a star is a whole part"),
        "tool-two-stars": (mint({"allow": [{"tool": "*"}, {"tool": "a.*.*"}]}), WRONG, "one star"),
        "tool-characters": (mint({"allow": [{"tool": "*"}, {"tool": "A_b/c:d-e.0"}]}), YES, "every kind of character"),
        "tool-space": (mint({"allow": [{"tool": "*"}, {"tool": "a b"}]}), WRONG, "a space"),
        "session-64": (mint(session="s" * 64), YES, "64 characters"),
        "session-65": (mint(session="s" * 65), WRONG, "65 characters"),
        "task-64": (mint(task="t" * 64), YES, "64 characters"),
        "policy-64": (mint(policy="p" * 64), YES, "64 characters"),
        "policy-65": (mint(policy="p" * 65), WRONG, "65 characters"),
    }
    return {f"limit-{name}": vector("4.4", expect, token, why) for name, (token, expect, why) in cases.items()}


def members() -> Vectors:
    """SPEC 4.1 and 6.1."""
    name, operators = "a" * 64, {"operators": ["a" * 64]}
    cases: dict[str, tuple[Token, str, str]] = {
        "depth-16": (mint(depth=16), YES, "16 delegations"),
        "depth-17": (mint(depth=17), WRONG, "17 delegations"),
        "caveat-depth-16": (after({"depth": 16}), YES, "16 delegations"),
        "caveat-depth-17": (after({"depth": 17}), WRONG, "17 delegations"),
        "fresh-60001": (after({"fresh": 60_001}), WRONG, "above 60 s"),
        "once-64": (after({"once": [name, AT]}), YES, "a name of 64 characters"),
        "once-65": (after({"once": [name + "a", AT]}), WRONG, "a name of 65 characters"),
        "once-eight": (after(*({"once": [f"a-{n}", AT]} for n in range(8))), YES, "eight"),
        "once-60-s-ahead": (after({"once": ["a-1", AT + 60_000]}), "store_unavailable", "60 s ahead"),
        "task-caveat-64": (after({"task": name}), YES, "64 characters"),
        "task-caveat-65": (after({"task": name + "a"}), WRONG, "65 characters"),
        "operator-64": (after(operators), YES, "64 characters"),
        "operator-65": (after({"operators": ["a" * 65]}), WRONG, "65 characters"),
        "operator-slash": (after({"operators": ["a/b"]}), WRONG, "no such character"),
        "aud-64": (after({"aud": [name, "orders"]}), YES, "a text of 64 characters"),
        "aud-65": (after({"aud": [name + "a", "orders"]}), WRONG, "a text of 65 characters"),
        "aud-empty": (after({"aud": ["", "orders"]}), WRONG, "a text without characters"),
        "aud-none": (after({"aud": []}), WRONG, "an empty list"),
        "net-none": (after({"net": []}), WRONG, "an empty list"),
        "require-none": (after({"require": []}), WRONG, "an empty list"),
        "delegate-to-none": (after({"delegate_to": []}), WRONG, "an empty list"),
        "exp-largest": (after({"exp": 2**53 - 1}), YES, "the largest time"),
        "exp-0": (after({"exp": 0}), "expired", "the first time"),
        "nbf-0": (after({"nbf": 0}), YES, "the first time"),
        "hop-13": (after({"hop": HOP + "A", "to": "acme/w"}), WRONG, "13 characters"),
        "hop-11": (after({"hop": HOP[:-1], "to": "acme/w"}), WRONG, "11 characters"),
        "id-21": (mint(id="A" * 21), WRONG, "21 characters"),
        "id-loose": (mint(id="A" * 21 + "B"), WRONG, "bits behind the last byte"),
        "vouched-17": (mint_bound(vouched=17), WRONG, "17 delegations"),
    }
    return {f"limit-{name}": vector("6.1", expect, token, why) for name, (token, expect, why) in cases.items()}


def hops(count: int) -> list[dict[str, Any]]:
    """As many delegations."""
    return [{"hop": text(f"hop-{number:05d}".encode()), "to": "acme/w"} for number in range(count)]


def chains() -> Vectors:
    """SPEC 14: delegations, discharges, nesting."""
    token = requiring(mint())
    many = mint()
    for number in range(8):
        many = requiring(many, named(f"d{number}"))
    eight = [bound(discharge(third_party=named(f"d{number}")), many) for number in range(8)]
    deep = [discharge(third_party=named(f"d{at}")) for at in range(4)]
    deep = [*(requiring(each, named(f"d{at + 1}")) for at, each in enumerate(deep[:3])), deep[3]]
    root = requiring(mint(), named("d0"))
    full = token.with_caveats(*({"exp": AT + 1000 + n} for n in range(60)))
    ends = [{"exp": AT + 500 + n} for n in range(3)]
    nested: Any = {"any_of": [{"equal": ["a"]}]}
    for _ in range(4):
        nested = {"fields": {"a": nested}}
    made: dict[str, tuple[str | Token, str, str, dict[str, Any]]] = {
        "hops-16": (mint(ANYTHING, *hops(16), depth=16), YES, "16 delegations", {}),
        "hops-17": (mint(ANYTHING, *hops(17), depth=16), "too_deep", "17 delegations", {}),
        "discharges-8": (joined(many, *eight), YES, "eight discharges", {"request": REFUND}),
        "discharges-4-deep": (joined(root, *(bound(e, root) for e in deep)), YES, "four deep", {"request": REFUND}),
        "discharge-64-caveats": (
            joined(full, bound(discharge(*ends[:2]), full)),
            YES,
            "62 and 2 caveats",
            {"request": REFUND},
        ),
        "discharge-65-caveats": (
            joined(full, bound(discharge(*ends), full)),
            WRONG,
            "62 and 3 caveats",
            {"request": REFUND},
        ),
        "levels-16": (
            mint({"allow": [{"args": {"x": nested}, "tool": "orders.get"}]}),
            NO,
            "a caveat of 16 containers, which any_of and equal fill",
            {"request": {"args": {"x": {"a": {"a": {"a": {"a": "a"}}}}}}},
        ),
    }
    return {f"limit-{name}": vector("14", e, token, why, **more) for name, (token, e, why, more) in made.items()}


def padded(size: int, *others: Any) -> Token:
    """A token whose text has this length."""

    def of(count: int) -> Token:
        return after({"allow": [{"tool": "*"}, {"args": {"x": "a" * count}, "tool": "never"}]}, *others)

    found = next(token for count in range(5200, 0, -1) if len((token := of(count)).text()) <= size)
    assert len(found.text()) == size, len(found.text())
    return found


def credentials() -> Vectors:
    """SPEC 2.3 and 14: characters of a credential."""
    token = padded(6900, {"exp": AT + 1})
    return {
        "limit-credential-7168": vector("2.3", YES, padded(7168), "7 168 characters"),
        "limit-credential-7169": vector("2.3", WRONG, padded(7169), "7 169 characters, rightly signed"),
        "limit-credential-discharge": vector(
            "2.3",
            WRONG,
            joined(requiring(token), bound(discharge(), requiring(token))),
            "too long in all",
            request=REFUND,
        ),
    }


def values() -> Vectors:
    """SPEC 3.1, 7.2 and 14: decimals and lists."""
    operand, value = "1." + "5" * 30, "1." + "0" * 30

    def ruled(constraint: Any, given: Any, expect: str, why: str) -> dict[str, Any]:
        token = mint({"allow": [{"args": {"x": constraint}, "tool": "orders.get"}]})
        return vector("7.2", expect, token, why, request={"args": {"x": given}})

    return {
        "limit-decimal-32": ruled({"max": operand}, "1", YES, "an operand of 32 characters"),
        "limit-decimal-33": ruled({"max": operand + "5"}, "1", WRONG, "an operand of 33 characters"),
        "limit-decimal-value-32": ruled({"max": "1"}, value, YES, "a value of 32 characters"),
        "limit-decimal-value-33": ruled({"max": "1"}, value + "0", NO, "a value of 33 characters"),
        "limit-decimal-plus": ruled({"max": "1"}, "+1", NO, "a sign"),
        "limit-decimal-zeros": ruled({"max": "1"}, "01", NO, "a leading zero"),
        "limit-decimal-dot": ruled({"max": "1"}, "1.", NO, "a dot without digits"),
        "limit-decimal-minus-zero": ruled({"min": "0"}, "-0", YES, "zero, with a sign"),
        "limit-decimal-digits": ruled({"max": "9"}, "\u0661", NO, "a digit of Arabic"),
        "limit-subset-65536": ruled({"subset": [1]}, [1] * 65_536, YES, "65 536 items"),
        "limit-subset-65537": ruled({"subset": [1]}, [1] * 65_537, NO, "65 537 items"),
        "limit-range-least": ruled({"min": -(2**53) + 1}, -(2**53) + 1, YES, "the least integer"),
        "limit-operand-beyond": ruled({"min": -(2**53)}, 1, WRONG, "beyond the least integer"),
    }


def work() -> Vectors:
    """SPEC 7.4: 2048 tests and 8192 characters and members are 2^24."""
    # One for the rule, one for `any_of`, and one for each of its constraints.
    tests = {"allow": [{"args": {"x": {"any_of": [1] * 2046}}, "open": True, "tool": "orders.get"}]}
    free = {"allow": [{"args": {"x": {"any_of": [1] * 30}}, "open": True, "tool": "orders.get"}]}
    logic = {"allow": [{"args": {"x": {"all_of": [{"max": 1, "min": 1}] * 2}}, "tool": "never"}, *tests["allow"]]}

    def sized(rules: Any, expect: str, why: str, **args: Any) -> dict[str, Any]:
        return vector("7.4", expect, mint(rules), why, request={"args": {"x": 1} | args})

    return {
        "limit-work": sized(tests, YES, "2048 tests, 8190 characters, two members", y="y" * 8190),
        "limit-work-above": sized(tests, NO, "one character more", y="y" * 8191),
        "limit-work-astral": sized(tests, YES, "characters are code points", y=FACE * 8190),
        "limit-work-names": sized(tests, YES, "names do not count", **{"y" * 100: "y" * 8190}),
        "limit-work-items": sized(tests, NO, "items and members count, at every depth", y=["y" * 8187, [1], {"a": 1}]),
        "limit-work-items-fit": sized(tests, YES, "items and members count", y=["y" * 8185, [1], {"a": 1}]),
        "limit-work-other-tool": sized(logic, NO, "rules for other tools count", y="y" * 8190),
        "limit-work-tool-first": vector(
            "7.4",
            "tool_not_allowed",
            mint(tests),
            "the tool is judged first",
            request={"tool": "a", "args": {"y": "y" * 9000}},
        ),
        "limit-work-free": sized(free, YES, "32 tests", y="y" * 524_289),
        "limit-work-33": sized(
            {"allow": [free["allow"][0] | {"args": {"x": {"any_of": [1] * 31}}}]}, NO, "33 tests", y="y" * 508_399
        ),
    }


def signatures() -> Vectors:
    """SPEC 16.1: [S]B = R + [k]A, with S below the order and without the factor 8."""
    root = mint_bound()
    unsigned = hop(root, FIRST, "acme/worker", SECOND.public)

    class Odd(Holder):
        """A holder whose signatures have points of another kind in them."""

        options: ClassVar[dict[str, Any]] = {}
        even = True

        def sign(self, message: bytes) -> bytes:
            """Sign with the options."""
            made, self.__class__.even = curve.sign(self.seed, message, **self.options)
            return made

    def odd(name: str, **options: Any) -> Any:
        return type(name, (Odd,), {"options": options})(FIRST.seed)

    torsion = odd("Torsion", added_to_r=curve.SECOND_ORDER)
    beyond = odd("Beyond", beyond=True)
    plain, small = odd("Plain"), odd("Small", zero=True)
    assert hop(root, plain, "acme/worker", SECOND.public) != unsigned  # another nonce, and right as well
    found: Vectors = {}
    right: dict[str, tuple[Any, str, str, str]] = {
        "plain": (plain, YES, YES, "a nonce that is not that of RFC 8032: no verifier sees that"),
        "torsion": (torsion, "bad_signature", "proof_invalid", "a point of order two is added to R"),
        "small": (small, "bad_signature", "proof_invalid", "R is a point of small order"),
        "beyond": (beyond, "bad_signature", "proof_invalid", "S is not below the order of the base point"),
    }
    for name, (by, delegated, called, why) in right.items():
        one = root.with_caveats(hop(root, by, "acme/worker", SECOND.public))
        handed = one.with_caveats(bound_call(one, SECOND, REQUEST, hops=(HOP,)))
        found[f"signature-{name}-hop"] = vector("16.1", delegated, handed, why)
        itself = root.with_caveats(bound_call(root, by, REQUEST, sign=True))
        found[f"signature-{name}-call"] = vector("16.1", called, itself, why)
    mixed = odd("Mixed", added_to_a=curve.SECOND_ORDER)
    token = mint_bound(by=mixed_key(FIRST.public))
    for number in range(64):
        made = bound_call(token, mixed, REQUEST, sign=True, nonce=f"nonce-{number:010d}".encode())
        name = "even" if type(mixed).even else "odd"
        if f"signature-mixed-key-{name}" not in found:
            found[f"signature-mixed-key-{name}"] = vector(
                "16.1",
                YES if name == "even" else "proof_invalid",
                token.with_caveats(made),
                f"a key with the point of order two in it, and k is {name}",
            )
    return found
