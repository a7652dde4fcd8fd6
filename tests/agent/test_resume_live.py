# SPDX-License-Identifier: Apache-2.0
"""A session, its task and an approval outlive their process: taken up again from files, with a real mint."""

import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from arx_caps.agent import Agent
from arx_caps.embedded import EmbeddedValkey
from arx_verifier.errors import AttenuationError, GrantError, RequestError, SettingsError, TokenError
from arx_verifier.verification.verifier import Verifier
from tests.agent.live import LiveMint, judged, live_mint
from tests.servers import free_ports, until

pytestmark = pytest.mark.servers

REFUND = {"order_id": "o-1", "amount": 500}


@pytest.fixture(scope="module")
def mint(valkey: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveMint]:
    """One running mint for this file."""
    (port,) = free_ports(1)
    with live_mint(tmp_path_factory.mktemp("resume"), store_url=valkey.url, name="resume", port=port) as live:
        yield live


@pytest.fixture
def payments(mint: LiveMint) -> Iterator[Verifier]:
    """The service, which runs before the approval is given: it accepts none that is older than its nonces."""
    with mint.service("payments") as verifier:
        yield verifier


@pytest.mark.spec("6.6", "CONTROL 2.7")
def test_an_approval_is_used_after_a_restart(mint: LiveMint, payments: Verifier, tmp_path: Path) -> None:
    """Asked for by one process, approved while none runs, used by the next one; only with its arguments."""
    key = mint.enrol("acme/support/night")
    with Agent.from_key_file(key) as first:
        session = first.open_session(purpose="a payout")
        other = session.start_task("refund", order_id="o-2", amount=1)
        until(lambda: judged(payments, other, "payments.refund", {"order_id": "o-2", "amount": 1}) == "ok")
        task = session.start_task("payout", order_id="o-1")
        session.save(tmp_path / "session.json")
        task.save(tmp_path / "task")
        asked = task.ask_approval("payments.refund", REFUND).id
    mint.operator("POST", "/v1/approvals", body={"approval": asked, "outcome": "approve", "why": None})
    with (
        Agent.from_key_file(key) as second,
        second.resume_session(tmp_path / "session.json") as session,
        session.resume_task(tmp_path / "task") as task,
    ):
        approval = session.approval(asked)
        assert (approval.state, approval.args) == ("approved", REFUND)
        held = [approval.wait(timeout_s=20)]
        assert judged(payments, task, "payments.refund", REFUND | {"amount": 501}, *held) == "argument_not_allowed"
        assert judged(payments, task, "payments.refund", REFUND, *held) == "ok"
    assert not (tmp_path / "session.json").exists(), "a session that was ended leaves a file"
    assert stat.S_IMODE((tmp_path / "task").stat().st_mode) == 0o600


@pytest.mark.spec("CONTROL 1")
def test_the_file_follows_the_renewals(mint: LiveMint, tmp_path: Path) -> None:
    """A session with an idle limit: its file holds the newest token, so a restart finds it open."""
    file = tmp_path / "session.json"
    with mint.agent("acme/idle/kept") as agent:
        session = agent.open_session(keep=False)
        session.save(file)
        before = json.loads(file.read_text("ascii"))
        session.renew()
        after = json.loads(file.read_text("ascii"))
        assert before["token"] != after["token"]
        assert after["session"]["id"] == session.id
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        for text in (before["token"], after["token"], after["key"]["d"]):
            assert text not in repr(session)


def test_what_cannot_be_taken_up_says_why(mint: LiveMint, tmp_path: Path) -> None:
    """An ended session, one of another mint, a file that others can read, a task of another session, a strange id."""
    with mint.agent("acme/support/said") as agent:
        session = agent.open_session()
        session.save(tmp_path / "a.json")
        content = (tmp_path / "a.json").read_text("ascii")
        task = session.start_task("look", order_id="o-1")
        task.save(tmp_path / "task")
        other = agent.open_session()
        with pytest.raises(AttenuationError, match="is of another session"):
            other.resume_task(tmp_path / "task")
        for strange in ("o-1", "a-", "a-../../x", "a-x?y"):
            with pytest.raises(RequestError, match="not the id of an approval"):
                other.approval(strange)
        (tmp_path / "open.json").write_text(content, "ascii")
        with pytest.raises(SettingsError, match="other users can read it") as caught:
            agent.resume_session(tmp_path / "open.json")
        assert "chmod 600" in str(caught.value.hint)
        elsewhere = tmp_path / "elsewhere.json"
        elsewhere.touch(0o600)
        elsewhere.write_text(content.replace(str(mint.realm.issuer), "http://127.0.0.1:1"), "ascii")
        with pytest.raises(SettingsError, match=re.escape("is of the mint at http://127.0.0.1:1")):
            agent.resume_session(elsewhere)
        elsewhere.write_text("{}", "ascii")
        with pytest.raises(SettingsError, match="expected a session file"):
            agent.resume_session(elsewhere)
        with pytest.raises(SettingsError, match="cannot be read"):
            agent.resume_session(tmp_path / "missing.json")
        ended = tmp_path / "ended.json"
        ended.touch(0o600)
        ended.write_text(content, "ascii")
        session.end()
        until(lambda: _refused(agent, ended))


def _refused(agent: Agent, file: Path) -> bool:
    try:
        agent.resume_session(file)
    except (TokenError, GrantError) as error:
        return error.code in ("revoked", "session_ended", "expired")
    return False
