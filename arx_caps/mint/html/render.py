# SPDX-License-Identifier: Apache-2.0
"""Render templates: Jinja2 with escaping always on.  CONTROL 5.8, 6.1.

A package that has pages keeps them in its folder ``templates``; each of them extends ``base.html``.
"""

from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from arx_caps.settings.toml_file import MISLEADING


def load_templates(*packages: str) -> Environment:
    """Return the templates of packages, which can extend those of this one.

    Args:
        packages: The packages' dotted names; of two templates of one name, that of the first counts.
    """
    return Environment(
        loader=ChoiceLoader(list(map(PackageLoader, (*packages, "arx_caps.mint.html")))),
        autoescape=True,
        finalize=spell,  # of every value of every page
        undefined=StrictUndefined,
        # An upgrade changes the files under a mint that runs: what it has shown must not change before its code does.
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def spell(value: Any) -> Any:
    """Return a text with marks that turn the direction of writing, or break its line, as JSON spells them."""
    # An agent chooses purposes, arguments and names: with such a mark one could look like another.
    if type(value) is not str or value.isascii() or MISLEADING.search(value) is None:
        return value
    return MISLEADING.sub(lambda mark: f"\\u{ord(mark[0]):04x}", value)
