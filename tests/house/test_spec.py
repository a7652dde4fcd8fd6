# SPDX-License-Identifier: Apache-2.0
"""SPEC and code say the same: reasons, caveats, constraints, limits; and each cited section exists."""

import itertools
import json
import re
import subprocess
from typing import get_args

import msgspec
import pytest

from arx_caps.agent.tasks import bundle
from arx_verifier import amounts, errors, jcs, limits, names, refusal_text, request
from arx_verifier.constraints import rule, scalars, text
from arx_verifier.constraints.constraint import Constraint, Url
from arx_verifier.constraints.rule import Rule
from arx_verifier.enforcement.grants import grant_life
from arx_verifier.journal import record as records
from arx_verifier.journal.record import EFFECT_VERSION, LATEST_VERSION, RECORD_VERSION, WATCH_VERSION
from arx_verifier.ledger import costs, pools
from arx_verifier.memory import stamp
from arx_verifier.revocation import epoch
from arx_verifier.service import ServiceConfig
from arx_verifier.token import call_proof, caveats, discharge, macaroon, targets, wire
from arx_verifier.token.keyring import DEFAULT_MAX_TTL_MS
from arx_verifier.verification import authenticate, compiled_caveats, freshness, nonces
from tests.house.matrix import vectors
from tests.house.pages import ROOT
from tests.house.sections import DOCUMENTS, chapter, citations, known, own_citations, sections
from tests.vectors import spec_tables

TABLES = json.loads(spec_tables.FILE.read_bytes())
WITH_CITATIONS = (".c", ".lua", ".md", ".py", ".json", ".toml", ".yml")


def section(number: int) -> str:
    """Return one chapter of SPEC."""
    return chapter("SPEC", number)


def test_the_tables_are_written_from_spec() -> None:
    """
    ``tests/vectors/tables.json`` has the tables of SPEC; ``python -m tests.vectors.spec_tables`` writes it.
    """
    assert spec_tables.tables() == TABLES
    assert spec_tables.FILE.read_text(encoding="utf-8") == spec_tables.page()


@pytest.mark.spec("13")
def test_the_reason_table_is_the_code_s() -> None:
    """
    Every reason code is in SPEC 13 with its status, RFC 6750 error and retry; and no other is.
    """
    rows = {row["code"]: (row["status"], row["oauth_error"], row["retry"]) for row in TABLES["reasons"]}
    assert rows == {code: tuple(reason[:3]) for code, reason in errors.REASONS.items()}


@pytest.mark.spec("19.2", "19.3", "19.4")
def test_the_texts_for_models_are_the_code_s() -> None:
    """
    SPEC 19 has each text that is made of words of code.
    """
    assert TABLES["texts"] == {
        "advice": refusal_text._ADVICE,
        "ended": refusal_text._ENDED,
        "why": {"missing_discharge": refusal_text._APPROVAL},
        "meaning": {code: reason.meaning for code, reason in errors.REASONS.items()},
        "rule": errors._OF_RULE,
        "argument": errors._OF_ARGUMENT,
    }


def test_every_reason_has_a_class_and_a_sentence() -> None:
    """
    Each code can be raised, as one of the classes that callers catch, with the status of the table.
    """
    for code, reason in errors.REASONS.items():
        error = errors.refusal(code)
        assert (error.code, error.status_hint) == (code, reason.status)
        assert isinstance(error, errors.TokenError | errors.AccessError | errors.UnavailableError | errors.RequestError)
        assert reason.meaning


@pytest.mark.spec("19.1")
@pytest.mark.parametrize("code", [*errors.REASONS, "some_other_code"])
def test_a_text_for_a_model_is_written_as_specified(code: str) -> None:
    """
    From the tables alone, the text of each code is the one that code writes: with failures, a decision, or neither.
    """
    written, rows = TABLES["texts"], {row["code"]: row for row in TABLES["reasons"]}
    retry = rows[code]["retry"] if code in rows else "no"
    failures = [errors.Failure("caveat 2", "amount max", "20", "50"), errors.Failure("token", "exp", "before 2", "3")]
    shown = f"amount {written['argument']['max']} 20, got 50; {written['rule']['exp']} before 2, got 3"
    for given, because in (([], written["meaning"].get(code, code.replace("_", " "))), (failures, shown)):
        why = written["why"].get(code, because)
        text = written["ended"].get(code, f"orders.refund was refused: {why}. {written['advice'][retry]}")
        assert refusal_text.refusal_for_model("orders.refund", code, given) == text
        assert refusal_text.refusal_for_model("orders.refund", code, given, "ab-7") == f"{text} (decision ab-7)"


@pytest.mark.spec("4.1", "6.1", "6.4", "6.6", "7.1", "7.2", "7.3", "15.1", "15.2")
def test_every_member_is_specified() -> None:
    """
    SPEC lists exactly the members that code knows.
    """
    fields = {member.encode_name: member for member in msgspec.structs.fields(caveats.Caveat)}
    of_holders = {name for name, member in fields.items() if caveats.OF_HOLDERS in get_args(member.type)}
    known = {
        "identifier": macaroon.Identifier.__struct_encode_fields__,
        "caveat": caveats.KNOWN,
        "caveat_not_in_discharge": of_holders,
        "third_party": discharge.ThirdPartyCaveat.__struct_encode_fields__,
        "rule": Rule.__struct_encode_fields__,
        "constraint": Constraint.__struct_encode_fields__,
        "url": Url.__struct_encode_fields__,
        "bundle": bundle._Written.__struct_encode_fields__,
        "service_file": ServiceConfig.__struct_encode_fields__,
        "service_file_required": [field.name for field in msgspec.structs.fields(ServiceConfig) if field.required],
    }
    listed = {name: TABLES["members"][name] for name in known}
    assert {name: sorted(names) for name, names in listed.items()} == {n: sorted(k) for n, k in known.items()}


@pytest.mark.spec("15.2")
def test_the_variables_of_a_verifier_are_specified() -> None:
    """
    SPEC 15.2 has the variables that docs/settings.md has for a verifier, but for the choice of Python's build.
    """
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    read = set(re.findall(r"^\| `(\w+)` \| [^|]*\bverifier\b[^|]* \|", page, re.MULTILINE))
    assert {*TABLES["members"]["variables"]} == read - {"ARX_PURE"}


@pytest.mark.spec("12.3", "18.2")
def test_the_arrays_are_the_code_s() -> None:
    """
    A record and a stamp have as many positions as SPEC draws.
    """
    record, stamped = TABLES["members"]["record"], TABLES["members"]["stamp"]
    lengths = {name: len(record[name]) for name in ("facts", "call", "gap", "effect", "credential", "rest")}
    kinds = {"facts": records.Facts, "call": records.CallRecord, "rest": records.Rest}
    optional = {
        "facts": 1,
        "call": 6,
        "rest": 3,
    }  # holders; a call's evidence; of a watched call, that and its group; an effect, its id; an account; marks; a box
    assert lengths == {name: len(kind.__struct_fields__) - optional[name] for name, kind in kinds.items()} | {
        "gap": len(records.Gap._fields),
        "effect": len(records.EffectRecord._fields),
        "credential": len(records.CredentialRecord._fields),
    }
    assert len(stamped["writer"]) == len(stamp.Writer.__struct_fields__)


@pytest.mark.spec("17.1")
def test_the_periods_of_pools_are_the_code_s() -> None:
    """
    SPEC 17.1 has the periods that code knows, and the unit that every service has.
    """
    assert TABLES["budgets"]["periods"] == {per: length or None for per, length in pools.PERIOD_MS.items()}
    assert TABLES["budgets"]["units"] == [costs.CALLS]


@pytest.mark.spec("14")
def test_the_limits_are_the_code_s() -> None:
    """
    The numbers of SPEC 14 are those that code enforces.
    """
    enforced = {
        "credential": wire.MAX_CREDENTIAL_CHARS,
        "caveats": wire.MAX_CAVEATS,
        "discharges": discharge.MAX_DISCHARGES,
        "discharge_depth": authenticate.MAX_DEPTH,
        "third_party_id": discharge.MAX_ID_CHARS,
        "delegations": macaroon.MAX_HOPS,
        "agent_path": names.MAX_PATH_BYTES,
        "agent_path_segments": names.MAX_PATH_SEGMENTS,
        "tool": names.MAX_TOOL_CHARS,
        "meta_text": macaroon.MAX_ABOUT_CHARS,
        "target": targets.MAX_TARGET_BYTES,
        "token_life": DEFAULT_MAX_TTL_MS,
        "iat_ahead": macaroon.IAT_AHEAD_MS,
        "fresh": caveats.MAX_FRESH_MS,
        "once": limits.MAX_ONCE,
        "once_age": nonces.ONCE_MS,
        "once_ahead": nonces.ONCE_AHEAD_MS,
        "once_kept": nonces.ONCE_KEEP_MS,
        "spend": limits.MAX_POOLS,
        "mark_rows": limits.MAX_ROWS,
        "mark_row_items": caveats.MAX_ROW_ITEMS,
        "mark_row_names": caveats.MAX_ROW_NAMES,
        "distinct_values": caveats.MAX_VALUES,
        "mark_fields": pools.MAX_MARK_FIELDS,
        "marks_kept": pools.KEEP_MS,
        "pool_holds": pools.MAX_HELD,
        "pool_holds_with_once": pools.MAX_WITH_HOLDS,
        "pool_kept": pools.KEEP_MS,
        "amount": amounts.MAX_AMOUNT // amounts.UNIT,
        "amount_decimals": amounts.PLACES,
        "argument_nesting": request.MAX_JSON_DEPTH,
        "nesting": limits.MAX_NESTING,
        "decimal": scalars.MAX_DECIMAL_CHARS,
        "integer": jcs.MAX_INTEGER,
        "work": limits.MAX_WORK,
        "free_tests": limits.FREE_TESTS,
        "list_items": scalars._MAX_ITEMS,
        "each_items": limits.MAX_EACH,
        "url": text._MAX_URL_CHARS,
        "failures": rule.MAX_TOLD,
        "call_age": call_proof.MAX_AGE_MS,
        "call_ahead": call_proof.MAX_AHEAD_MS,
        "call_kept": call_proof.KEEP_MS,
        "shared_kept_longer": nonces.APART_MS,
        "clock_skew": epoch.SKEW_MS,
        "behind_wait": freshness.BEHIND_WAIT_S * 1000,
        "syncing_wait": freshness.SYNCING_WAIT_S * 1000,
        "recheck": grant_life.RECHECK_MS,
        "recheck_early": freshness.CLOSING_NS / 1_000_000,
        "record_caveats": compiled_caveats.MAX_CAVEAT_CHARS,
        "record_arguments": records.MAX_ARGUMENTS_BYTES,
        "stamp": stamp.MAX_STAMP_CHARS,
        "stamp_groups": stamp.MAX_GROUPS,
        "stamp_digests": stamp.MAX_DIGESTS,
    }
    values = {name: limit["value"] for name, limit in TABLES["limits"].items()}
    # No constant has these: two length bytes; the forms of section 7; the type of a member.
    assert {name: value for name, value in values.items() if name not in enforced} == {
        "packet": 16_383,
        "caveat_nesting": 16,
        "subject_text": 512,
    }
    assert {name: values[name] for name in enforced} == enforced


@pytest.mark.spec("12.3", "12.6")
def test_the_record_version_is_the_code_s() -> None:
    """
    SPEC 12 writes a record and a journal's entry with the version that code writes.
    """
    assert re.findall(r"(?:kept   = |keeps `)\[(\d+), ", section(12)) == [str(RECORD_VERSION)] * 2
    assert f"`, or {WATCH_VERSION}, {EFFECT_VERSION} or {LATEST_VERSION} for {RECORD_VERSION};" in section(12)


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
