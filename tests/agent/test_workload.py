# SPDX-License-Identifier: Apache-2.0
"""An agent that its platform vouches for: its token, its subject, and the error where the token cannot be read.

That a mint believes it is held by docs/identity.md, which runs, and by tests/mint/test_identity_*.py.
"""

from pathlib import Path

import pytest

from arx_caps.agent.sessions.agent import ACCESS_TOKEN, ID_TOKEN, MAX_TOKEN_BYTES, on_behalf, read_token_file
from arx_caps.cli import exit_codes
from arx_verifier.errors import RequestError, SettingsError
from tests.cli.helpers import arx

ISSUER = "http://127.0.0.1:8700"
TOKEN = "eyJhbGciOiJFUzI1NiIsImtpZCI6IjEifQ.e30.c2lnbmF0dXJl"


@pytest.mark.parametrize("content", [b"", b"secret", b"a.b", b"\xff.a.b", b"a.b.c" + b"c" * MAX_TOKEN_BYTES])
def test_what_is_no_token_is_not_sent(tmp_path: Path, content: bytes) -> None:
    """A wrong file is named, and nothing of what is in it."""
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        read_token_file(file)
    assert str(caught.value) == f"{file}: what is in it is no JWT"


def test_a_session_is_on_behalf_of_one() -> None:
    """An ID token or an access token, each as RFC 8693 names its kind; not both."""
    assert on_behalf(None, None) == {}
    assert on_behalf(TOKEN, None) == {"subject_token": TOKEN, "subject_token_type": ID_TOKEN}
    assert on_behalf(None, TOKEN + "\n") == {"subject_token": TOKEN, "subject_token_type": ACCESS_TOKEN}
    with pytest.raises(RequestError):
        on_behalf(TOKEN, TOKEN)


def test_the_command_gets_who_and_where(tmp_path: Path) -> None:
    """One way to be known, and for a workload the mint's address; else usage, and a way out."""
    file = tmp_path / "token"
    file.write_text(TOKEN)
    for words in ((), ("--key", file, "--workload-token", file), ("--workload-token", file)):
        ran = arx("session", "open", *words)
        assert (ran.exit_code, "hint:" in ran.err) == (exit_codes.USAGE, True)
    ran = arx("session", "open", "--workload-token", tmp_path / "none", "--issuer", ISSUER)
    assert (ran.exit_code, "No such file" in ran.err) == (exit_codes.USAGE, True)
    ran = arx(
        "session", "open", "--workload-token", file, "--issuer", ISSUER, "--id-token", file, "--access-token", file
    )
    assert (ran.exit_code, "one person" in ran.err) == (exit_codes.USAGE, True)
