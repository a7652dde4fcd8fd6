# SPDX-License-Identifier: Apache-2.0
"""A stranger made the mint fail, with a traceback in its log for each request, by cookies whose names are none.

The mint deletes the oldest cookies of a browser with many logins, and wrote their names as it had got them.
"""

import pytest

from tests.mint.login import Flow


@pytest.mark.sqlite
@pytest.mark.parametrize("name", ["arx-login-(1)", "arx-login-a b", "arx-login-/../1234", "arx-login-"])
def test_a_cookie_of_another_name_is_left_alone(flow: Flow, name: str) -> None:
    """The login begins as without it, and no header has it."""
    first = flow.begin()
    flow.browser.cookies.clear()
    cookies = "; ".join(f"{name}{number}=x" for number in range(8))
    flow.browser.headers["Cookie"] = cookies
    begun = flow.begin()
    assert (first.status_code, begun.status_code) == (303, 303)
    [made] = begun.headers.get_list("set-cookie")
    assert made.startswith("arx-login-")
    assert "Max-Age=600" in made
