# SPDX-License-Identifier: Apache-2.0
"""An operator who may load a policy could exhaust the mint's memory with one dotted key.

Every beginning of a dotted key was kept with its line, and a key has as many as parts: of ``a.a.a`` and so on for
8 000 parts 300 MB, four times as much for twice as many.  An operator who may only load a policy could end the mint.
"""

import pytest

from arx_caps.mint.policy.model import Policy
from arx_caps.settings.toml_file import MAX_PARTS
from arx_verifier.errors import SettingsError
from tests.mint.harness import REFUNDS

DEEP = ".".join("a" * 2_000)
QUOTED = " . ".join(["'a'", '"a"', r'"\""', r'"\\"'] * 500)
NESTED = "{ " + ".".join("a" * 40) + " = { " + ".".join("b" * 40) + " = 1 } }"


@pytest.mark.parametrize(
    "written", [f"{DEEP} = 1", f"{QUOTED} = 1", f"[{DEEP}]", f"[[{DEEP}]]", f"x = {{ {DEEP} = 1 }}", f"x = {NESTED}"]
)
def test_what_nests_too_deep_is_refused_with_its_line(written: str) -> None:
    """Before it is read as TOML, which takes its square as well; nested in several steps, while its lines are noted."""
    with pytest.raises(SettingsError, match=rf"^p\.toml:3: expected at most {MAX_PARTS} levels"):
        Policy.parse(f"# one\n\n{written}\n", "p.toml")


def test_names_that_are_long_are_no_deep_keys() -> None:
    """A tool's name of 48 parts, the address of a network and prose are what they are."""
    tool = ".".join("a" * 48)
    text = REFUNDS.replace('"orders.get"', f'"{tool}"') + "# " + "and so on ... " * 100 + "\n"
    with pytest.raises(SettingsError, match="audience"):  # it is read, and names no audience
        Policy.parse(text, "p.toml")
    Policy.parse(REFUNDS.replace("[audience.orders]", "# " + "x" * 50_000 + " 1.2.3\n[audience.orders]"), "p.toml")
