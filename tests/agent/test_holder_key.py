# SPDX-License-Identifier: Apache-2.0
"""Files of holder keys: made once, read by their owner alone, and found in the environment of a container."""

import json
from pathlib import Path

import pytest

from arx_caps.agent import find_holder_key, load_holder_key, make_holder_key
from arx_caps.agent.sessions.session_file import SessionFile
from arx_caps.credentials.keyfile import KeyFile, SigningKey, write_secret
from arx_verifier.errors import SettingsError
from tests.cli.helpers import arx

pytestmark = pytest.mark.spec("16.1")


def test_a_key_is_made_once_and_read_again(tmp_path: Path) -> None:
    """Mode 0600, no issuer and no name in it, never overwritten."""
    file = tmp_path / "worker.key"
    key = make_holder_key(file)
    assert (load_holder_key(file).public, file.stat().st_mode & 0o777) == (key.public, 0o600)
    assert json.loads(file.read_text())["x"] == key.public
    with pytest.raises(SettingsError, match="not overwritten"):
        make_holder_key(file)


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """As an operator's key is."""
    file = tmp_path / "worker.key"
    make_holder_key(file)
    file.chmod(0o640)
    with pytest.raises(SettingsError, match="other users can read it"):
        load_holder_key(file)


def test_keys_that_the_mint_knows_are_holder_keys(tmp_path: Path) -> None:
    """Of an agent, a service and a session; an operator's, a log's and a witness's key are not."""
    for role in ("agent", "service"):
        held = KeyFile.generate(role, "acme/x" if role == "agent" else "orders", "https://mint.example")
        held.save(tmp_path / role)
        assert load_holder_key(tmp_path / role).public == held.key.public.x
    key = SigningKey.generate()
    content = SessionFile("https://mint.example", {"id": "s-1"}, "arx1_x", key).content()
    write_secret(tmp_path / "session", json.dumps(content).encode())
    assert load_holder_key(tmp_path / "session").public == key.public.x
    for role in ("operator", "log", "witness"):
        KeyFile.generate(role, "alice", "https://mint.example").save(tmp_path / role)  # type: ignore[arg-type]
        with pytest.raises(SettingsError, match="expected a holder key"):
            load_holder_key(tmp_path / role)


def test_an_unusable_file_is_named_and_not_quoted(tmp_path: Path) -> None:
    """Also where its halves are of two keys; no error has a part of the private half."""
    key, other = SigningKey.generate().private_jwk(), SigningKey.generate().private_jwk()
    wrong = [key | {"x": other["x"]}, key | {"crv": "X25519"}, {"d": key["d"]}, [key["d"]], key | {"d": key["d"][:40]}]
    for number, content in enumerate(wrong):
        file = tmp_path / f"{number}.key"
        write_secret(file, json.dumps(content).encode())
        with pytest.raises(SettingsError, match=r"\d.key: expected a holder key") as raised:
            load_holder_key(file)
        assert key["d"][:12] not in repr(raised.value) + str(raised.value.__notes__)
        assert raised.value.__cause__ is None
        assert raised.value.__suppress_context__


def test_a_process_finds_its_key_in_its_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a file's path or by its content; without both there is none."""
    key = make_holder_key(tmp_path / "worker.key")
    monkeypatch.delenv("ARX_HOLDER_KEY", raising=False)
    monkeypatch.delenv("ARX_HOLDER_KEY_FILE", raising=False)
    assert find_holder_key() is None
    monkeypatch.setenv("ARX_HOLDER_KEY_FILE", str(tmp_path / "worker.key"))
    assert (found := find_holder_key()) is not None
    assert found.public == key.public
    monkeypatch.delenv("ARX_HOLDER_KEY_FILE")
    monkeypatch.setenv("ARX_HOLDER_KEY", (tmp_path / "worker.key").read_text())
    assert (found := find_holder_key()) is not None
    assert found.public == key.public
    monkeypatch.setenv("ARX_HOLDER_KEY", "d" * 43)
    with pytest.raises(SettingsError, match="ARX_HOLDER_KEY: expected a holder key") as raised:
        find_holder_key()
    assert "d" * 12 not in str(raised.value)


def test_the_command_makes_and_shows_keys(tmp_path: Path) -> None:
    """stdout has the public half alone, so that a shell can pass it on."""
    file = tmp_path / "worker.key"
    made = arx("key", "create-holder", file)
    assert (made.exit_code, made.out) == (0, f"{load_holder_key(file).public}\n")
    assert arx("key", "show", file).out == made.out
    shown = arx("key", "show", file, "--json").json
    assert (shown["schema"], shown["public"]) == ("arx/holder-key/1", made.out.strip())
    private = json.loads(file.read_text())["d"]
    again = arx("key", "create-holder", file)
    assert (again.exit_code, private in again.err + again.out + made.err) == (2, False)
