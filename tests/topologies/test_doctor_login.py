# SPDX-License-Identifier: Apache-2.0
"""``arx doctor`` finds what is wrong with the login, against a real issuer."""

from dataclasses import replace
from pathlib import Path

from arx_caps.cli.commands.doctor.login import check_login
from arx_caps.settings.realm import Login, Realm
from arx_caps.settings.self_registration import SelfRegistration
from tests.mint.login import MINT_CLIENT, POLICY, Issuer


def findings(realm: Realm) -> dict[str, bool | None]:
    return {check.name: check.ok for check in check_login(realm)}


def test_the_login_is_checked(idp: Issuer, tmp_path: Path, realm_template: Path) -> None:
    """Secret, policy, issuer, clock and registration: each fails by itself, and its text names no secret."""
    login = Login(idp.url, MINT_CLIENT, "env:ARX_TEST_LOGIN_SECRET", "openid")
    (tmp_path / "policy.toml").write_text(POLICY.format(issuer=idp.url))
    realm = replace(Realm.open(realm_template), folder=tmp_path, login=login)
    well = {"login's secret": True, "login's issuer": True, "login's clock": True, "login": True}
    assert findings(realm) == well
    assert findings(replace(realm, login=None)) == {}
    secret = tmp_path / "login.secret"
    secret.write_text("s3cret")
    secret.chmod(0o644)
    tmp_path.chmod(0o755)  # in a folder of one user alone, the file's own mode does not matter
    of_file = replace(realm, login=login._replace(client_secret="file:login.secret"))
    assert findings(of_file) == well | {"login's secret": False}
    assert "s3cret" not in repr(list(check_login(of_file)))
    assert findings(replace(realm, login=login._replace(client_secret="env:ARX_TEST_NONE"))) == well | {
        "login's secret": None
    }
    assert findings(replace(realm, issuer="https://other.example")) == well | {"login": False}
    asked = SelfRegistration("acme/support/apps", ("lookup",))
    assert findings(replace(realm, clients=asked)) == well | {"clients": True}
    assert findings(replace(realm, clients=asked._replace(scopes=("lookup", "lokup")))) == well | {"clients": False}
    idp.answer = {"error": "invalid_scope"}
    assert findings(realm) == well | {"login": False}
    idp.answer = {"error": "login_required"}
    assert findings(realm) == well
    idp.answer = {}
    idp.metadata = {"issuer": "https://other.example"}
    assert findings(realm) == well | {"login": False}
    away = replace(realm, login=login._replace(issuer="http://127.0.0.1:1"))
    assert findings(away) == {"login's secret": True, "login's issuer": False, "login": False}
