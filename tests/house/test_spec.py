# SPDX-License-Identifier: Apache-2.0
"""SPEC and code say the same: reasons, caveats, constraints, limits; and each cited section exists."""

import itertools
import re
import subprocess

import pytest

from arx_verifier import errors, limits, names
from arx_verifier.constraints.constraint import Constraint
from arx_verifier.journal import RECORD_VERSION
from arx_verifier.token import call_proof, caveats, discharge, macaroon, wire
from arx_verifier.token.keyring import DEFAULT_MAX_TTL_MS
from arx_verifier.verification import authenticate, nonces
from tests.house.matrix import vectors
from tests.house.pages import ROOT
from tests.house.sections import DOCUMENTS, chapter, citations, known, own_citations, sections

WITH_CITATIONS = (".c", ".lua", ".md", ".py", ".json", ".toml", ".yml")


def section(number: int) -> str:
    """Return one chapter of SPEC."""
    return chapter("SPEC", number)


@pytest.mark.spec("13")
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


@pytest.mark.spec("6.1")
def test_every_caveat_member_is_specified() -> None:
    """
    SPEC 6 lists exactly the members that code knows, and those that it reserves.
    """
    listed = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.+?) \|", section(6), re.MULTILINE))))
    assert listed == set(caveats.KNOWN)


@pytest.mark.spec("7.2")
def test_every_constraint_is_specified() -> None:
    """
    SPEC 7 names every member that a constraint can have.
    """
    for name in Constraint.__struct_encode_fields__:
        assert f"`{name}`" in section(7), name


@pytest.mark.spec("4.1")
def test_every_identifier_member_is_specified() -> None:
    """
    SPEC 4 lists exactly the members of an identifier.
    """
    listed = set(re.findall(r"^\| `(\w+)` \|", section(4), re.MULTILINE))
    assert listed == set(macaroon.Identifier.__struct_fields__)


@pytest.mark.spec("14")
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


@pytest.mark.spec("12.3", "12.6")
def test_the_record_version_is_the_code_s() -> None:
    """
    SPEC 12 writes a record and a journal's entry with the version that code writes.
    """
    assert re.findall(r"(?:kept   = |keeps `)\[(\d+), ", section(12)) == [str(RECORD_VERSION)] * 2


def test_cited_sections_exist() -> None:
    """
    Every section that code, tests, vectors and pages cite as SPEC, LOG or CONTROL is in that document.
    """
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    cited = {
        (name, section)
        for name in listed.stdout.splitlines()
        if name.endswith(WITH_CITATIONS)
        for section in citations((ROOT / name).read_text(encoding="utf-8"))
    }
    assert {section.partition(" ")[0] for _, section in cited} == set(DOCUMENTS)
    assert sorted((name, section) for name, section in cited if section not in known()) == []


def test_a_vector_cites_a_section() -> None:
    """
    Each vector names the section that it tests: of SPEC by the number alone, of another document with its name.
    """
    cited = [*vectors()]
    assert cited
    assert [(name, section) for name, section in cited if section not in known()] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_document_cites_what_it_has(document: str) -> None:
    """
    A number without a name is a section of the document, and sections are numbered in order, without a gap.
    """
    assert {cited for cited in own_citations(document) if cited not in known()} == set()
    numbers = [tuple(map(int, number.split("."))) for number in sections(document)]
    for before, number in itertools.pairwise(numbers):
        assert number in ((before[0] + 1,), (*before[:1], (*before, 0)[1] + 1)), (document, number)
