# SPDX-License-Identifier: Apache-2.0
"""A tool service could kill and thaw freezes, because its service file held the mint's login to the store.

Found in ARx before its first release: a service file held the mint's own address of the store, with user and password,
so that every tool service could have killed, thawed freezes, and set the sequence back.
"""

import pytest

from arx_verifier.revocation.store_url import Address, without_login


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("unix:///run/arx/valkey.sock", "unix:///run/arx/valkey.sock"),
        ("unix://mint:hunter2@/run/valkey.sock?db=1", "unix:///run/valkey.sock?db=1"),
        ("redis://mint:hunter2@store:6379/0", "redis://store:6379/0"),
        ("redis://:hunter2@store", "redis://store"),
        ("redis://store/0?password=hunter2&username=mint", "redis://store/0"),
        ("rediss://mint:hun%40ter2@store/0?ssl_ca_certs=/ca.pem", "rediss://store/0?ssl_ca_certs=/ca.pem"),
        (
            "redis+sentinel://mint:hunter2@one,two:26380/kills/0?sentinel_username=s&sentinel_password=hunter2",
            "redis+sentinel://one,two:26380/kills/0",
        ),
        ("redis+cluster://mint:hunter2@one,two", "redis+cluster://one,two"),
    ],
)
def test_an_address_is_shown_without_its_login(url: str, message: str) -> None:
    """
    Users and passwords are left out wherever an address can hold them; the rest is the same place.
    """
    assert without_login(url) == message
    Address(message)
