# SPDX-License-Identifier: Apache-2.0
"""The policy: what it cannot mean is refused with file, line and key."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_caps.mint.policy.model import Policy
from arx_caps.settings.toml_file import TomlText
from arx_verifier.errors import SettingsError
from tests.mint.harness import REFUNDS


def policy(text: str = REFUNDS) -> Policy:
    return Policy.parse(text, "policy.toml")


# Every mistake, the line it is on, and words of the refusal.
MISTAKES: list[tuple[str, str, int, str]] = [
    ("ttl = \"10m\"", "ttl = 10", 14, "whole number and a unit"),
    ("ttl = \"10m\"", "ttl = \"10 m\"", 14, "whole number and a unit"),
    ("ttl = \"10m\"", "ttl = \"0s\"", 14, "a duration, 1ms to 366d, got \"0s\""),
    ("ttl = \"10m\"", "ttl = \"900d\"", 14, "at most"),
    ("ttl = \"10m\"", "ttl = \"10m\"\nidle = \"1h\"", 15, "unknown key"),
    ("ttl = \"10m\"\n", "", 11, "needs `ttl`"),
    ("ttl = \"10m\"", "ttl = \"10m\"\ndepth = 17", 15, "0 to 16"),
    ("ttl = \"10m\"", "ttl = \"10m\"\ndepth = true", 15, "an integer"),
    (
        "ttl = \"10m\"",
        "ttl = \"10m\"\nrequire = [\"holder\"]",
        15,
        "require[1]: expected one of \"call\", \"signature\", got \"holder\"",
    ),
    ("ttl = \"10m\"", "ttl = \"10m\"\nfresh = \"2m\"", 15, "a duration, 0ms to 1m, got \"2m\""),
    ("ttl = \"10m\"", "ttl = \"10m\"\nnet = [\"10.0.0.1/8\"]", 15, "host bits"),
    ("ttl = \"10m\"", "ttl = \"10m\"\ndelegate_to = []", 15, "depth = 0"),
    ("ttl = \"10m\"", "ttl = \"10m\"\ndelegate_to = [\"acme*\"]", 15, "delegate_to[1]: expected a pattern"),
    ("ttl = \"8h\"", "ttl = \"8h\"\nlimit = \"1h\"", 10, "limit: unknown key; known here: agents, "),
    ("ttl = \"8h\"", "ttl = \"8h\"\nidle = \"9h\"", 10, "at most"),
    ("ttl = \"8h\"", "ttl = \"8h\"\nmax_open = 0", 10, "an integer, 1 to 10000, got 0"),
    ("ttl = \"8h\"", "ttl = \"8h\"\nmax_open = \"3\"", 10, "an integer"),
    ("agents = [\"acme/**\"]", "agents = \"acme/**\"", 8, "a list"),
    ("agents = [\"acme/**\"]", "agents = []", 8, "at least one"),
    ("agents = [\"acme/**\"]", "agents = [\"acme/**\", \"acme/**\"]", 8, "twice"),
    ("agents = [\"acme/**\"]", "agents = [\n  \"acme\",\n  7,\n]", 10, "text in quotes"),
    ("[audience.orders]", "[audience.arxx]", 1, "not beginning with arx"),
    ("[audience.orders]", "[audience.Orders]", 1, "an audience's name"),
    ("http://127.0.0.1:9001", "http://127.0.0.1:9001/", 2, "origins[1]: expected an origin"),
    ("http://127.0.0.1:9001", "ftp://x", 2, "origins[1]: expected an origin"),
    ("http://127.0.0.1:9001", "https://pay.example.com", 5, "got that of orders"),
    ("\"http://127.0.0.1:9001\"", "", 2, "at least one"),
    ("9001\"]", "9001\"]\nresources = []", 3, "at least one resource, got []; leave it out"),
    ("9001\"]", "9001\"]\nresources = [\"http://127.0.0.1:9009/x\"]", 3, "expected a URL at http://127.0.0.1:9001"),
    ("9001\"]", "9001\"]\nresources = [\"http://127.0.0.1:9001/x#y\"]", 3, "without a fragment"),
    ("audience = [\"orders\", \"payments\"]", "audience = [\"orders\", \"mail\"]", 15, "got mail"),
    ("audience = [\"orders\", \"payments\"]", "audience = []", 15, "at least one audience"),
    ("audience = [\"orders\", \"payments\"]", "audience = [\"orders\"]", 18, "audiences (orders), got \"payments\""),
    ("\"orders.get\"", "\"get\"", 17, "got \"get\"; write at ="),
    ("\"orders.get\"", "\"orders.get\", at = \"mail\"", 17, "task's audiences (orders, payments), got \"mail\""),
    ("\"orders.get\"", "\"orders.get\", at = \"payments\"", 16, "no rule is for orders"),
    ("\"orders.get\"", "\"orders get\"", 17, "tool's name"),
    ("\"orders.get\"", "\"$order_id\"", 17, "tool's name"),
    ("\"orders.get\"", "\"orders.get\", open = true", 17, "unknown key"),
    ("\"orders.get\"", "\"orders.get\", any = true", 17, "either args"),
    (", args = { order_id = \"$order_id\" } }", " }", 17, "either args"),
    (", args = { order_id = \"$order_id\" } }", ", any = false }", 17, "either args"),
    ("{ note = \"$$5\" }", "{ note = \"$5\" }", 19, "expected a parameter of this task"),
    ("{ note = \"$$5\" }", "{ note = \"$order\" }", 19, "expected a parameter of this task"),
    ("{ note = \"$$5\" }", "{ note = \"$subject\" }", 16, "needs `subjects` of one issuer"),
    ("{ note = \"$$5\" }", "{ note = \"for $order_id\" }", 19, "parameter alone"),
    ("{ note = \"$$5\" }", "{ note = \"$$$order_id\" }", 19, "parameter alone"),
    ("{ note = \"$$5\" }", "{ note = { glob = \"$order_id\" } }", 19, "parameter alone"),
    ("{ note = \"$$5\" }", "{ note = { glob = \"o/$order_id\" } }", 19, "parameter alone"),
    ("{ note = \"$$5\" }", "{ note = { subpath = \"$order_id\" } }", 19, "parameter alone"),
    ("{ note = \"$$5\" }", "{ note = { one_of = [\"$order_id\"] } }", 19, "parameter alone"),
    ("{ note = \"$$5\" }", "{ note = { none_of = [\"$order_id\"] } }", 19, "parameter alone"),
    ("{ note = \"$$5\" }", "{ note = { contains = [\"$order_id\"] } }", 19, "parameter alone"),
    ("{ note = \"$$5\" }", "{ note = { url = { scheme = \"https\", host = \"$order_id\" } } }", 19, "parameter alone"),
    ("{ note = \"$$5\" }", "{ note = { length = \"$amount\" } }", 19, "parameter alone"),
    ("{ note = \"$$5\" }", "{ note = { \"$order_id\" = 1 } }", 19, "unknown key"),
    ("{ note = \"$$5\" }", "{ \"$order_id\" = 1 }", 19, "parameter alone"),
    ("{ note = \"$$5\" }", "{ note = { max = \"$order_id\" } }", 19, "a bound here must be"),
    ("{ note = \"$$5\" }", "{ note = { range = [0, \"$fast\"] } }", 19, "a bound here must be integer"),
    ("{ note = \"$$5\" }", "{ note = { range = [9, 1] } }", 19, "args.note.range: the lower bound"),
    ("{ note = \"$$5\" }", "{ note = { range = [0.5, 1] } }", 19, "decimal as text"),
    ("{ note = \"$$5\" }", "{ note = { range = [0.5, \"$amount\"] } }", 19, "decimal as text"),
    ("{ note = \"$$5\" }", "{ note = { max = 4, nonsense = 1 } }", 19, "unknown key"),
    ("{ note = \"$$5\" }", "{ note = { } }", 19, "must test something"),
    ("{ note = \"$$5\" }", "{ note = { optional = true } }", 19, "must test something"),
    ("{ note = \"$$5\" }", "{ note = { not = { any_of = [\"$order_id\"] } } }", 19, "note.not: Object contains"),
    ("{ note = \"$$5\" }", "{ note = { fields = { a = { lenght = 3 } } } }", 19, "a.lenght: unknown key; did you"),
    ("{ note = \"$$5\" }", "{ note = { fields = { a = 1.5 } } }", 19, "note.fields.a: Expected"),
    ("{ note = \"$$5\" }", "{ note = { fields = { a = 1.5 } } }", 19, "decimal as text"),
    ("{ note = \"$$5\" }", "{ note = { fields = { a = \"$none\" } } }", 19, "note.fields.a: expected a parameter of"),
    ("{ note = \"$$5\" }", "{ note = { fields = { \"$order_id\" = 1 } } }", 19, "parameter alone"),
    ("{ note = \"$$5\" }", "{ note = { fields = { a = { glob = \"$order_id\" } } } }", 19, "parameter alone"),
    ("{ note = \"$$5\" }", "{ note = { fields = { a = { range = [9, 1] } } } }", 19, "fields.a.range: the lower"),
    ("{ note = \"$$5\" }", "{ note = { fields = [] } }", 19, "note.fields: Expected `object | null`"),
    ("{ note = \"$$5\" }", "{ note = { max = 1, open = true } }", 19, "open goes with fields"),
    ("{ note = \"$$5\" }", "{ note = { each = [1, { fields = { a = {} } }] } }", 19, "note.each[2].fields.a: a"),
    ("{ note = \"$$5\" }", "{ note = { each = { each = 1 } } }", 19, "is inside another one"),
    ("{ note = \"$$5\" }", "{ note = { each = { max = \"$order_id\" } } }", 19, "note.each.max: $order_id can be"),
    ("{ note = \"$$5\" }", "{ note = { any = false } }", 19, "note.any: any must be true"),
    ("{ length = 3 }", "{ fields = { a = 1 } }", 13, "no single value"),
    ("{ length = 3 }", "{ each = 1 }", 13, "no single value"),
    ("{ note = \"$$5\" }", "{ note = 2026-01-01 }", 19, "got `date`"),
    ("{ note = \"$$5\" }", "{ note = 1.5 }", 19, "decimal as text"),
    ("{ note = \"$$5\" }", "[]", 19, "expected a table"),
    ("{ length = 3 }", "{ lenght = 3 }", 13, "order_id.lenght: unknown key; did you mean `length`?"),
    ("{ length = 3 }", "{ length = 3, optional = true }", 13, "always given"),
    ("{ length = 3 }", "{ contains = [\"a\"] }", 13, "no single value"),
    ("{ length = 3 }", "{ length = 3, min = 1 }", 13, "no single value"),
    ("{ length = 3 }", "{ equal = \"$amount\" }", 13, "parameter alone"),
    ("{ length = 3 }", "{ cidr = \"10.0.0.1/8\" }", 13, "task.refund.params.order_id.cidr: "),
    ("{ order_id = { length", "{ subject = { length = 1 }, order_id = { length", 13, "reserved for the"),
    ("{ order_id = { length", "{ Order = { length = 1 }, order_id = { length", 13, "a parameter's name"),
    ("ttl = \"10m\"", "ttl = \"10m\"\napprovals = []", 15, "1 to 8 approvals, got []"),
    ("ttl = \"10m\"", "ttl = \"10m\"\napprovals = [\"payments.refund\"]", 15, "expected a table"),
    ("ttl = \"10m\"", "ttl = \"10m\"\napprovals = [{ need = 2 }]", 15, "needs `tools`"),
    ("ttl = \"10m\"", "ttl = \"10m\"\napprovals = [{ tools = [] }]", 15, "at least one tool"),
    ("ttl = \"10m\"", "ttl = \"10m\"\napprovals = [{ tools = [\n\"refund\"] }]", 16, "meets no rule of `allow`"),
    ("ttl = \"10m\"", "ttl = \"10m\"\napprovals = [{ tools = [\"orders get\"] }]", 15, "expected a tool's name"),
    ("ttl = \"10m\"", "ttl = \"10m\"\napprovals = [{ tools = [\"*\"], need = 0 }]", 15, "1 to 8"),
    ("ttl = \"10m\"", "ttl = \"10m\"\napprovals = [{ tools = [\"*\"], need = 9 }]", 15, "1 to 8"),
    ("ttl = \"10m\"", "ttl = \"10m\"\napprovals = [{ tools = [\"*\"], need = true }]", 15, "an integer"),
    ("ttl = \"10m\"", "ttl = \"10m\"\napprovals = [{ tools = [\"*\"], ttl = \"25h\" }]", 15, "a duration, 1ms to 1d"),
    ("ttl = \"10m\"", "ttl = \"10m\"\napprovals = [{ tools = [\"*\"], once = 1 }]", 15, "true or false"),
    ("ttl = \"10m\"", "ttl = \"10m\"\napprovals = [{ tools = [\"*\"], by = [\"ada\"] }]", 15, "unknown key"),
    (
        "ttl = \"10m\"",
        "ttl = \"10m\"\napprovals = [{ tools = [\"orders.*\"] },\n{ tools = [\"payments.refund\",\n\"orders.get\"] }]",
        17,
        "match the same tool",
    ),
    (
        "audience = [\"orders\", \"payments\"]",
        "audience = [\"orders\"]\nexchange = { orders = [\"payments\"] }\napprovals = [{ tools = [\"*\"] }]",
        17,
        "services alone reach",
    ),
    ("[task.refund]", "[task.Refund]", 11, "task.Refund: expected a name"),
    ("[task.refund]", "[tasks.refund]", 11, "tasks: unknown key; did you mean `task`?"),
    ("[session]", "[session.a]\nagents = [\"x\"]\nttl = \"1h\"\n[session]", 7, "expected no [session] beside it"),
    ("[session]", "realm = \"x\"\n[session]", 7, "realm: unknown key"),
    ("{ note = \"$$5\" }", "{ note = { regex = \"^o-[0-9]+$\" } }", 19, "unknown key; there are no regular"),
    ("{ note = \"$$5\" }", "{ note = { any_of = [\"a\", { pattern = \"x$\" }] } }", 19, "any_of[2].pattern: unknown"),
    ("{ note = \"$$5\" }", "{ note = { fields = { a = { in = [\"$a\"] } } } }", 19, "a.in: unknown key; write"),
    ("{ note = \"$$5\" }", "{ note = { enum = [\"a\"] } }", 19, "enum: unknown key; write `one_of`"),
    ("{ note = \"$$5\" }", "{ note = { lte = 5 } }", 19, "lte: unknown key; write `max`"),
    ("{ note = \"$$5\" }", "{ note = { maximum = 5.5 } }", 19, "maximum: unknown key; write `max`"),
    ("{ note = \"$$5\" }", "{ note = { prefix = \"$a\" } }", 19, "prefix: unknown key; write `glob`"),
    ("{ note = \"$$5\" }", "{ note = { max = 5.5 } }", 19, "got `float`; write a decimal as text, such as \"10.5\""),
    ("{ length = 3 }", "{ matches = \"$\" }", 13, "order_id.matches: unknown key; there are no regular exp"),
    ("[session]", "[session", 7, "not TOML"),
    ("[session]", "[audience.orders]", 7, "audience.orders: expected the key once"),
]  # fmt: skip


class TestMistakes:
    @pytest.mark.parametrize(("old", "new", "line", "words"), MISTAKES, ids=lambda value: str(value)[:40])
    def test_a_mistake_is_reported_with_its_file_and_line(self, old: str, new: str, line: int, words: str) -> None:
        """
        File, line, key and what to do, for everything that a policy cannot mean.
        """
        assert old in REFUNDS
        with pytest.raises(SettingsError) as caught:
            policy(REFUNDS.replace(old, new, 1))
        assert caught.value.code == "policy"
        text = str(caught.value)
        assert text.startswith(f"policy.toml:{line}: "), text
        assert words in text

    def test_lines_are_found_in_every_way_to_write_toml(self) -> None:
        """
        Arrays of tables, dotted and quoted keys, strings that look like keys, comments and CRLF.
        """
        text = (
            '# ttl = "x"\r\n[audience]\r\norders.origins = [ # ]\r\n  "http://a:1", ]\r\n[task."t"]\r\n'
            'agents = ["a"]\r\n"ttl" = "1m"\r\naudience = ["orders"]\r\n'
            '[[task.t.allow]]\r\ntool = "orders.a"\r\nany = true\r\n'
            "[[ task.t.allow ]]\r\ntool = 'orders.b'\r\n[task.t.allow.args]\r\nx = '''\r\ny = 1\r\n'''\r\n"
            '"y" = {glob = """\\\r\n   ["""}\r\nz.range = [5, 1]\r\n'
        )
        with pytest.raises(SettingsError) as caught:
            policy(text)
        assert str(caught.value).startswith("policy.toml:20: task.t.allow[2].args.z.range: ")
        assert policy(text.replace("[5, 1]", "[1, 5]")).templates["t"].rules[1].args == {
            "x": "y = 1\n",
            "y": {"glob": "["},
            "z": {"range": [1, 5]},
        }

    @given(st.text(max_size=60) | st.text("[]{}=.,\"'\n# at-1\\", max_size=60))
    def test_no_text_raises_anything_else(self, text: str) -> None:
        """
        Any text is a policy or a ``SettingsError``.
        """
        try:
            policy(text)
        except SettingsError:
            return

    def test_a_file_that_cannot_be_read_is_reported(self, tmp_path: Path) -> None:
        """
        Missing, not UTF-8, or huge.
        """
        latin, huge = tmp_path / "latin.toml", tmp_path / "huge.toml"
        latin.write_bytes(b"# \xe9\n")
        huge.write_bytes(b"#" * (2 << 20))
        for path in (tmp_path / "none.toml", tmp_path, latin, huge):
            with pytest.raises(SettingsError) as caught:
                Policy.load(path)
            assert str(path) in str(caught.value)


class Counted(str):
    """A policy's text that counts how much of it is looked through for line breaks."""

    __slots__ = ()
    looked_through = 0

    def replace(self, *_: Any) -> "Counted":
        return self

    def count(self, what: str, start: Any = 0, end: Any = None) -> int:
        end = len(self) if end is None else end
        Counted.looked_through += end - start
        return super().count(what, start, end)


def test_lines_of_a_long_policy_are_counted_once() -> None:
    """However many keys it has: from the beginning for each, one of 1 MiB took a mint half a minute."""
    tables = "".join(f"[audience.a{number}]\norigins = ['https://a{number}.example']\n\n" for number in range(200))
    text = TomlText(Counted(tables), "long.toml")
    assert Counted.looked_through <= len(tables)
    lines = [text.line(("audience", f"a{number}", "origins")) for number in range(200)]
    assert lines == list(range(2, 602, 3))


SEVERAL = """\
[audience.orders]
origins = ["http://127.0.0.1:9001/x"]
[audience.prices]
origins = ["HTTP://x"]
[session]
agents = ["acme/**"]
ttl = 8
idl = "1m"
[task.a]
agents = ["acme/x"]
ttl = "10m"
audience = ["orders"]
allow = [{ tool = "orders.get", args = { order_id = {} } }]
[task.b]
agents = ["acme/x"]
ttl = "10m"
audience = ["ordrs"]
allow = [{ tool = "orders.get", args = {} }]
[tsk.c]
ttl = "5m"
"""


def test_a_check_returns_every_tables_mistake(tmp_path: Path) -> None:
    """
    Each with its line, in order; a table that has a mistake makes no other one wrong.
    """
    file = tmp_path / "policy.toml"
    file.write_text(SEVERAL)
    found = [str(error).removeprefix(f"{file}:").split(": ")[:2] for error in Policy.mistakes(file)]
    assert found == [
        ["2", "audience.orders.origins[1]"],
        ["4", "audience.prices.origins[1]"],
        ["7", "session.ttl"],
        ["8", "session.idl"],
        ["13", "task.a.allow[1].args.order_id"],
        ["17", "task.b.audience"],
        ["19", "tsk"],
    ]
    with pytest.raises(SettingsError) as caught:
        Policy.load(file)
    assert str(caught.value) in map(str, Policy.mistakes(file))


def test_a_wrong_name_of_an_audience_is_one_mistake(tmp_path: Path) -> None:
    """
    It is listed once, and mistakes of other tables with it.
    """
    file = tmp_path / "policy.toml"
    file.write_text('[audience.Orders]\norigins = ["http://127.0.0.1:1"]\n[session]\nttl = "8"\nagents = ["acme/x"]\n')
    found = [str(error).removeprefix(f"{file}:").split(": ")[:2] for error in Policy.mistakes(file)]
    assert found == [["1", "audience.Orders"], ["4", "session.ttl"]]


def test_a_check_ends(tmp_path: Path) -> None:
    """
    At most 20 mistakes are returned, and one that cannot be set aside ends the search.
    """
    file = tmp_path / "policy.toml"
    file.write_text("".join(f"unknown{number} = 1\n" for number in range(50)))
    assert len(Policy.mistakes(file)) == 20
    for text in ("[audience.arx-x]\norigins = []\n", "audience = 1\n", "[issuer.a]\n", "task = 5\n", "[[workload]]\n"):
        file.write_text(text)
        assert 1 <= len(Policy.mistakes(file)) <= 2, text
    file.write_text("not toml")
    assert len(Policy.mistakes(file)) == 1
    file.write_text("")
    assert Policy.mistakes(file) == []
