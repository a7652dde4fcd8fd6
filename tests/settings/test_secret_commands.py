# SPDX-License-Identifier: Apache-2.0
"""A command that writes a secret: bounded in time and output, without a shell, and quoted by no error."""

import sys
import time
from pathlib import Path

import pytest

from arx_caps.credentials import secret_source
from arx_caps.credentials.secret_source import find_secret, read_secret, run_for_secret
from arx_verifier.errors import SettingsError
from tests.cli.helpers import arx
from tests.mint.harness import make_realm

SECRET = "canary-" + "c" * 20


def test_a_command_writes_a_secret(tmp_path: Path) -> None:
    """
    Its words are those of a shell, and no shell runs them.
    """
    assert run_for_secret(f"echo '{SECRET}'") == SECRET
    assert run_for_secret("echo $HOME;id") == "$HOME;id"
    assert run_for_secret(f"sh -c 'echo {SECRET} | cat'") == SECRET
    assert read_secret(f"command:echo {SECRET}", tmp_path) == SECRET


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (f"sh -c 'echo {SECRET}; echo {SECRET} >&2; exit 3'", "sh ended with status 3"),
        ("no-such-program --token " + SECRET, "no-such-program cannot be run"),
        (f"echo '{SECRET}", "closed quotes"),
        ("", "got none"),
        (f"{sys.executable} -c 'print(\"{SECRET}\" * 1000)'", "4096 bytes of output, got more"),
    ],
)
def test_an_error_quotes_nothing(command: str, why: str, capfd: pytest.CaptureFixture[str]) -> None:
    """
    Neither the output nor the arguments are in an error, nor in what this process writes.
    """
    with pytest.raises(SettingsError, match=why) as told:
        run_for_secret(command)
    shown = [told.value, told.value.__cause__, *([] if told.value.__suppress_context__ else [told.value.__context__])]
    assert SECRET not in "".join(map(repr, shown)) + str(told.value) + "".join(capfd.readouterr())


@pytest.mark.parametrize("words", ["sleep 60", "sh -c 'sleep 60 & echo half'", "sh -c 'exec >&-; sleep 60'"])
def test_a_command_ends_in_time(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    One that writes nothing, leaves a child with its output, or closes its output and goes on.
    """
    monkeypatch.setattr(secret_source, "COMMAND_S", 0.3)
    began = time.monotonic()
    with pytest.raises(SettingsError, match="did not end within"):
        run_for_secret(words)
    assert time.monotonic() - began < 30


def test_endless_output_ends_it() -> None:
    """
    It is read no further than the limit.
    """
    with pytest.raises(SettingsError, match="got more"):
        run_for_secret("yes")


def test_one_place_names_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A variable, its file, or a command; not two of them, and an option goes before both.
    """
    file = tmp_path / "secret"
    file.write_text(SECRET)
    file.chmod(0o600)
    assert find_secret("ARX_TRIED") is None
    monkeypatch.setenv("ARX_TRIED_FILE", str(file))
    assert find_secret("ARX_TRIED") == SECRET
    assert find_secret("ARX_TRIED", "command:echo other") == "other"
    monkeypatch.setenv("ARX_TRIED", "held")
    with pytest.raises(SettingsError, match="got both"):
        find_secret("ARX_TRIED")
    monkeypatch.delenv("ARX_TRIED_FILE")
    assert find_secret("ARX_TRIED") == "held"
    monkeypatch.setenv("ARX_TRIED_FILE", "command:true")
    monkeypatch.delenv("ARX_TRIED")
    with pytest.raises(SettingsError, match="ARX_TRIED_FILE: expected a secret of one line"):
        find_secret("ARX_TRIED")


def test_the_doctor_names_secrets_in_variables(tmp_path: Path) -> None:
    """
    Their names and the repair, never their values; nothing when a file has them.
    """
    realm = make_realm(tmp_path / "realm")
    home = {"ARX_HOME": str(realm.folder)}
    found = environment_check(home | {"ARX_STORE_PASSWORD": SECRET, "ARX_ROOT_PASSPHRASE": SECRET})
    assert found["ok"] is True
    assert found["found"].startswith("ARX_STORE_PASSWORD ARX_ROOT_PASSPHRASE: ")
    assert "`_FILE`" in found["mend"]
    assert environment_check(home)["mend"] == ""


@pytest.mark.parametrize("name", ["store", "ledger"])
def test_the_doctor_goes_on_after_an_unusable_file(name: str, tmp_path: Path) -> None:
    """
    A file of a password that others can read is a failed check of its server; all others are made.
    """
    realm = make_realm(tmp_path / "realm")
    file = tmp_path / "open"
    file.write_text(SECRET)
    file.chmod(0o644)
    tmp_path.chmod(0o755)
    done = arx("doctor", "--json", env={"ARX_HOME": str(realm.folder), f"ARX_{name.upper()}_PASSWORD_FILE": str(file)})
    checks = {check["name"]: check for check in done.json["checks"]}
    assert checks[name]["ok"] is False
    assert "can be read by others" in checks[name]["found"]
    assert checks["policy"]["ok"] is True
    assert SECRET not in done.out + done.err


def environment_check(env: dict[str, str]) -> dict[str, object]:
    done = arx("doctor", "--json", env=env)
    assert SECRET not in done.out + done.err
    return next(check for check in done.json["checks"] if check["name"] == "environment")
