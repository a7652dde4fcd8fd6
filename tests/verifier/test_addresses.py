# SPDX-License-Identifier: Apache-2.0
"""Addresses, networks and URLs: one text for each, and the same answers on every version of Python."""

import json
import shutil
import subprocess
import sys
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from itertools import groupby

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from arx_verifier import addresses
from arx_verifier.addresses import is_loopback, read_address, read_network, read_port, split_url, write_address

pytestmark = pytest.mark.spec("6.1", "7.3")

GROUPS = st.lists(st.sampled_from([0, 0, 0, 1, 0xFFFF]) | st.integers(0, 0xFFFF), min_size=8, max_size=8)
SCRIPT = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("addresses", sys.argv[1])
addresses = importlib.util.module_from_spec(spec)
spec.loader.exec_module(addresses)
def network(text):
    try:
        return addresses.write_address(addresses.read_network(text).network_address)
    except ValueError:
        return None
def address(text):
    found = addresses.read_address(text)
    return found and addresses.write_address(found)
def url(text):
    parts = addresses.split_url(text)
    return parts and [*parts, parts.hostname, parts.port]
print(json.dumps(sys.version.split()[0]))
for each in json.load(sys.stdin):
    print(json.dumps([network(each), address(each), addresses.is_loopback(each), url(each)]))
"""
ASKED = [
    *("::ffff:0:0/96", "::ffff:0.0.0.0/96", "::ffff:a00:0/104", "::ffff:10.0.0.0/104", "::/0", "fe80::%1/64"),
    *(
        "2001:db8::/32",
        "2001:DB8::/32",
        "10.0.0.0/8",
        "010.0.0.0/8",
        "10.0.0.0/08",
        "10.0.0.0/255.0.0.0",
        "64:ff9b::/96",
    ),
    *("::ffff:10.0.0.1", "::ffff:a00:1", "::ffff:127.0.0.1", "::ffff:7f00:1", "::1", "127.0.0.1", "fe80::1%eth0"),
    *(
        "https://[::1]x/",
        "https://x[::1]/",
        "https://[v1.x]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[fe80::1%25e]:1/",
    ),
    *(
        "http:////x",
        "com.example.app:////x",
        "com.example.app:///x",
        "https://a:1/b?c#d",
        " https://a/",
        "https://a\t/",
    ),
    *(
        "https://a:65536/",
        "https://a:+1/",
        "https://a:\u0661/",
        "https://[::1",
        "https://u:p@[::1]:5/",
        "https://[[::1]]/",
    ),
]


def formulated(groups: list[int]) -> str:
    """RFC 5952 4, group by group: the first of the longest runs of at least two zeros becomes ``::``."""
    runs, at = [], 0
    for is_zero, run in groupby(groups, key=lambda group: group == 0):
        size = len([*run])
        if is_zero and size > 1:
            runs.append((-size, at))
        at += size
    if not runs:
        return ":".join(format(group, "x") for group in groups)
    size, first = min(runs)
    before, after = groups[:first], groups[first - size :]
    return "::".join(":".join(format(group, "x") for group in part) for part in (before, after))


@given(GROUPS)
@example([0] * 8)
@example([0, 0, 1, 0, 0, 1, 0, 0])
@example([1, 0, 0, 0, 0, 0, 0, 0])
@example([0, 0, 0, 0, 0, 0xFFFF, 0x7F00, 1])
@example([0x10, 0, 0x20, 0, 0, 0x30, 0, 0])
def test_the_text_is_that_of_rfc_5952(groups: list[int]) -> None:
    """It equals another formulation, and reads back as the address."""
    address = IPv6Address(b"".join(group.to_bytes(2) for group in groups))
    text = write_address(address)
    assert text == formulated(groups)
    assert IPv6Address(text) == address


@given(st.binary(min_size=4, max_size=4))
def test_ipv4_is_written_as_four_decimals_and_unwrapped(packed: bytes) -> None:
    """The same address inside IPv6 is that address."""
    address = IPv4Address(packed)
    text = write_address(address)
    assert text == "{}.{}.{}.{}".format(*packed)
    assert read_address(text) == read_address(f"::ffff:{text}") == address


@given(st.integers(0, 2**128 - 1) | GROUPS.map(lambda groups: int("".join(f"{group:04x}" for group in groups), 16)))
def test_a_network_has_one_text(number: int) -> None:
    """Each prefix of an address is read in its canonical text, unless it is of IPv4 inside IPv6."""
    for prefix in (0, 1, 32, 64, 95, 96, 97, 127, 128):
        first = number >> (128 - prefix) << (128 - prefix)
        text = f"{write_address(IPv6Address(first))}/{prefix}"
        if first >> 32 == 0xFFFF and prefix >= 96:
            with pytest.raises(ValueError, match="not inside IPv6"):
                read_network(text)
            continue
        network = read_network(text)
        assert (int(network.network_address), network.prefixlen) == (first, prefix)
        if (exploded := f"{IPv6Address(first).exploded}/{prefix}") != text:
            with pytest.raises(ValueError, match="canonical form"):
                read_network(exploded)


@pytest.mark.parametrize(
    "text", ["", "10.0.0.0", "10.0.0.0/08", "10.0.0.0/255.0.0.0", "10.0.0.1/8", "10.0.0.0/33", "::/0 "]
)
def test_another_text_is_no_network(text: str) -> None:
    """No mask, no zeros, no further bits, no white space."""
    with pytest.raises(ValueError, match="expected a network"):
        read_network(text)
    assert read_network("10.0.0.0/8") == IPv4Network("10.0.0.0/8")


def test_a_zone_stays_in_an_address() -> None:
    """A peer of a link keeps its zone; a network has none."""
    assert write_address(read_address("FE80::1%eth0") or IPv4Address(0)) == "fe80::1%eth0"
    with pytest.raises(ValueError, match="canonical form"):
        read_network("fe80::%eth0/64")


def test_loopback_is_recognized() -> None:
    """Every loopback address is one, and nothing that only looks like it."""
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost")))
    others = ("0.0.0.0", "", "localhost.example", "127.0.0.1.example", "::", "::ffff:127.0.0.1", "::ffff:7f00:1")
    assert not any(map(is_loopback, others))


@pytest.mark.parametrize(
    "url",
    [
        "https://[::1]x/",
        "https://x[::1]/",
        "https://[v1.x]/",
        "https://[::1",
        " https://a/",
        "https://a\n/",
        "https://a:x/",
    ],
)
def test_a_url_that_is_split_in_several_ways_is_none(url: str) -> None:
    """Text beside brackets, what ``urlsplit`` drops, and a port that is no number."""
    assert split_url(url) is None


def test_a_url_is_split() -> None:
    """A user, an address in brackets, a port, a zone."""
    parts = split_url("https://u@[fe80::1%25eth0]:8443/a?b#c")
    assert parts is not None
    assert (parts.hostname, parts.port, parts.path, parts.query) == ("fe80::1%25eth0", 8443, "/a", "b")


def _answers(python: str) -> tuple[str, list[object]] | None:
    """Return the version of a Python and its answers; None if there is none of this name, or it does not start."""
    command = [python, "-I", "-c", SCRIPT, addresses.__file__]
    if shutil.which(python) is None or subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode:
        return None  # such as a name that only says which versions could be installed
    done = subprocess.run(command, input=json.dumps(ASKED), capture_output=True, text=True, check=True)
    version, *answers = map(json.loads, done.stdout.splitlines())
    return version, answers


def test_other_versions_of_python_answer_alike() -> None:
    """Each Python of this machine reads the module by itself."""
    names = [f"{folder}python3.{minor}" for minor in range(11, 16) for folder in ("", "/usr/bin/")]
    found = dict(filter(None, map(_answers, names)))
    if len({version.rpartition(".")[0] for version in found}) < 2:
        pytest.skip("expected a second version of Python on this machine")
    own = _answers(sys.executable)
    assert own is not None
    for version, answers in found.items():
        assert dict(zip(ASKED, answers, strict=True)) == dict(zip(ASKED, own[1], strict=True)), version


@given(st.integers(-1, 70_000) | st.text() | st.text("0123456789²１٣+-_ ", max_size=8))
@example("²")
@example("１")
@example("9" * 5000)
@example("")
def test_a_port_is_ascii_digits(value: int | str) -> None:
    """Each port is read; a text of other digits, of too many, or beyond 65535 is none, and raises nothing."""
    text = str(value)
    digits = text.isascii() and text.isdigit() and len(text) <= 5
    assert read_port(text) == (int(text) if digits and int(text) <= 65535 else None)
