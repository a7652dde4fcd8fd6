# SPDX-License-Identifier: Apache-2.0
"""A caller must not pass a limit with a number that the verifier rounds and the service reads exactly.

A reader of floats takes 20.000000000000000001 for 20, a reader of decimals does not.  A body with a number whose
digits no double carries is refused, as one with an integer beyond 2^53-1 is.
"""

import json
from decimal import Decimal

import pytest

from arx_verifier.constraints.constraint import Constraint
from arx_verifier.constraints.rule import Rule
from arx_verifier.errors import RequestError
from arx_verifier.request import read_json_object
from tests.verifier.serving import Realm, answered

TOOLS = {"POST /pay": "orders.pay"}
AT_MOST_20 = Rule(tool="orders.pay", args={"amount": Constraint(range=("0", "20"))})


def status(amount: str) -> int:
    """How a call with this amount, as the body spells it, is answered."""
    realm = Realm()
    token = realm.token(rules=(AT_MOST_20,)).encode()
    body = f'{{"amount":{amount}}}'.encode()
    return answered(realm, "/pay", token, method="POST", body=body, tools=TOOLS).status


@pytest.mark.parametrize("amount", ["20.000000000000000001", "2000000000000000.00001e-14", "-1e-400", "1e-99999999999"])
def test_a_number_that_a_float_rounds_is_refused(amount: str) -> None:
    """Above the limit to a service that reads decimals, or below it: no endpoint gets it."""
    assert not 0 <= Decimal(amount) <= 20 or float(amount) == 0
    assert status(amount) == 400


@pytest.mark.parametrize(
    "amount", ["20", "20.0", "20.00000000000000000000", "2e1", "19.99", "0.30000000000000004", "0e9"]
)
def test_a_number_that_a_double_carries_is_judged(amount: str) -> None:
    """In each spelling of a value within the limit, a float's longest included."""
    assert status(amount) == 200


@pytest.mark.parametrize("amount", ["20.01", "20.000000000000004", "-0.01", "2.1e1"])
def test_a_number_above_the_limit_is_not_allowed(amount: str) -> None:
    """By the least that a double can be above it."""
    assert status(amount) == 403


def test_no_two_readers_differ_on_what_is_read() -> None:
    """Of random digits, each number that is read has one value as float and as decimal."""
    kept = 0
    for digits in range(1, 25):
        raw = b'{"a":0.' + (b"7391846205" * 3)[:digits] + b"}"
        try:
            amount = read_json_object(raw)["a"]
        except RequestError:
            continue
        kept += 1
        assert Decimal(repr(amount)) == json.loads(raw, parse_float=Decimal)["a"]
    assert 15 <= kept < 20  # a double carries each decimal of 15 digits
