# SPDX-License-Identifier: Apache-2.0
"""A bundle has one form, and its tokens belong together."""

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_caps.agent import Bundle, Task
from arx_caps.agent.tasks.origins import origin_of, read_origin
from arx_verifier import jcs
from arx_verifier.errors import MalformedTokenError
from arx_verifier.token import wire
from arx_verifier.token.call_proof import CallSigner
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.macaroon import Macaroon, OperatorIdentifier
from tests.agent.holding import ORIGINS, bundle, task, token
from tests.support import AT, KEY, QUICK, TOKEN_ID

pytestmark = pytest.mark.spec("15.1")


def written(**changes: Any) -> str:
    """The bundle's text with some members changed; None takes one away."""
    raw = wire.bytes_of(bundle().encode().removeprefix(wire.BUNDLE_PREFIX))
    whole = {name: value for name, value in (json.loads(raw) | changes).items() if value is not None}
    return wire.BUNDLE_PREFIX + wire.text_of(jcs.encode(whole))


def tokens(**changes: Macaroon) -> dict[str, str]:
    """The texts of the usual tokens, some replaced."""
    usual = {"orders": token("orders"), "payments": token("payments")}
    return {audience: macaroon.encode() for audience, macaroon in (usual | changes).items()}


def test_text_and_bundle_are_one_to_one() -> None:
    """
    Reading what was written gives the same bundle, and writing that the same text.
    """
    text = bundle().encode()
    assert text.startswith("arxb1_")
    assert Bundle.parse(text) == bundle()
    assert Bundle.parse(text).encode() == text == written()


def operators_token() -> Macaroon:
    """A token for the mint."""
    who = OperatorIdentifier(aud="orders", exp=AT + 1000, iat=AT, id=TOKEN_ID, kid="k1.0", operator="ada", v=1)
    return Macaroon.mint(who, key=KEY, realm="acme", caveats=(Caveat(depth=0),))


def one_shot() -> Macaroon:
    """A token that was signed for a call."""
    return Macaroon.parse(CallSigner(token("orders"), "orders").sign(b"", AT))


BAD: list[tuple[str, Callable[[], str], str]] = [
    ("empty", lambda: "", "begins with arxb1_"),
    ("another text", lambda: "hello", "begins with arxb1_"),
    ("the prefix alone", lambda: "arxb1_", "cut short or altered"),
    ("a lone token", lambda: token("orders").encode(), "single token"),
    ("cut", lambda: bundle().encode()[:-40], "cut short or altered"),
    ("one character less", lambda: bundle().encode()[:-1], "cut short or altered"),
    ("more behind it", lambda: bundle().encode() + "AAAA", "cut short or altered"),
    ("a line break behind it", lambda: bundle().encode() + "\n", "cut short or altered"),
    ("padding", lambda: bundle().encode() + "=", "cut short or altered"),
    ("too long", lambda: "arxb1_" + "A" * 400_000, "more than"),
    ("not UTF-8", lambda: "arxb1_" + wire.text_of(b"\xff\xfe{"), "cut short or altered"),
    ("deep", lambda: "arxb1_" + wire.text_of(b"[" * 100_000), "cut short or altered"),
    ("version 2", lambda: written(v=2), "cut short or altered"),
    ("no version", lambda: written(v=None), "cut short or altered"),
    ("an unknown member", lambda: written(more=1), "cut short or altered"),
    ("a member of another type", lambda: written(task=5), "cut short or altered"),
    ("no tokens", lambda: written(tokens={}, origins={}), "cut short or altered"),
    ("33 tokens", lambda: written(tokens={f"a{n}": "arx1_" for n in range(33)}), "cut short or altered"),
    ("spaces in the JSON", lambda: "arxb1_" + wire.text_of(b'{"v": 1}'), "cut short or altered"),
    ("another agent", lambda: written(agent="acme/other"), "another agent than its bundle"),
    ("no agent path", lambda: written(agent="Acme"), "no agent path"),
    ("another realm", lambda: written(realm="other"), "another realm than its bundle"),
    ("no realm", lambda: written(realm=""), "no agent path"),
    ("another task", lambda: written(task="t-bbbbbbbbbbbbbbbb"), "another task than its bundle"),
    ("swapped tokens", lambda: written(tokens=tokens(orders=token("payments"))), "another audience than its bundle"),
    ("the mint's audience", lambda: written(tokens={"arx.mint": tokens()["orders"]}, origins={}), "cannot name"),
    ("no token at all", lambda: written(tokens={"orders": "arx1_!"}, origins={}), "token for 'orders'"),
    ("a bundle in a bundle", lambda: written(tokens={"orders": bundle().encode()}, origins={}), "token for 'orders'"),
    ("another grant", lambda: written(tokens=tokens(orders=token("orders", id="B" * 21 + "A"))), "different grants"),
    ("another session", lambda: written(tokens=tokens(orders=token("orders", session="s-b"))), "different grants"),
    ("other hops", lambda: written(tokens=tokens(orders=token("orders").delegate("acme/x"))), "different grants"),
    ("a session's token", lambda: written(tokens=tokens(orders=token("orders", task=None))), "another task"),
    ("an operator's token", lambda: written(tokens=tokens(orders=operators_token())), "operator's token"),
    ("a one-shot token", lambda: written(tokens=tokens(orders=one_shot())), "signed for one call"),
    ("a stray origin", lambda: written(origins={**ORIGINS, "mail": ["https://m.example"]}), "and no token"),
    ("an origin with a path", lambda: written(origins={"orders": ["https://o.example/x"]}), "is not an origin"),
    ("an origin with a user", lambda: written(origins={"orders": ["https://a@o.example"]}), "is not an origin"),
    ("an origin in capitals", lambda: written(origins={"orders": ["https://O.example"]}), "is not an origin"),
    ("another scheme", lambda: written(origins={"orders": ["ftp://o.example"]}), "is not an origin"),
    ("a port too high", lambda: written(origins={"orders": ["https://o.example:70000"]}), "port above 65535"),
    ("17 origins", lambda: written(origins={"orders": ["https://o.example"] * 17}), "cut short or altered"),
]


@pytest.mark.parametrize(("make", "says"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_whatever_is_not_a_whole_bundle_is_refused(make: Callable[[], str], says: str) -> None:
    """
    Each way to be wrong is refused with a sentence that says which, and shows no token.
    """
    text = make()
    with pytest.raises(MalformedTokenError, match=says) as caught:
        Bundle.parse(text)
    assert "arx1_" not in str(caught.value)
    assert text[60:] == "" or text[60:] not in str(caught.value)


@QUICK
@given(st.data())
def test_no_changed_character_gives_the_same_tokens(data: st.DataObject) -> None:
    """
    A bundle with one character changed is refused, or its tokens are not the same: nothing is read leniently.
    """
    text = bundle().encode()
    at = data.draw(st.integers(0, len(text) - 1))
    other = text[:at] + data.draw(st.sampled_from("AZaz09-_+/= ")) + text[at + 1 :]
    if other == text:
        return
    try:
        read = Bundle.parse(other)
    except MalformedTokenError:
        return
    assert read != bundle()
    assert read.encode() == other


def test_a_bundle_shows_and_leaks_nothing() -> None:
    """
    Neither repr nor pickle, nor that of the task around it, gives a token away.
    """
    held = bundle()
    for thing in (held, task(), task().auth()):
        assert "arx1_" not in repr(thing)
        assert "arxb1_" not in repr(thing)
        assert copy.deepcopy(thing) is thing
        with pytest.raises(TypeError, match="pickled"):
            pickle.dumps(thing)
    assert repr(held) == "<Bundle of acme/support, task t-aaaaaaaaaaaaaaaa: orders, payments>"


def test_a_bundle_cannot_be_changed() -> None:
    """
    Its maps are read-only, so that one holder's view is what it was checked to be.
    """
    held: Any = bundle()
    with pytest.raises(TypeError):
        held.tokens["orders"] = token("orders")
    with pytest.raises(TypeError):
        held.origins["orders"] = ("https://elsewhere.example",)


def test_a_task_takes_a_text_with_white_space_around_it() -> None:
    """
    A file that an editor ended with a line break is still the task.
    """
    assert Task.from_text(" " + task().encode() + "\n") == task()


@pytest.mark.parametrize(
    ("text", "parts", "shown"),
    [
        ("https://orders.example", ("https", "orders.example", 443), "https://orders.example"),
        ("https://orders.example:443", ("https", "orders.example", 443), "https://orders.example"),
        ("http://orders.example:443", ("http", "orders.example", 443), "http://orders.example:443"),
        ("http://[::1]:8701", ("http", "::1", 8701), "http://[::1]:8701"),
    ],
)
def test_an_origin_is_scheme_host_and_port(text: str, parts: tuple[str, str, int], shown: str) -> None:
    """
    The default port is written out to compare and left out to show.
    """
    assert read_origin(text) == parts == origin_of(*parts)
    assert str(read_origin(text)) == shown


def test_what_a_newer_version_wrote_is_carried_along() -> None:
    """
    A holder passes on a caveat that it does not understand, and shows it; the verifier is who judges it.
    """
    raw = b'{"geo":["eu"],"to":"acme/x","hop":"AAAAAAAAAAAA"}'

    class Newer:
        def encode(self) -> bytes:
            return jcs.encode(json.loads(raw))

        def delegated_to(self, to: str, hop: str) -> "Newer":
            return self

    held = bundle({"orders": token("orders").attenuate(Newer())})
    assert Bundle.parse(held.encode()) == held
    assert held.holder == "acme/x"
    assert held.describe()["audiences"]["orders"]["caveats"][1]["geo"] == ["eu"]
