# SPDX-License-Identifier: Apache-2.0
"""A workload that was removed from the policy could go on renewing its sessions.

A policy takes two workloads of one issuer for an agent, two repositories or two service accounts, and one of them falls
into other hands and is taken out of it.  It opened no session from then on, but those that it had were renewed up to
their absolute limit, because the agent still had a workload at that issuer: the other one.
"""

import pytest

from tests.mint.harness import Harness
from tests.mint.test_identity_sessions import CI, DEPLOY, MAIN, POLICY, ask, ci
from tests.mint.workloads import WORKLOADS

pytestmark = WORKLOADS

SHOP, SITE = MAIN, MAIN.replace("shop", "site")
EACH = f"""
[[workload]]
issuer = "ci"
claims = {{ sub = "%s" }}
agent = "{DEPLOY}"
"""
BEFORE, _, REST = POLICY.partition("[[workload]]\n")
AFTER = REST[REST.index("[[workload]]") :]


def put(harness: Harness, *subs: str) -> None:
    harness.realm.policy_path.write_text(BEFORE + "".join(EACH % sub for sub in subs) + AFTER)
    harness.mint.reload_policy()


@pytest.mark.parametrize("left", [SITE, SITE.replace("site", "s*e")])
def test_who_is_taken_out_renews_nothing(unit: Harness, left: str) -> None:
    """
    The workload that stays renews as before, by its name or by a pattern.
    """
    put(unit, SHOP, SITE)
    unit.enrol(DEPLOY)
    held = {sub: ask(unit, {"workload_token": ci(iss=CI, sub=sub)}) for sub in (SHOP, SITE)}
    put(unit, left)
    codes = {}
    for sub, (holder, value) in held.items():
        codes[sub] = holder.call("POST", f"/v1/sessions/{value['session']['id']}/renew").json().get("code", "ok")
    assert codes == {SHOP: "session_not_allowed", SITE: "ok"}
