# SPDX-License-Identifier: Apache-2.0
"""A form of the console that was changed and sent again showed the kill before it, and killed nothing."""

import pytest

from arx_caps.console.pages.kills import DIALOG
from tests.console.harness import sign_in
from tests.mint.harness import Harness


@pytest.mark.sqlite
def test_a_changed_form_is_another_kill(live: Harness) -> None:
    """The browser's Back shows the form with the number that it had: what it says counts as well."""
    browser = sign_in(live)
    browser.get(DIALOG)
    form = {"targets": "agent:acme/a", "what": "kill", "reason": "now", "do": "go", "form": "f1"}
    changes = ({}, {}, {"targets": "agent:acme/b"}, {"what": "kill+freeze"}, {"reason": "another"})
    made = []
    for change in changes:
        browser.post(DIALOG, **{**form, **change})
        assert browser.page is not None
        made.append(browser.page.url.path)
    assert made[0] == made[1]
    assert len(set(made)) == len(changes) - 1
