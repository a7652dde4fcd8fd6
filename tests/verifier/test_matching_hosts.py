# SPDX-License-Identifier: Apache-2.0
"""Text forms that name a host: url, cidr."""

import time
from typing import Any

import pytest

from arx_verifier.constraints import text
from arx_verifier.errors import MalformedTokenError

pytestmark = pytest.mark.spec("7.3")

OTHER_KINDS = [None, True, 5, 5.0, ["a"], {"a": 1}, b"a", Ellipsis]


def url(**parts: Any) -> Any:
    return text.url(parts.get("scheme", "https"), parts["host"], parts.get("port"), parts.get("path"))


class TestUrl:
    @pytest.mark.parametrize(
        ("parts", "value"),
        [
            ({"host": "api.example.com"}, "https://api.example.com"),
            ({"host": "api.example.com"}, "https://api.example.com/"),
            ({"host": "api.example.com"}, "https://api.example.com:8443/a?b=c#d"),
            ({"host": "api.example.com"}, "HTTPS://API.example.COM/x"),
            ({"host": "api.example.com", "port": 443}, "https://api.example.com/"),
            ({"host": "api.example.com", "port": 443}, "https://api.example.com:443/"),
            ({"host": "api.example.com", "path": "/v1"}, "https://api.example.com/v1?x=/../"),
            ({"host": "api.example.com", "path": "/v1"}, "https://api.example.com/v1/a"),
            ({"host": "api.example.com", "path": "/"}, "https://api.example.com?x"),
            ({"host": "*.example.com"}, "https://a.b.example.com/"),
            ({"host": "127.0.0.1", "scheme": "http", "port": 8080}, "http://127.0.0.1:8080/x"),
            ({"host": "localhost", "scheme": "http"}, "http://localhost:8080/x"),
            ({"host": "[::1]", "scheme": "http"}, "http://[::1]:80/"),
            ({"host": "[2001:db8::1]"}, "https://[2001:0DB8:0:0::1]/"),
            ({"host": "8.8.8.8"}, "https://8.8.8.8/"),
        ],
    )
    def test_it_takes_what_it_says(self, parts: dict[str, Any], value: str) -> None:
        """
        Scheme and host without regard to case, any port unless one is named, a path at or below.
        """
        speaks, holds = url(**parts)
        assert speaks(value)
        assert holds(value)

    @pytest.mark.parametrize(
        ("parts", "value"),
        [
            ({"host": "api.example.com"}, "http://api.example.com/"),
            ({"host": "api.example.com"}, "https://example.com/"),
            ({"host": "api.example.com"}, "https://xapi.example.com/"),
            ({"host": "api.example.com"}, "https://api.example.com.evil.net/"),
            ({"host": "api.example.com", "port": 443}, "https://api.example.com:444/"),
            ({"host": "api.example.com", "path": "/v1"}, "https://api.example.com/v2"),
            ({"host": "api.example.com", "path": "/v1"}, "https://api.example.com/v10"),
            ({"host": "api.example.com", "path": "/v1"}, "https://api.example.com"),
            ({"host": "*.example.com"}, "https://example.com/"),
            ({"host": "*.example.com"}, "https://badexample.com/"),
            ({"host": "api.example.com"}, "https://evil.net#@api.example.com/"),
            ({"host": "api.example.com"}, "https://evil.net/?https://api.example.com/"),
        ],
    )
    def test_it_takes_nothing_else(self, parts: dict[str, Any], value: str) -> None:
        """
        Another scheme, host, port or path fails.
        """
        speaks, holds = url(**parts)
        assert speaks(value)
        assert not holds(value)

    @pytest.mark.parametrize(
        "value",
        [
            "https://api.example.com@evil.net/",
            "https://user:pw@api.example.com/",
            "https://evil.net\\@api.example.com/",
            "https://api.example.com\\.evil.net/",
            "https:\\\\api.example.com/",
            "https:/api.example.com/",
            "https:///api.example.com/",
            "//api.example.com/",
            "api.example.com",
            "javascript:alert(1)//api.example.com",
            " https://api.example.com/",
            "https://api.example.com/\n",
            "https://api.example.com\t/",
            "https://api.example.com:/",
            "https://api.example.com:0/",
            "https://api.example.com:0443/",
            "https://api.example.com:65536/",
            "https://api.example.com:99999/",
            "https://api.example.com:443:443/",
            "https://api.example.com./",
            "https://api..example.com/",
            "https://api.example.com%2eevil.net/",
            "https://api.example.com%00.evil.net/",
            "https://\uff41pi.example.com/",
            "https://-api.example.com/",
            "https://" + "a" * 64 + ".com/",
            "https://" + "a." * 130 + "com/",
            "https:// api.example.com/",
            "https://127.0.0.1/",
            "https://127.1/",
            "https://2130706433/",
            "https://0x7f000001/",
            "https://0x7f.0.0.1/",
            "https://0177.0.0.1/",
            "https://0/",
            "https://0x/",
            "https://1.2.3.4.5/",
            "https://256.1.1.1/",
            "https://10.0.0.1/",
            "https://169.254.169.254/latest/meta-data",
            "https://192.168.1.1/",
            "https://8.8.8.8/",
            "https://localhost/",
            "https://a.localhost/",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://[::ffff:7f00:1]/",
            "https://[fe80::1%25eth0]/",
            "https://[1.2.3.4]/",
            "https://[::1/",
            "https://::1/",
            "",
        ],
    )
    @pytest.mark.parametrize("parts", [{"host": "api.example.com"}, {"host": "*.example.com", "path": "/"}])
    def test_what_two_clients_could_read_differently_is_not_spoken_of(self, parts: dict[str, Any], value: str) -> None:
        """
        User information, odd addresses, this machine's names and broken forms fail, under ``not`` as well.
        """
        speaks, holds = url(**parts)
        assert not holds(value)
        assert not speaks(value)

    def test_an_unclean_path_is_not_spoken_of(self) -> None:
        """
        Where a path is named, dots and escapes in the URL's path fail.
        """
        speaks, holds = url(host="api.example.com", path="/v1")
        for path in ("/v1/../admin", "/v1/%2e%2e/admin", "/v1//x", "/v1/..;/admin", "/v1/%2fx"):
            assert not holds("https://api.example.com" + path)
            assert not speaks("https://api.example.com" + path)

    def test_a_private_address_is_taken_only_by_its_own_name(self) -> None:
        """
        Naming 10.0.0.1 takes 10.0.0.1 and no other spelling or neighbour.
        """
        speaks, holds = url(host="10.0.0.1", scheme="http")
        assert holds("http://10.0.0.1/")
        for other in (
            "http://10.0.0.2/",
            "http://10.1/",
            "http://0xa000001/",
            "http://167772161/",
            "http://[::ffff:10.0.0.1]/",
        ):
            assert not holds(other)
            assert not speaks(other)

    @pytest.mark.parametrize(
        "parts",
        [
            {"host": "Api.example.com"},
            {"host": "api.example.com."},
            {"host": "*"},
            {"host": "*.*.com"},
            {"host": "a.*.com"},
            {"host": "*.1"},
            {"host": "*.localhost"},
            {"host": ""},
            {"host": "*."},
            {"host": "127.1"},
            {"host": "0x7f000001"},
            {"host": "[::0:1]"},
            {"host": "[::ffff:1.2.3.4]"},
            {"host": "::1"},
            {"host": "a b"},
            {"host": "exämple.com"},
            {"host": None},
            {"host": 5},
            {"host": "a.com", "scheme": "HTTPS"},
            {"host": "a.com", "scheme": ""},
            {"host": "a.com", "scheme": "https:"},
            {"host": "a.com", "port": 0},
            {"host": "a.com", "port": 65536},
            {"host": "a.com", "port": True},
            {"host": "a.com", "path": "v1"},
            {"host": "a.com", "path": "/v1/"},
            {"host": "a.com", "path": "/v1/.."},
            {"host": "a.com", "path": ""},
        ],
        ids=str,
    )
    def test_a_bad_operand_is_malformed(self, parts: dict[str, Any]) -> None:
        """
        Each part has one form, and is refused when read.
        """
        with pytest.raises(MalformedTokenError):
            url(**parts)

    def test_time_is_linear(self) -> None:
        """
        A megabyte of almost-URL is looked at once.
        """
        _, holds = url(host="*.example.com", path="/v1")
        begun = time.perf_counter()
        for value in (
            "https://" + "a." * 500_000,
            "a" * 1_000_000,
            "https://x/" + "/." * 500_000,
            "https://[" + ":" * 10**6,
        ):
            assert not holds(value)
        assert time.perf_counter() - begun < 2


class TestCidr:
    @pytest.mark.parametrize(
        ("operand", "value"),
        [
            ("10.0.0.0/8", "10.255.0.1"),
            ("10.0.0.0/8", "::ffff:10.1.2.3"),
            ("10.0.0.0/8", "::ffff:a01:203"),
            ("192.0.2.7/32", "192.0.2.7"),
            ("0.0.0.0/0", "1.2.3.4"),
            ("2001:db8::/32", "2001:DB8::1"),
            ("::/0", "::1"),
        ],
    )
    def test_it_takes_addresses_inside(self, operand: str, value: str) -> None:
        """
        Also an IPv4 address that is written inside IPv6.
        """
        speaks, holds = text.cidr(operand)
        assert speaks(value)
        assert holds(value)

    def test_it_refuses_addresses_outside(self) -> None:
        """
        The next address after the last one is out.
        """
        speaks, holds = text.cidr("10.0.0.0/8")
        for value in ("11.0.0.0", "9.255.255.255", "::ffff:11.0.0.0"):
            assert speaks(value)
            assert not holds(value)

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "10.1",
            "10.0.0.01",
            "012.0.0.1",
            "0xa.0.0.1",
            "167772161",
            " 10.0.0.1",
            "10.0.0.1\n",
            "10.0.0.1/32",
            "10.0.0.1:80",
            "[::1]",
            "fe80::1%eth0",
            "10.0.0.\u0661",
            "2001:db8::1",
            "::10.0.0.1",
            "localhost",
            "1" * 10**6,
            *OTHER_KINDS,
        ],
        ids=lambda value: repr(value)[:20],
    )
    def test_what_is_no_ipv4_address_is_not_spoken_of(self, value: Any) -> None:
        """
        Short, octal, padded, scoped, foreign-digit and other-version forms fail, under ``not`` as well.
        """
        speaks, holds = text.cidr("10.0.0.0/8")
        assert not speaks(value)
        assert not holds(value)

    @pytest.mark.parametrize(
        "operand",
        [
            "",
            "10.0.0.0",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "10.0.0.0/255.0.0.0",
            "10/8",
            "2001:DB8::/32",
            "::ffff:10.0.0.0/104",
            "2001:db8::1/32",
            "10.0.0.0/08",
            " 10.0.0.0/8",
            "x",
            None,
            5,
            167772160,
            b"\n\0\0\0",
        ],
        ids=repr,
    )
    def test_a_bad_operand_is_malformed(self, operand: Any) -> None:
        """
        Host bits, masks, bare addresses and other spellings are refused when read.
        """
        with pytest.raises(MalformedTokenError):
            text.cidr(operand)

    @pytest.mark.parametrize("value", OTHER_KINDS, ids=repr)
    def test_only_text_is_an_address_or_a_url(self, value: Any) -> None:
        """
        Numbers and bytes, which address libraries take, are not spoken of.
        """
        for speaks, holds in (text.cidr("0.0.0.0/0"), url(host="a.com")):
            assert not speaks(value)
            assert not holds(value)
