# SPDX-License-Identifier: Apache-2.0
"""SPEC and code say the same: reasons, caveats, constraints, limits."""

import re
from pathlib import Path

from arx_verifier import errors, limits, names
from arx_verifier.constraints.constraint import Constraint
from arx_verifier.token import call_proof, caveats, discharge, macaroon, wire
from arx_verifier.token.keyring import DEFAULT_MAX_TTL_MS
from arx_verifier.verification import authenticate, nonces

ROOT = Path(__file__).resolve().parents[2]
SPEC = (ROOT / "verifier" / "SPEC.md").read_text(encoding="utf-8")


def section(number: int) -> str:
    """Return one numbered section of SPEC."""
    found = re.search(rf"^## {number}\. .*?(?=^## |\Z)", SPEC, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[0]


def test_the_reason_table_is_the_code_s() -> None:
    """
    Every reason code stands in SPEC 13 with its status, RFC 6750 error and retry; and no other does.
    """
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (\S+) \| (.+?) \| \S+ \|$", section(13), re.MULTILINE)
    told = {code: (int(status), None if error == "–" else error, retry) for code, status, error, retry in rows}
    assert told == {code: tuple(reason[:3]) for code, reason in errors.REASONS.items()}


def test_every_reason_has_a_class_and_a_sentence() -> None:
    """
    Each code can be raised, as one of the classes that callers catch, with the status of the table.
    """
    for code, reason in errors.REASONS.items():
        error = errors.refusal(code)
        assert (error.code, error.status_hint) == (code, reason.status)
        assert isinstance(error, errors.TokenError | errors.AccessError | errors.UnavailableError | errors.RequestError)
        assert reason.meaning


def test_every_caveat_member_is_specified() -> None:
    """
    SPEC 6 lists exactly the members that code knows, and those that it reserves.
    """
    listed = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.+?) \|", section(6), re.MULTILINE))))
    assert listed == set(caveats.KNOWN)
    assert all(f"`{name}`" in section(6) for name in caveats.RESERVED)


def test_every_constraint_is_specified() -> None:
    """
    SPEC 7 names every member that a constraint can have.
    """
    for name in Constraint.__struct_encode_fields__:
        assert f"`{name}`" in section(7), name


def test_every_identifier_member_is_specified() -> None:
    """
    SPEC 4 lists exactly the members of an identifier.
    """
    listed = set(re.findall(r"^\| `(\w+)` \|", section(4), re.MULTILINE))
    assert listed == set(macaroon.Identifier.__struct_fields__)


def test_the_limits_are_the_code_s() -> None:
    """
    The numbers of SPEC 14 are those that code enforces.
    """
    assert (wire.MAX_CREDENTIAL_CHARS, wire.MAX_CAVEATS, macaroon.MAX_HOPS) == (7168, 64, 16)
    assert (names.MAX_PATH_BYTES, names.MAX_PATH_SEGMENTS) == (64, 8)
    assert (call_proof.MAX_AGE_MS, call_proof.MAX_AHEAD_MS, call_proof.KEEP_MS) == (10_000, 2_000, 15_000)
    assert DEFAULT_MAX_TTL_MS == 24 * 3600 * 1000
    assert (nonces.MAX_NONCES > 0, nonces.APART_MS) == (True, 60_000)
    assert (discharge.MAX_DISCHARGES, authenticate.MAX_DEPTH) == (8, 4)
    assert (limits.MAX_ONCE, nonces.ONCE_MS, nonces.ONCE_AHEAD_MS) == (8, 24 * 3600 * 1000, 60_000)
    assert nonces.ONCE_KEEP_MS == nonces.ONCE_MS + 60_000
    for text in (
        "7 168 characters",
        "10 s; 2 s; 15 s",
        "kept longer in a shared store | 60 s",
        "64 bytes, 8 segments",
        "2^24",
        "8; 4 deep",
        "8; 24 h; 60 s; 24 h and 60 s",
    ):
        assert text in section(14)


def test_cited_sections_exist() -> None:
    """
    Every `SPEC n` in code names a section of SPEC.
    """
    numbers = set(re.findall(r"^## (\d+)\.", SPEC, re.MULTILINE)) | set(re.findall(r"^(\d+\.\d+) ", SPEC, re.MULTILINE))
    for path in [*(ROOT / "verifier").rglob("*.py"), *(ROOT / "arx_caps").rglob("*.py")]:
        for cited in re.findall(r"SPEC (\d+(?:\.\d+)?)", path.read_text(encoding="utf-8")):
            assert cited in numbers, f"{path}: SPEC {cited}"
