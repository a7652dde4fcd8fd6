# SPDX-License-Identifier: Apache-2.0
"""The picture of the rooms in CONTRIBUTING.md shows the package graph."""

import re

from tests.house.rooms import PICTURE, levels, picture
from tests.house.test_package_graph import CAPS_IMPORTS


def test_the_rooms_are_drawn_as_the_package_graph_lists_them() -> None:
    """The picture of the packages is what its test lists; ``python -m tests.house.rooms`` draws it."""
    assert PICTURE.read_text(encoding="utf-8") == picture()
    drawn = set(re.findall(r">([a-z_]+)</text>", picture()))
    assert drawn >= {name for name in CAPS_IMPORTS if not name.startswith("_")}
    below: set[str] = {name for name in CAPS_IMPORTS if name.startswith("_")}
    for row in levels():
        assert all(CAPS_IMPORTS[package] <= below for package in row)
        below |= set(row)
