# SPDX-License-Identifier: Apache-2.0
"""``arx login``: a device code at a real issuer, and what the command line may do until the login ends."""

import json
import shutil
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from arx_caps.cli import exit_codes
from arx_caps.cli.access.device_login import DeviceCode, DeviceLogin
from arx_caps.cli.commands.doctor.login import check_login
from arx_caps.cli.exit_codes import Stop
from arx_caps.settings.realm import Login, Realm
from tests.cli.helpers import arx
from tests.cli.live import Live
from tests.mint.login import MINT_CLIENT, Issuer, idp, settings  # noqa: F401 - a fixture
from tests.mint.test_operator_login import CLI, POLICY

pytestmark = pytest.mark.spec("CONTROL 1.7")

PENDING = ({"error": "authorization_pending"}, 400)
SLOWER = ({"error": "slow_down"}, 400)


def code(issuer: Issuer, **changes: Any) -> tuple[dict[str, Any], int]:
    """Return an issuer's answer with a device code."""
    answer = {"device_code": "d-secret", "user_code": "ABCD-EFGH", "verification_uri": f"{issuer.url}/activate"}
    return {**answer, "expires_in": 60, "interval": 1} | changes, 200


@pytest.fixture
def issuer(idp: Issuer) -> Issuer:  # noqa: F811
    """An issuer that knows device codes."""
    idp.metadata["device_authorization_endpoint"] = f"{idp.url}/device"
    idp.claims = {"aud": CLI}
    idp.person = {"sub": "ann", "groups": ["sre"]}
    return idp


def run(issuer: Issuer, *answers: tuple[dict[str, Any], int]) -> tuple[str, list[float], list[DeviceCode]]:
    """Log in with these answers of the issuer; returns the token, the waits and what was shown."""
    issuer.devices = [code(issuer), *answers]
    waits: list[float] = []
    shown: list[DeviceCode] = []
    return DeviceLogin(issuer.url, CLI, "openid", None, shown.append, waits.append).run(), waits, shown


def test_the_issuer_is_asked_as_often_as_it_wants(issuer: Issuer) -> None:
    """It waits before each question, and for each ``slow_down`` five seconds longer, for good."""
    token, waits, (shown,) = run(issuer, PENDING, SLOWER, PENDING, SLOWER, ({"id_token": "a.b.c"}, 200))
    assert (token, waits) == ("a.b.c", [1, 1, 6, 6, 11])
    assert shown.user_code == "ABCD-EFGH"
    assert "d-secret" not in repr(shown)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (({"error": "access_denied"}, 400), "refused"),
        (({"error": "expired_token"}, 400), "in time"),
        (({"error": "invalid_grant"}, 400), "invalid_grant"),
        (({"access_token": "x"}, 200), "without an ID token"),
        (({}, 500), "without an error"),
        (({"error": "x" * 70_000}, 400), "more than 65536 bytes"),
    ],
)
def test_a_login_that_fails_says_why(issuer: Issuer, answer: tuple[dict[str, Any], int], expected: str) -> None:
    """And asks no more."""
    with pytest.raises(Stop, match=expected):
        run(issuer, PENDING, answer, PENDING)
    assert issuer.devices == [PENDING]


def test_an_unconfirmed_code_ends(issuer: Issuer) -> None:
    """When the issuer said so, whatever it answers."""
    issuer.devices = [code(issuer, expires_in=0)]
    with pytest.raises(Stop, match="in time"):
        DeviceLogin(issuer.url, CLI, "openid", None, lambda _: None, lambda _: None).run()


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"device_authorization_endpoint": ""}, "knows no device codes"),
        ({"device_authorization_endpoint": "http://idp.example/device"}, "not https"),
        ({"token_endpoint": "http://idp.example/token"}, "not https"),
        ({"issuer": "https://other.example"}, "another name"),
    ],
)
def test_an_issuer_that_could_be_another_is_refused(issuer: Issuer, metadata: dict[str, str], expected: str) -> None:
    """Before anything is sent to it."""
    issuer.metadata |= metadata
    with pytest.raises(Stop, match=expected):
        run(issuer)
    assert len(issuer.devices) == 1


@pytest.mark.parametrize("page", ["http://idp.example/activate", "javascript:alert(1)", "https://"])
def test_a_page_that_is_not_https_is_not_shown(issuer: Issuer, page: str) -> None:
    """The person would type a password there."""
    issuer.devices = [code(issuer, verification_uri=page)]
    with pytest.raises(Stop, match="not https"):
        DeviceLogin(issuer.url, CLI, "openid", None, lambda _: pytest.fail("it was shown"), lambda _: None).run()


def test_doctor_checks_what_operators_need(issuer: Issuer, tmp_path: Path, realm_template: Path) -> None:
    """The issuer of each entry, device codes, and the time of a login, without which none is recent."""
    login = Login(issuer.url, MINT_CLIENT, None, "openid", CLI)
    realm = replace(Realm.open(shutil.copytree(realm_template, tmp_path / "realm")), login=login)
    policy = POLICY.format(issuer=issuer.url)
    realm.policy_path.write_text(policy)

    def found() -> list[tuple[bool | None, str]]:
        return [(check.ok, check.found) for check in check_login(realm) if check.name == "operators"]

    issuer.metadata["claims_supported"] = ["sub", "auth_time"]
    assert found() == [(True, "the policy makes people operators: responder, read-only")]
    issuer.metadata |= {"claims_supported": ["sub"], "device_authorization_endpoint": ""}
    assert [ok for ok, _ in found()] == [True, None, False]
    realm.policy_path.write_text(policy.replace(f'url = "{issuer.url}"', 'url = "https://other.example"'))
    assert found()[0][0] is False


def test_an_operator_without_a_login_gets_a_hint(tmp_path: Path) -> None:
    """It names the command; ``arx logout`` has nothing to do."""
    home = {"XDG_CONFIG_HOME": str(tmp_path), "ARX_HOME": str(tmp_path / "none")}
    ran = arx("whoami", env=home)
    assert (ran.exit_code, "`arx login`" in ran.err) == (exit_codes.USAGE, True)
    ran = arx("logout", "--issuer", "http://127.0.0.1:1", "--json", env=home)
    assert (ran.exit_code, ran.json["code"]) == (exit_codes.USAGE, "no_key")


@pytest.mark.slow
@pytest.mark.servers
def test_a_person_logs_in_works_and_logs_out(
    issuer: Issuer, tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is the login's alone, mode 0600, and of no use after the logout."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder, url = tmp_path / "realm", f"http://127.0.0.1:{free_port}"
    assert arx("init", folder, "--name", "acme", "--issuer", url).exit_code == 0
    with (folder / "realm.toml").open("a") as file:
        file.write(settings(issuer.url, "openid groups") + f"login_device_client_id = {json.dumps(CLI)}\n")
    (folder / "policy.toml").write_text(POLICY.format(issuer=issuer.url))
    (folder / "operator.key").rename(tmp_path / "safe.key")
    realm = Live(folder, free_port)
    try:
        issuer.devices = [code(issuer), PENDING, ({"id_token": issuer.id_token()}, 200)]
        output = realm.run("login")
        assert (output[0], output[1].get("operator")) == (exit_codes.OK, "corp.ann"), output
        assert "ABCD-EFGH" in output[2]
        key = Path(output[1]["key_file"])
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700
        whoami = realm.ok("whoami")
        assert (whoami["name"], whoami["role"]) == ("corp.ann", "responder")
        assert realm.run("policy", "reload")[1]["code"] == "tool_not_allowed"
        kept = key.read_bytes()
        assert realm.ok("logout") == {"schema": "arx/logout/1", "operator": "corp.ann"}
        assert not key.exists()
        # A copy of the key that a thief made before.
        key.touch(mode=0o600)
        key.write_bytes(kept)
        exit_code, refused, err = realm.run("whoami")
        assert (exit_code, refused["code"]) == (exit_codes.UNAUTHENTICATED, "bad_assertion")
        assert "`arx login`" in err
        assert realm.ok("logout")["operator"] == "corp.ann"
    finally:
        realm.stop()
