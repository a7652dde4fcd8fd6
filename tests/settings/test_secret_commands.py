# SPDX-License-Identifier: Apache-2.0
"""A command that writes a secret: bounded in time and output, without a shell, and quoted by no error."""

import os
import sys
import time
from pathlib import Path

import pytest

from arx_caps.credentials import secret_source
from arx_caps.credentials.secret_source import find_secret, run_for_secret
from arx_verifier.errors import SettingsError
from arx_verifier.revocation.password import find_password
from tests.cli.helpers import arx
from tests.mint.harness import make_realm
from tests.servers import until

SECRET = "canary-" + "c" * 20


def test_a_command_writes_a_secret() -> None:
    """
    Its words are those of a shell, and no shell runs them.
    """
    assert run_for_secret(f"command:echo '{SECRET}'") == SECRET
    assert run_for_secret("command:echo $HOME;id") == "$HOME;id"
    assert run_for_secret(f"command:sh -c 'echo {SECRET} | cat'") == SECRET


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (f"sh -c 'echo {SECRET}; echo {SECRET} >&2; exit 3'", "sh ended with status 3"),
        ("no-such-program --token " + SECRET, "no-such-program cannot be run"),
        (f"echo '{SECRET}", "closed quotes"),
        ("", "closed quotes"),
        (f"echo \0{SECRET}", "echo cannot be run"),
        (f"{sys.executable} -c 'print(\"{SECRET}\" * 1000)'", "4096 bytes of output, got more"),
        (f"printf '{SECRET}\\n{SECRET}'", "one line"),
        (f"printf '{SECRET}\\377'", "one line"),
        (f"true {SECRET}", "got an empty one"),
    ],
)
def test_an_error_quotes_nothing(command: str, why: str, capfd: pytest.CaptureFixture[str]) -> None:
    """
    Neither the output nor the arguments are in an error, nor in what this process writes.
    """
    with pytest.raises(SettingsError, match=why) as caught:
        run_for_secret(f"command:{command}")
    shown = [
        caught.value,
        caught.value.__cause__,
        *([] if caught.value.__suppress_context__ else [caught.value.__context__]),
    ]
    assert SECRET not in "".join(map(repr, shown)) + str(caught.value) + "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "words", ["exec sleep 60", "sleep 60 & echo half", "exec >&-; sleep 60", "(sleep 60 | sleep 60) & sleep 60"]
)
def test_a_command_ends_in_time(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    One that writes nothing, leaves a child with its output, or closes its output and goes on; and what it started.
    """
    monkeypatch.setattr(secret_source, "COMMAND_S", 0.5)
    began = time.monotonic()
    with pytest.raises(SettingsError, match="did not end within"):
        run_for_secret(f"command:sh -c 'echo $$ > {tmp_path}/group; {words}'")
    assert time.monotonic() - began < 30
    group = int((tmp_path / "group").read_text())
    until(lambda: not in_group(group))


def in_group(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_endless_output_ends_it() -> None:
    """
    It is read no further than the limit.
    """
    with pytest.raises(SettingsError, match="got more"):
        run_for_secret("command:yes")


def test_one_place_names_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A variable, its file, or a command; not two of them.
    """
    file = tmp_path / "secret"
    file.write_text(SECRET)
    file.chmod(0o600)
    assert find_secret("ARX_TRIED") is None
    monkeypatch.setenv("ARX_TRIED_FILE", str(file))
    assert find_secret("ARX_TRIED") == SECRET
    monkeypatch.setenv("ARX_TRIED", "held")
    with pytest.raises(SettingsError, match="got both"):
        find_secret("ARX_TRIED")
    monkeypatch.delenv("ARX_TRIED_FILE")
    assert find_secret("ARX_TRIED") == "held"
    monkeypatch.setenv("ARX_TRIED_FILE", "command:true")
    monkeypatch.delenv("ARX_TRIED")
    with pytest.raises(SettingsError, match="ARX_TRIED_FILE: true: expected a secret, got an empty"):
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
    url = {"ARX_STORE_URL": f"redis://arx:{SECRET}@redis.invalid", "ARX_DATABASE": "postgresql://arx@db.invalid/arx"}
    assert environment_check(home | url)["found"].startswith("ARX_STORE_URL: ")


@pytest.mark.parametrize("name", ["STORE", "LEDGER", "NONCES", "DATABASE", "RELAY"])
def test_no_login_runs_a_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A password is read at each login, which may wait for no program; the refusal names the variable and no word of it.
    """
    variable = f"ARX_{name}_PASSWORD"
    monkeypatch.setenv(f"{variable}_FILE", f"command:echo {SECRET}")
    with pytest.raises(SettingsError, match=f"{variable}_FILE: expected a file, got a command") as caught:
        find_password(variable)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("setting", ["login_client_secret", "from"])
def test_no_setting_of_a_file_is_a_command(setting: str, tmp_path: Path) -> None:
    """
    A realm's login and a gateway's upstream name a variable or a file; the refusal names the setting and no word of it.
    """
    realm = make_realm(tmp_path / "realm")
    if setting == "from":
        gateway = tmp_path / "gateway.toml"
        credential = f'{{ kind = "bearer", from = "command:echo {SECRET}" }}'
        gateway.write_text(f'[upstream.tools]\nurl = "https://tools.invalid/mcp"\ncredential = {credential}\n')
        done = arx("gateway", str(gateway), "--check")
    else:
        with (realm.folder / "realm.toml").open("a") as file:
            file.write(
                f'\nlogin_issuer = "https://id.invalid"\nlogin_client_id = "x"\n{setting} = "command:echo {SECRET}"\n'
            )
        done = arx("doctor", env={"ARX_HOME": str(realm.folder)})
    assert done.exit_code != 0
    assert f"{setting}: " in done.out + done.err
    assert "env:NAME" in done.out + done.err
    assert SECRET not in done.out + done.err


@pytest.mark.parametrize("name", ["store", "ledger"])
def test_the_doctor_goes_on_after_an_unusable_file(name: str, tmp_path: Path) -> None:
    """
    A file of a password that others can read is a failed check, of its server too; all others are made.
    """
    realm = make_realm(tmp_path / "realm")
    file = tmp_path / "open"
    file.write_text(SECRET)
    file.chmod(0o644)
    tmp_path.chmod(0o755)
    done = arx("doctor", "--json", env={"ARX_HOME": str(realm.folder), f"ARX_{name.upper()}_PASSWORD_FILE": str(file)})
    checks = {check["name"]: check for check in done.json["checks"]}
    assert checks[name]["ok"] is False
    assert checks["environment"]["ok"] is False
    assert "can be read by others" in checks[name]["found"]
    assert checks["policy"]["ok"] is True
    assert SECRET not in done.out + done.err


def environment_check(env: dict[str, str]) -> dict[str, object]:
    done = arx("doctor", "--json", env=env)
    assert SECRET not in done.out + done.err
    return next(check for check in done.json["checks"] if check["name"] == "environment")
