# SPDX-License-Identifier: Apache-2.0
"""A holder could make a call that a caveat refuses, where the compiled build did not know the caveat's member.

CWE-636, SPEC 6.  A member that was added to the Python walk alone restricted nothing there.  What is compiled reads
bytes and knows no member of a caveat, so one walk decides for both builds.
"""

import re
from operator import attrgetter
from pathlib import Path
from typing import Annotated

import msgspec
import pytest

from arx_verifier import limits
from arx_verifier.errors import ArxError
from arx_verifier.token import caveats
from arx_verifier.verification import compiled_caveats, effects
from arx_verifier.verification.effects import ChainRestrictions
from tests.support import ANYTHING, code_of, forge_caveats, mint

PACKAGE = Path(__file__).parents[2] / "verifier" / "arx_verifier"


class _WithRegion(caveats._Members, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    allow: Annotated[tuple[caveats.WireRule, ...], msgspec.Meta(min_length=1)] | None = None
    region: str | None = None


def test_a_member_that_python_refuses_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A member is added where a developer would add it, in Python; it restricts in every build."""
    token = forge_caveats(b'{"region":"eu"}')
    assert code_of(token) == "unknown_caveat"

    def refuse_region(_said: ChainRestrictions, _index: int, _value: str, _audience: str) -> None:
        raise ArxError("not in this region", code="network_not_allowed")

    monkeypatch.setattr(caveats, "_WIRE", msgspec.json.Decoder(_WithRegion))
    for kept in ("REFUSED", "KEPT", "TOGETHER"):  # neither read before nor found later
        monkeypatch.setattr(compiled_caveats, kept, limits.Kept(512, 1))
    monkeypatch.setitem(effects.EFFECTS, "region", effects.Effect(refuse_region))
    monkeypatch.setattr(effects, "_operands", attrgetter(*effects.EFFECTS))
    assert code_of(token) == "network_not_allowed"
    assert code_of(mint(ANYTHING).encode()) == "ok"


def test_what_is_compiled_names_no_member_of_a_caveat() -> None:
    """No text of the C source is the name of a member; of a call's proof, whose width is fixed, the opening is one."""
    sources = sorted(PACKAGE.rglob("*.[ch]"))
    assert sources, "the package holds its C source"
    for source in sources:
        code = re.sub(r"//[^\n]*", "", source.read_text("utf-8"))
        assert not set(re.findall(r'"([a-z_]+)"', code)) & caveats.KNOWN, source.name
