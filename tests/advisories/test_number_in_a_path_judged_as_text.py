# SPDX-License-Identifier: Apache-2.0
"""A limit such as ``max = 10`` on a number in a path refused every call, so authors left it out and callers chose.

The rules saw the text ``"7"`` of ``/refund/7``, and no integer.  A parameter of the path is judged as the number that
the endpoint gets, and a text that two readers could take for different numbers is refused.
"""

import json
import os
import subprocess
import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from arx_caps.agent.tasks.forecast import forecast
from arx_verifier import Constraint, Rule
from arx_verifier.enforcement.base.routes import RouteMap
from arx_verifier.errors import RequestError
from arx_verifier.request import AccessRequest
from tests.routes import number_cases
from tests.routes.confusion import MAX_INTEGER, NUMBERS
from tests.routes.environments import ROOT, VERSIONS, prepare
from tests.support import QUICK
from tests.verifier.serving import Realm, answered

CHECK = "from tests.routes.number_cases import check; check({!r})"
AT_MOST_10 = Rule(tool="orders.refund", args={"amount": Constraint(max=10)})
TABLE = {"POST /refund/{amount:int}": "orders.refund"}


def test_starlette_gives_the_number_that_was_judged() -> None:
    """Each short text leads to its number within the limit, or to a refusal."""
    number_cases.check("starlette")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["flask", *(pytest.param(name, marks=pytest.mark.nightly) for name in ("fastapi", "django"))]
)
def test_each_framework_gives_the_number_that_was_judged(name: str) -> None:
    """The same in the others, each in an environment of its own."""
    words = [str(prepare(name, VERSIONS[name])), "-W", "ignore", "-c", CHECK.format(name)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(("amount", "status"), [("7", 200), ("10", 200), ("11", 403), ("-1", 200), ("007", 400)])
def test_a_table_of_routes_declares_it(amount: str, status: int) -> None:
    """For an application or an upstream of which no routes are seen; the refusal names the number."""
    realm = Realm()
    answer = answered(realm, f"/refund/{amount}", realm.token(rules=(AT_MOST_10,)).encode(), method="POST", tools=TABLE)
    assert answer.status == status
    if status == 403:
        assert json.loads(answer.body)["failures"][0]["came"] == amount
    if status == 400:
        assert "in the path: expected int, such as 7, and not 007" in json.loads(answer.body)["detail"]


@pytest.mark.parametrize("amount", [7, 10, 11, -1, MAX_INTEGER])
def test_an_agent_foresees_the_answer(amount: int) -> None:
    """It names the number, and the service judges the same one: for a forecast, an approval, a link."""
    realm = Realm()
    token = realm.token(rules=(AT_MOST_10,))
    foreseen = forecast(token, AccessRequest("orders.refund", {"amount": amount}, time.time_ns() // 1_000_000))
    answer = answered(realm, f"/refund/{amount}", token.encode(), method="POST", tools=TABLE)
    assert (answer.status == 200) == bool(foreseen)


@QUICK
@given(st.text(max_size=8) | st.integers().map(str) | st.floats().map(str) | st.sampled_from(NUMBERS))
@example("\u0667")
@example("7\n")
def test_any_text_is_its_number_or_refused(text: str) -> None:
    """A text is judged as a number only if Python writes that number so; a longer integer stays its text."""
    for kind in ("int", "number"):
        routes, judged = RouteMap({f"GET /a/{{n:{kind}}}": "a.get"}), None
        scope = {"method": "GET", "path": f"/a/{text}", "query_string": b"", "headers": []}
        try:
            found: Any = routes(scope, b"")
        except RequestError:
            continue
        if found is None:
            assert text == "" or "/" in text
            continue
        judged = found[1]["n"]
        if type(judged) is str:
            assert judged == text == str(int(text))
            assert abs(int(text)) > MAX_INTEGER
        elif type(judged) is int:
            assert text == str(judged)
            assert abs(judged) <= MAX_INTEGER
        else:
            assert kind == "number"
            assert text.isascii()
            assert float(text) == judged
