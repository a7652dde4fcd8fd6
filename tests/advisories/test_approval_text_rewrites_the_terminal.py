# SPDX-License-Identifier: Apache-2.0
"""An agent must not rewrite the terminal on which an operator reads its approval request.

ARx: names and arguments are shown as ASCII, our own lines cannot be imitated or pushed away, and nothing is left out
where an operator decides.
"""

import re
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_caps.cli.approvals import MOST_LINES, show_approval
from tests.support import QUICK

AT = 1_800_000_000_000
ABOUT: dict[str, Any] = {
    "id": "a-aaaaaaaaaaaaaaaa",
    "state": "waiting",
    "task": "t-aaaaaaaaaaaaaaaa",
    "session": "s-aaaaaaaaaaaaaaaa",
    "agent": "acme/support",
    "subject": {"issuer": "https://idp.example", "subject": "ada"},
    "template": "refund",
    "audience": "payments",
    "tool": "payments.refund",
    "args": {"amount": 50, "order_id": "o-1"},
    "why": "charged twice",
    "need": 2,
    "once": True,
    "ttl": "15m",
    "asked_at": AT - 180_000,
    "by": ["bob"],
    "expires_at": AT + 600_000,
}
SHOWN = """\
a-aaaaaaaaaaaaaaaa  waiting, asked 2027-01-15 07:57:00Z (3m ago)
  agent      acme/support
  for        ada of https://idp.example
  wants      payments.refund at payments
             amount = 50
             order_id = "o-1"
  task       t-aaaaaaaaaaaaaaaa, refund; s-aaaaaaaaaaaaaaaa
  answers    1 of 2 approved: bob
  answer by  2027-01-15 08:10:00Z (in 10m)
  good for   one call, within 15m of the last answer
  why        "charged twice"
"""
HOSTILE = [
    "\x1b[2K\x1b[1Aamount = 5",
    "o-1\n  why        approved by the owner",
    "o-1\r             amount = 5",
    "o-1\u202e5 = tnuoma",
    "o-1\u2028amount = 5",
    "o-1" + " " * 300 + "amount = 5",
    "o-1" + "\u3164" * 100 + "amount = 5",
    "o-1" + "\u2800" * 100 + "amount = 5",
    "o-1" + "漢" * 60 + "amount = 5",
    "\u043e-1",  # Cyrillic
    "a" * 64 + "amount = 5",
    "o" + "\u0301" * 500,
    "o-1\x9b2Kamount = 5",
    "o-1\u200b",
]


def columns(text: str) -> int:
    """How many columns a terminal may give to a text at most."""
    return sum(2 if unicodedata.east_asian_width(char) in "WFA" else 1 for char in text)


def test_who_wants_what_and_why_is_there() -> None:
    """
    One shape, wherever an approval is shown.
    """
    assert show_approval(ABOUT, AT) + "\n" == SHOWN


@pytest.mark.parametrize("text", HOSTILE, ids=[f"{index}" for index in range(len(HOSTILE))])
@pytest.mark.parametrize("where", ["value", "name", "list", "why", "subject"])
def test_no_text_of_an_agent_looks_like_a_line_of_ours(text: str, where: str) -> None:
    """
    A text of another author stays on lines that are marked as its own, none wider than a terminal.
    """
    args: dict[str, Any] = {"amount": 50, "order_id": "o-1"}
    changes: dict[str, Any] = {
        "value": {"args": args | {"order_id": text}},
        "name": {"args": args | {text: 1}},
        "list": {"args": args | {"order_id": [text, "o-2"]}},
        "why": {"why": text},
        "subject": {"subject": {"issuer": "https://idp.example", "subject": text}},
    }[where]
    shown = show_approval(ABOUT | changes, AT).split("\n")
    assert all(line.isprintable() and columns(line) < 80 for line in shown)
    assert [line for line in shown if "amount = 50" in line] == ["             amount = 50"]
    starts = [line[:13].split() for line in shown[1:]]
    ours = ["agent", "for", "wants", "task", "answers", "answer", "good", "why"]
    assert [words[0] for words in starts if words] == ours
    beside = [line[13:] for line in shown[1:] if not line[:13].strip()]
    assert all(line.startswith("… ") or re.match(r'([A-Za-z0-9_.-]+|".*) = |"', line) for line in beside), beside
    if where in ("value", "name", "list"):
        written = "".join(line.removeprefix("… ") for line in beside)
        assert written.isascii()
        assert "  " not in written
        assert "\\u0020" in written or "  " not in text


@QUICK
@given(st.text(), st.text(), st.text())
def test_every_line_is_one_line_of_a_terminal(name: str, value: str, why: str) -> None:
    """
    Whatever the texts are, each line is printable and narrower than 80 columns, and the first ones are ours.
    """
    shown = show_approval(ABOUT | {"args": {name: value}, "why": why}, AT).split("\n")
    assert all(line.isprintable() and columns(line) < 80 for line in shown)
    assert [line.split()[0] for line in shown[1:4]] == ["agent", "for", "wants"]
    assert sum(not line.startswith("             ") for line in shown) == 9


def test_nothing_is_left_out_where_an_operator_decides() -> None:
    """
    A list says how much of many arguments it leaves out; what is to be approved is shown to its end.
    """
    args = {f"name{number:03}": "x" * 200 for number in range(50)}
    whole = show_approval(ABOUT | {"args": args}, AT)
    assert all(f"name{number:03} = " in whole for number in range(50))
    assert whole.count("x") >= 50 * 200
    part = show_approval(ABOUT | {"args": args}, AT, whole=False)
    assert part.count("\n") < 13 + MOST_LINES
    assert re.search(r"and \d+ more lines: `arx approval show a-aaaaaaaaaaaaaaaa`", part)
    long = show_approval(ABOUT | {"why": "y" * 5000}, AT)
    assert "and 4000 more characters" in long.replace("\n             … ", "")
