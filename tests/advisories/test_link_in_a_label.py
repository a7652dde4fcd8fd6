# SPDX-License-Identifier: Apache-2.0
"""The path of a link to connect an account became a label of the mint's metrics and a word of its log.

The route was computed from the URL, whose path a ``?`` ends that was written as %3F.  So a stranger could make labels
without end, each with an error 500, before any rate counted it; and a link before such a ``?`` was shown.
"""

import pytest

from tests.mint.harness import Harness
from tests.mint.test_access_log import lines

pytestmark = [pytest.mark.sqlite, pytest.mark.spec("CONTROL 4.6")]
__all__ = ["lines"]


@pytest.mark.parametrize("end", ["%3Fx", "%23x", "%0Ax"])
@pytest.mark.parametrize("place", ["/connect/", "/connect/callback/"])
def test_a_path_is_in_no_label_and_no_line(unit: Harness, lines: list[dict[str, object]], place: str, end: str) -> None:
    """The route has the parameter's name in its place, however the path is written."""
    canary = "canary" + "A" * 37
    answer = unit.client.get(f"{place}{canary}{end}", follow_redirects=False)
    assert answer.status_code < 500, answer.text
    name = "name" if "callback" in place else "link"
    assert [line["route"] for line in lines] == [f"{place}{{{name}}}"]
    metrics = unit.client.app.state.metrics.text().decode()  # type: ignore[attr-defined]
    assert f'route="{place}{{{name}}}"' in metrics
    assert canary not in metrics
