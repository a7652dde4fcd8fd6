# SPDX-License-Identifier: Apache-2.0
"""A service that could not write its journal refused every call with 503 and logged nothing.

Its operator found no folder, no line and no cause.  Now an error names the path, what the system said and what to do,
once an outage, and a line reports its end.
"""

import logging
from pathlib import Path

import pytest

from arx_verifier.errors import AuditError
from arx_verifier.journal.writer import Journal
from tests.support import access, mint, sign, verifier
from tests.verifier.journals import allow, small


def outage(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    values = [
        (record.levelno, record.getMessage())
        for record in caplog.records
        if record.name == "arx_verifier.journal.writer"
    ]
    caplog.clear()
    return values


def test_it_is_logged_once_an_outage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """
    A file in the folder's place: one error for many refusals, a warning once it is gone, and an error the next time.
    """
    folder = tmp_path / "j"
    journal, times = small(folder), 2
    for _ in range(times):
        folder.write_text("")
        for _ in range(3):
            with pytest.raises(AuditError):
                journal.append(allow())
            journal._retry_at_s = 0.0  # the second is over after which it tries again
        [(level, answer)] = outage(caplog)
        assert level == logging.ERROR
        for expected in (str(folder), "File exists (EEXIST)", "audit_unavailable", "`journal`"):
            assert expected in answer
        folder.unlink()
        assert journal.append(allow()) > 0
        assert outage(caplog) == [(logging.WARNING, f"the decision journal {folder} is written again")]
        journal.close()
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    assert outage(caplog) == []


def test_a_refused_call_is_in_the_log_and_no_secret(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """
    As a service meets it, with a call; in ``best_effort`` calls go on, and the log records that.
    """
    (tmp_path / "j").write_text("")
    token, request = sign(mint(), access()), access()
    strict = verifier(decisions=Journal(tmp_path / "j", "v", "orders"))
    assert strict.decide(token, request).code == "audit_unavailable"
    loose = verifier(decisions=Journal(tmp_path / "j", "v", "orders", mode="best_effort"))
    assert loose.decide(token, request).code == "ok"
    (_, refused), (_, unrecorded) = outage(caplog)
    assert "calls are refused" in refused
    assert "calls go unrecorded" in unrecorded
    assert token not in caplog.text
