# SPDX-License-Identifier: Apache-2.0
"""A sub-agent could use up an approval that was not its own, by writing its id into its own token.

The id is no secret; logs and records have it.  A name counted for the whole task, in any caveat, so a call of any
tool with ``once`` of that name was the one that it was good for.
"""

import pytest

from arx_verifier.token.caveats import Caveat
from arx_verifier.token.discharge import ThirdPartyCaveat, require_discharge
from arx_verifier.token.macaroon import Macaroon
from tests.support import AT, access, sign, verifier
from tests.verifier.discharges import APPROVED, RAW, REFUND, answering, named, refund, requiring, sent

MINE = b"k" * 32
WORKER = requiring().delegate("acme/support/worker")
BURN = Caveat(once=("a-1", AT))
OTHER = ThirdPartyCaveat("x", (REFUND, "orders.*")).encode()


def by_its_own_third_party(raw: bytes) -> tuple[Macaroon, list[Macaroon]]:
    """A token with a third-party caveat that its holder made itself, and what answers it, with the name."""
    return require_discharge(WORKER, raw, MINE), [answering(BURN, raw=raw, key=MINE)]


@pytest.mark.parametrize(
    ("token", "made", "code"),
    [
        (WORKER.attenuate(BURN), [], "ok"),
        (*by_its_own_third_party(named("x")), "ok"),
        (*by_its_own_third_party(OTHER), "ok"),
        (*by_its_own_third_party(RAW), "bad_signature"),
    ],
)
def test_what_a_holder_names_uses_up_no_approval(token: Macaroon, made: list[Macaroon], code: str) -> None:
    """
    In its token, in a discharge of its own; that of the mint's third-party caveat it cannot make.
    """
    checked, request = verifier(), access("orders.get")
    assert checked.decide(sent(token, made, request), request).code == code
    codes = [checked.decide(sent(holder, [answering(APPROVED)]), refund()).code for holder in (requiring(), WORKER)]
    assert codes == ["ok", "already_used"]
    if code == "ok":
        assert checked.decide(sent(token, made, request), request).code == "already_used"


def test_a_name_beside_its_like() -> None:
    """
    Of a token and of its discharge the same name is two; each is used up.
    """
    checked, token = verifier(), requiring().attenuate(BURN)
    assert checked.decide(sent(token, [answering(APPROVED)]), refund()).code == "ok"
    assert checked.decide(sent(requiring(), [answering(APPROVED)]), refund()).code == "already_used"
    plain = access("orders.get")
    assert checked.decide(sign(token, plain), plain).code == "already_used"


def test_whose_a_name_is_does_not_hang_on_the_order() -> None:
    """
    Beside discharges that say nothing, before it and behind it: it is the same name.
    """
    token = requiring(requiring(requiring(), named("a"), MINE), named("b"), MINE)
    one, two = (answering(raw=named(name), key=MINE) for name in "ab")
    made = answering(APPROVED)
    for order in ([one, made, two], [made, one, two], [one, two, made]):
        checked = verifier()
        assert checked.decide(sent(token, order), refund()).code == "ok"
        assert checked.decide(sent(requiring(), [made]), refund()).code == "already_used"
