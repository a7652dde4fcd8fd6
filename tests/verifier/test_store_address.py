# SPDX-License-Identifier: Apache-2.0
"""Addresses of stores: what they mean, what is refused, and that no password is shown.  Servers: tests/topologies."""

import pytest
from redis.connection import SSLConnection

from arx_verifier.errors import SettingsError
from arx_verifier.revocation.password import PasswordFile
from arx_verifier.revocation.store_url import Address, FileLogin


@pytest.mark.parametrize(
    "url",
    [
        "",
        "store",
        "http://store",
        "redis+sentinel://store",
        "redis+sentinel://store/",
        "redis+sentinel://store/kills/x",
        "redis+sentinel:///kills",
        "redis+sentinel://one,,two/kills",
        "redis+sentinel://one:hunter2x/kills",
        "redis+sentinel://one/path,two/kills",
        "redis+cluster://one/kills",
        "redis+cluster://",
        "unix+cluster://one",
        "redis+proxy://one",
        "redis+cluster://user:hunter2@one,user:hunter2@two",
        "redis://:hunter2/3@store",
        "redis+sentinel://one/kills?db=hunter2",
    ],
)
def test_what_is_no_address_is_refused_without_repeating_it(url: str) -> None:
    """
    It may hold a password in the wrong place.
    """
    with pytest.raises(SettingsError) as caught:
        Address(url, realm="acme")
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("query", ["ssl_cert_reqs=none", "ssl_cert_reqs=optional", "ssl_check_hostname=False"])
@pytest.mark.parametrize("base", ["rediss://store", "rediss+sentinel://store/kills", "rediss+cluster://store"])
def test_the_check_of_certificates_stays_on(base: str, query: str) -> None:
    """
    A server that is not proven to be the store could answer every probe, and freeze every kill.
    """
    with pytest.raises(SettingsError, match="certificate"):
        Address(f"{base}?{query}")


def test_several_servers_share_login_and_tls() -> None:
    """
    The user and TLS of the address are the primary's; Sentinels have their own login, nodes of a cluster the same one.
    """
    sentinels = Address("rediss+sentinel://u:hunter2@one:1,two/ki%6Cls/3?ssl_ca_certs=/ca&sentinel_password=hunter3")
    connection = sentinels.connection(1.0)
    assert isinstance(connection, SSLConnection)
    assert (connection.username, connection.password, connection.db, connection.ca_certs) == ("u", "hunter2", 3, "/ca")
    finder = getattr(connection, "_finder")  # noqa: B009  of a mixin, which the library's class does not name
    assert finder._hosts == [("one", 1), ("two", 26379)]
    assert finder._settings == {"username": None, "password": "hunter3", "ssl_ca_certs": "/ca"}
    cluster = Address("redis+cluster://u@[::1]:7000,two", "hunter4", "acme").connection(1.0)
    assert cluster._finder._hosts == [("::1", 7000), ("two", 6379)]
    assert cluster._finder._settings == {"username": "u", "password": "hunter4"}
    file = PasswordFile("/run/secrets/store")
    for url in ("redis+cluster://u@one:7000", "redis+sentinel://u@one/main?sentinel_password=hunter3", "redis://u@one"):
        connection = Address(url, file, "acme").connection(1.0)
        assert isinstance(connection.credential_provider, FileLogin)
        login = connection._finder._settings.get("credential_provider") if "+" in url else None
        assert (login is None) == ("cluster" not in url)  # Sentinels have their own
        assert Address(url, file, "acme").username == "u"
    assert "hunter" not in repr(sentinels)
    assert sentinels.fails_over
    assert not Address("redis://store").fails_over
