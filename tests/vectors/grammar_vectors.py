# SPDX-License-Identifier: Apache-2.0
"""Vectors of the forms of paths, URLs and addresses (SPEC 7.3), on both sides of each rule."""

from typing import Any

from tests.vectors.form_vectors import Vectors, vector
from tests.vectors.second import ANYTHING, mint

NO, YES, WRONG = "argument_not_allowed", "grant", "malformed"
DATA: dict[str, Any] = {"subpath": "/data"}
WEB: dict[str, Any] = {"url": {"host": "a.example", "scheme": "https"}}
V1: dict[str, Any] = {"url": {"host": "a.example", "path": "/v1", "scheme": "https"}}


def vectors() -> Vectors:
    """All of this file."""
    return paths() | urls() | hosts() | addresses() | operands()


def judged(cases: dict[str, tuple[Any, Any, str, str]]) -> Vectors:
    """One vector for each constraint and value."""
    found = {}
    for name, (constraint, value, expect, why) in cases.items():
        token = mint({"allow": [{"args": {"x": constraint}, "tool": "orders.get"}]})
        found[f"form-{name}"] = vector("7.3", expect, token, why, request={"args": {"x": value}})
    return found


def paths() -> Vectors:
    """SPEC 7.3: ``path``."""
    refused = {
        "parameter-dots": ("/data/..;x/etc", "dots before a path parameter"),
        "parameter-dot": ("/data/.;", "a dot before an empty path parameter"),
        "dot": ("/data/./a", "one dot"),
        "three-dots": ("/data/.../a", "dots only"),
        "spaces": ("/data/ /a", "a segment of spaces"),
        "dots-and-space": ("/data/.. /a", "dots, padded with a space"),
        "last-dots": ("/data/..", "two dots at the end"),
        "last-space": ("/data/a/ ", "a space at the end"),
        "escaped-slash": ("/data/a%2Fb", "an escaped slash"),
        "escaped-percent": ("/data/a%25b", "an escaped percent sign, which is decoded twice somewhere"),
        "escaped-nul": ("/data/a%00", "an escaped NUL"),
        "escaped-backslash": ("/data/a%5cb", "an escaped backslash"),
        "escaped-dot": ("/data/a%2Eb", "an escaped dot, also where it would mean nothing"),
        "c1": ("/data/a\u0085b", "a control character of C1"),
        "delete": ("/data/a\u007fb", "U+007F"),
        "tab": ("/data/a\tb", "a tab"),
        "separator": ("/data/a\u2029b", "a paragraph separator"),
        "empty-segment": ("/data//a", "an empty segment"),
        "first-empty": ("//data/a", "an empty segment first"),
        "relative": ("data/a", "another beginning"),
        "number": (5, "no text"),
    }
    allowed = {
        "dots-and-letter": ("/data/..a", "a name that begins with dots"),
        "letter-and-dots": ("/data/a..", "a name that ends with dots"),
        "hidden": ("/data/.ssh", "a name with a dot first"),
        "space-inside": ("/data/a b", "a space in a name"),
        "parameter": ("/data/a;x=..", "a path parameter behind a name"),
        "parameter-alone": ("/data/;x", "a path parameter alone"),
        "no-break-space": ("/data/\u00a0/a", "a no-break space is no space"),
        "other-escape": ("/data/a%20b%zz%", "escapes of others, and none"),
        "query": ("/data/a?b=/../c#d", "no character but these has a meaning"),
        "astral": ("/data/\U0001f600", "beyond U+FFFF"),
        "itself": ("/data", "the path itself"),
    }
    found: dict[str, tuple[Any, Any, str, str]] = {
        f"path-{name}": (DATA, v, NO, why) for name, (v, why) in refused.items()
    }
    found["path-query"] = (DATA, "/data/a?b=/../c#d", NO, "a segment of dots, wherever it stands")
    del allowed["query"]
    found |= {f"path-{name}": (DATA, v, YES, why) for name, (v, why) in allowed.items()}
    found |= {
        "path-root": ({"subpath": "/"}, "/", YES, "the root itself"),
        "path-root-below": ({"subpath": "/"}, "/a/", YES, "everything below"),
        "path-root-relative": ({"subpath": "/"}, "a", NO, "no slash first"),
        "path-of-relative": ({"subpath": "data"}, "data/a", YES, "an operand without a slash first"),
        "path-empty": (DATA, "", NO, "no text"),
        "path-not": ({"not": {"subpath": "/data"}}, "/a/..;x/data", NO, "a form that it does not speak of"),
        "path-not-other": ({"not": {"subpath": "/data"}}, "/etc", YES, "another path"),
    }
    return judged(found)


def urls() -> Vectors:
    """SPEC 7.3: ``url``, and the parts that it is compared by."""
    refused = {
        "no-slashes": ("https:a.example", "without two slashes"),
        "relative": ("//a.example/", "without a scheme"),
        "empty-port": ("https://a.example:/", "a port of no digits"),
        "zero-port": ("https://a.example:0/", "a port of zero"),
        "zero-led-port": ("https://a.example:0443/", "a leading zero"),
        "port-above": ("https://a.example:65536/", "beyond 65535"),
        "last-dot": ("https://a.example./", "a dot behind the name"),
        "empty-label": ("https://a..example/", "an empty label"),
        "space": ("https://a.example/a b", "a space"),
        "tab": ("https://a.example/\ta", "a tab, which some readers drop"),
        "line": ("https://a.exa\nmple/", "a line break, which some readers drop"),
        "backslash": ("https://a.example\\@b.example/", "a backslash, which some take for a slash"),
        "bracket": ("https://a.example/{id}", "a brace"),
        "quote": ('https://a.example/"', "a quotation mark"),
        "caret": ("https://a.example/^", "a caret"),
        "non-ascii": ("https://a.example/é", "beyond ASCII"),
        "idn": ("https://a.exämple/", "a name beyond ASCII"),
        "percent-host": ("https://a%2eexample/", "an escape in the host"),
        "user": ("https://u@a.example/", "user information"),
        "user-empty": ("https://@a.example/", "empty user information"),
        "fragment-host": ("https://b.example#a.example", "what follows # is dropped first"),
        "query-host": ("https://b.example?://a.example/", "what follows ? is dropped first"),
        "long": ("https://a.example/" + "a" * (8193 - 18), "8 193 characters"),
        "leading-space": (" https://a.example/", "a space first"),
        "hyphen-first": ("https://-a.example/", "a hyphen first"),
    }
    allowed = {
        "scheme-case": ("HTTPS://a.example/", "a scheme in upper case"),
        "host-case": ("https://A.Example/", "a host in upper case"),
        "bare": ("https://a.example", "without a path"),
        "question": ("https://a.example?a=b", "a query without a path"),
        "own-port": ("https://a.example:443/", "the port that the scheme has"),
        "other-port": ("https://a.example:8443/", "another port, where none is asked for"),
        "longest": ("https://a.example/" + "a" * (8192 - 18), "8 192 characters"),
        "characters": ("https://a.example/!#$%&'()*+,-./:;=?@[]_~", "every character that it may have"),
        "dots-of-any": ("https://a.example/a/../b", "a path that is not asked for"),
    }
    found: dict[str, tuple[Any, Any, str, str]] = {
        f"url-{name}": (WEB, v, NO, why) for name, (v, why) in refused.items()
    }
    found |= {f"url-{name}": (WEB, v, YES, why) for name, (v, why) in allowed.items()}
    port = {"url": {"host": "a.example", "port": 443, "scheme": "https"}}
    odd = {"url": {"host": "a.example", "port": 80, "scheme": "ftp"}}
    secure = {"url": {"host": "a.example", "port": 443, "scheme": "wss"}}
    return judged(
        found
        | {
            "url-port-default": (port, "https://a.example/", YES, "the port that https has"),
            "url-port-other": (port, "https://a.example:8443/", NO, "another port"),
            "url-port-of-wss": (secure, "wss://a.example/", YES, "the port that wss has"),
            "url-port-of-ftp": (odd, "ftp://a.example/", NO, "a scheme without a port of its own"),
            "url-port-of-ftp-given": (odd, "ftp://a.example:80/", YES, "the port that is given"),
            "url-path-below": (V1, "https://a.example/v1/a?b=/../c", YES, "the query is no part of the path"),
            "url-path-sibling": (V1, "https://a.example/v12", NO, "cut at a slash"),
            "url-path-dots": (V1, "https://a.example/v1/..;/a", NO, "a path that means another"),
            "url-path-fragment": (V1, "https://a.example/v1#/../a", YES, "nor is the fragment"),
            "url-path-escaped": (V1, "https://a.example/v1/%2e%2e/a", NO, "escaped dots"),
            "url-root": (
                {"url": {"host": "a.example", "path": "/", "scheme": "https"}},
                "https://a.example",
                YES,
                "without a path, the path is the root",
            ),
        }
    )


def hosts() -> Vectors:
    """SPEC 7.3: hosts that are addresses, or could be."""

    def at(host: str) -> dict[str, Any]:
        return {"url": {"host": host, "scheme": "http"}}

    label = "a" * 63
    long = ".".join(["a" * 59, label, label, label, "x"])
    return judged(
        {
            "host-below": (at("*.a.example"), "http://x.y.a.example/", YES, "at any depth below the name"),
            "host-name-itself": (at("*.a.example"), "http://a.example/", NO, "the name itself is not below"),
            "host-suffix": (at("*.a.example"), "http://xa.example/", NO, "cut at a dot"),
            "host-underscore": (at("_a_.example"), "http://_A_.example/", YES, "an underscore is allowed"),
            "host-label-63": (at(f"{label}.example"), f"http://{label}.example/", YES, "a label of 63 characters"),
            "host-label-64": (at("*.example"), f"http://{label}a.example/", NO, "a label of 64 characters"),
            "host-253": (at("*.x"), f"http://{long}/", YES, "253 characters"),
            "host-254": (at("*.x"), f"http://a{long}/", NO, "254 characters"),
            "host-ipv4": (at("127.0.0.1"), "http://127.0.0.1/", YES, "the very address"),
            "host-ipv4-other": (at("127.0.0.1"), "http://127.0.0.2/", NO, "another address"),
            "host-ipv4-short": (at("127.0.0.1"), "http://127.1/", NO, "a short form of the address"),
            "host-ipv4-number": (at("127.0.0.1"), "http://2130706433/", NO, "the address as one number"),
            "host-ipv4-hex": (at("127.0.0.1"), "http://0x7f.0.0.1/", NO, "a part in hex"),
            "host-ipv4-octal": (at("127.0.0.1"), "http://0177.0.0.1/", NO, "a part in octal"),
            "host-hex-last": (at("*.example"), "http://a.example.0x1/", NO, "a last label that is a number"),
            "host-ipv6": (at("[::1]"), "http://[0:0:0:0:0:0:0:1]/", YES, "another spelling of the very address"),
            "host-ipv6-case": (at("[2001:db8::a]"), "http://[2001:DB8::A]:8080/", YES, "in upper case, with a port"),
            "host-ipv6-mapped": (at("*.example"), "http://[::ffff:127.0.0.1]/", NO, "IPv4 inside IPv6"),
            "host-ipv6-zone": (at("[fe80::1]"), "http://[fe80::1%25eth0]/", NO, "a zone"),
            "host-localhost": (at("localhost"), "http://localhost/", YES, "the very name"),
            "host-below-localhost": (at("*.example"), "http://a.localhost/", NO, "a name of this machine"),
            "host-of-localhost": (at("a.localhost"), "http://a.localhost/", YES, "the very name"),
            "host-not": ({"not": at("a.example")}, "http://127.0.0.1/", NO, "an address is not spoken of"),
            "host-not-name": ({"not": at("a.example")}, "http://b.example/", YES, "another name"),
        }
    )


def addresses() -> Vectors:
    """SPEC 7.3: ``cidr``."""
    four, six = {"cidr": "10.0.0.0/8"}, {"cidr": "2001:db8::/32"}
    return judged(
        {
            "cidr-six": (six, "2001:DB8:0::1", YES, "any spelling of the address"),
            "cidr-six-dots": (six, "2001:db8::1.2.3.4", YES, "its last bits as IPv4"),
            "cidr-six-zone": (six, "2001:db8::1%eth0", NO, "a zone"),
            "cidr-six-brackets": (six, "[2001:db8::1]", NO, "in brackets"),
            "cidr-six-nine": (six, "2001:db8:0:0:0:0:0:0:1", NO, "nine groups"),
            "cidr-four-short": (four, "10.1", NO, "a short form"),
            "cidr-four-space": (four, " 10.1.1.1", NO, "a space first"),
            "cidr-four-digits": (four, "10.1.1.\u0661", NO, "a digit of Arabic"),
            "cidr-four-256": (four, "10.1.1.256", NO, "beyond 255"),
            "cidr-all-mapped": ({"cidr": "::/0"}, "::ffff:10.1.1.1", NO, "unwrapped, and so in no network of IPv6"),
            "cidr-not-other-version": ({"not": four}, "2001:db8::1", NO, "the other version is not spoken of"),
            "cidr-not": ({"not": four}, "11.1.1.1", YES, "another network"),
        }
    )


def operands() -> Vectors:
    """SPEC 7.3: operands that have another form."""
    bad: dict[str, tuple[Any, str]] = {
        "subpath-last-slash": ({"subpath": "/data/"}, "a slash at the end"),
        "subpath-empty": ({"subpath": ""}, "no path"),
        "subpath-escape": ({"subpath": "/a%2Fb"}, "an escaped slash"),
        "subpath-spaces": ({"subpath": "/a/ /b"}, "a segment of spaces"),
        "url-scheme-case": ({"url": {"host": "a.example", "scheme": "HTTPS"}}, "in lower case alone"),
        "url-host-case": ({"url": {"host": "A.example", "scheme": "https"}}, "in lower case alone"),
        "url-host-stars": ({"url": {"host": "*.*.example", "scheme": "https"}}, "one star, at the beginning"),
        "url-host-star-inside": ({"url": {"host": "a.*.example", "scheme": "https"}}, "one star, at the beginning"),
        "url-host-star-alone": ({"url": {"host": "*", "scheme": "https"}}, "a name follows"),
        "url-host-last-dot": ({"url": {"host": "a.example.", "scheme": "https"}}, "a dot behind the name"),
        "url-host-below-address": ({"url": {"host": "*.0.0.1", "scheme": "https"}}, "nothing is below an address"),
        "url-host-below-localhost": ({"url": {"host": "*.localhost", "scheme": "https"}}, "nor below this machine"),
        "url-host-ipv6-long": ({"url": {"host": "[0:0:0:0:0:0:0:1]", "scheme": "http"}}, "an address has one form"),
        "url-port-0": ({"url": {"host": "a.example", "port": 0, "scheme": "https"}}, "1 to 65535"),
        "url-port-65536": ({"url": {"host": "a.example", "port": 65536, "scheme": "https"}}, "1 to 65535"),
        "url-path-relative": ({"url": {"host": "a.example", "path": "v1", "scheme": "https"}}, "a slash first"),
        "url-path-dots": (
            {"url": {"host": "a.example", "path": "/a/..", "scheme": "https"}},
            "a path that means another",
        ),
        "url-no-host": ({"url": {"scheme": "https"}}, "no host"),
        "url-member": ({"url": {"host": "a.example", "query": "a", "scheme": "https"}}, "no such part"),
        "cidr-upper-case": ({"cidr": "2001:DB8::/32"}, "hex digits in upper case"),
        "cidr-no-prefix": ({"cidr": "10.0.0.1"}, "no length of the prefix"),
        "cidr-zero-led": ({"cidr": "10.0.0.0/08"}, "a leading zero"),
        "cidr-33": ({"cidr": "10.0.0.0/33"}, "beyond the address"),
    }
    found = {}
    for name, (constraint, why) in bad.items():
        token = mint(ANYTHING, {"allow": [{"tool": "*"}, {"args": {"x": constraint}, "tool": "never.asked"}]})
        found[f"form-operand-{name}"] = vector("7.3", WRONG, token, why)
    return found
