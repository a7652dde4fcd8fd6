# SPDX-License-Identifier: Apache-2.0
"""The vectors of decision records: written by a second writer, taken apart and put together by this one."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_verifier import jcs
from arx_verifier.errors import RequestError
from arx_verifier.journal.decision import unpack, unpack_record
from arx_verifier.journal.record import digest_arguments, form_of, keep_arguments, seal
from tests.vectors import make_vectors, second

pytestmark = pytest.mark.spec("12.3")

FOLDER = Path(__file__).parent.parent / "vectors" / "records"
VECTORS: dict[str, Any] = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


@pytest.mark.spec("12.6")
@pytest.mark.parametrize("name", VECTORS)
def test_each_record_has_the_bytes_of_its_vector(name: str) -> None:
    """A journal's payload seals into the vector's parts; both read as one decision, which packs into it again."""
    vector = VECTORS[name]
    journal, kept, body = (bytes.fromhex(vector[part]) for part in ("journal", "kept", "body"))
    assert seal(journal, vector["verifier"], vector["boot"], vector["sequence"]) == (kept, body)
    decision = unpack_record(kept, body)
    assert (decision.verifier, decision.boot, decision.sequence) == ("orders-1", "0123456789ab", vector["sequence"])
    assert decision.pack() == journal
    assert unpack(journal).to_dict() == decision.to_dict() | {"id": "", "verifier": "", "boot": "", "sequence": 0}
    erased = unpack_record(kept, None)
    assert erased.erased
    assert erased.salt == b""


@pytest.mark.spec("12.5")
@pytest.mark.parametrize("name", [name for name, vector in VECTORS.items() if "args" in vector])
def test_arguments_have_the_form_of_the_vector(name: str) -> None:
    """The recorded arguments, and the digest of them and the salt, are those of RFC 8785."""
    vector = VECTORS[name]
    decision = unpack_record(bytes.fromhex(vector["kept"]), bytes.fromhex(vector["body"]))
    assert keep_arguments(vector["args"]) == decision.arguments
    assert hashlib.sha256(decision.salt + form_of(vector["args"])).digest() == decision.args_digest


@pytest.mark.spec("12.5")
@pytest.mark.parametrize("value", [float("nan"), [float("inf")], 2**53, -1e16, {"a": [1e300]}, "\ud800", {"\ud800": 1}])
def test_arguments_without_a_form_have_an_empty_digest(value: Any) -> None:
    """What RFC 8785 does not write has no digest, and no call with it is allowed."""
    digest, salt = digest_arguments({"x": value})
    assert (digest, len(salt)) == (b"", 16)
    assert keep_arguments({"x": value}) == b""


@pytest.mark.spec("12.5")
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**53) + 1, 2**53 - 1)
        | st.floats(-(2.0**53) + 1, 2.0**53 - 1)
        | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
        max_leaves=12,
    )
)
def test_the_form_is_that_of_a_proof(value: Any) -> None:
    """The fast way writes the bytes of ``jcs.jcs``, which a proof covers, and so does a second writer."""
    try:
        raw = form_of({"x": value})
    except RequestError:
        with pytest.raises(RequestError):
            jcs.jcs({"x": value})
        return
    assert raw == jcs.jcs({"x": value}) == second.jcs({"x": value})


def test_the_record_files_are_what_the_script_makes() -> None:
    """Running the script again changes nothing: no file differs, is missing or is left over."""
    assert {path.name: path.read_text() for path in FOLDER.glob("*.json")} == make_vectors.build_records()
