# SPDX-License-Identifier: Apache-2.0
"""A person who wrote a long number on the consent page consented to another one: only 20 characters were read."""

import pytest

from tests.mint.login import Flow, Issuer


@pytest.mark.sqlite
@pytest.mark.parametrize("amount", ["0" * 19 + "100", "1" + "0" * 400, "1_0", "٤٢", "1e1", ""])
def test_a_number_is_read_whole_or_not_at_all(flow: Flow, idp: Issuer, amount: str) -> None:
    """The page comes again, with what the person wrote."""
    idp.person = {"sub": "ann", "groups": ["leads"]}
    answer = flow.answer(flow.page(scope="refund"), order_id="o-1", amount=amount, fast="true")
    assert answer.status_code == 400
    assert "Not allowed" in answer.text
    answer = flow.answer(answer, order_id="o-1", amount=" 42 ", fast="true")
    assert "code" in flow.answer_of(answer)
