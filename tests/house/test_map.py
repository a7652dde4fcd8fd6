# SPDX-License-Identifier: Apache-2.0
"""A newcomer finds each room: the map names it, a question leads to it, and the glossary has its words."""

import re

import pytest

from tests.house.map import QUESTIONS, ROOMS, found_by, packages_in
from tests.house.pages import ROOT
from tests.house.test_package_graph import CAPS, VERIFIER, VERIFIER_ROOMS
from tests.house.test_plain_english import AREAS

LOOKS = 8  # modules that a reader looks at, who searches paths and docstrings for the words of a question
# The words of the glossary that each room needs.
WORDS = {
    "agent": "agent, session, task, bundle",
    "audit": "checkpoint, record, ship, witness",
    "cli": "operator",
    "connect": "bridge",
    "console": "console",
    "constraints": "constraint, rule",
    "credentials": "access token",
    "enforcement": "guard, enforcement",
    "gateway": "gateway, upstream, door, decider",
    "hook": "hook",
    "integrations": "adapter",
    "journal": "journal, decision",
    "ledger": "ledger, pool, draw",
    "memory": "stamp, taint, withhold",
    "mint": "mint, policy, root key, enrol, notification, webhook, client, consent, login, approval, connection",
    "relay": "relay",
    "revocation": "kill, freeze, epoch, store, follower",
    "run": "front, box",
    "service": "service",
    "token": "token, caveat, attenuate, third-party caveat, holder key",
    "verification": "verifier, grant, replay",
}
# Rooms of words that every room uses, such as the name of a protocol.
PLAIN = {"database", "demo", "embedded", "http", "installation", "isolation", "mcp", "metrics", "settings", "text"}


def rooms_of_the_graph() -> set[str]:
    """Return the rooms that the package graph has on the ground floor of both packages."""
    return {*VERIFIER_ROOMS, *ROOMS[CAPS]}


def test_the_map_names_every_room() -> None:
    """
    A package with packages in it has a table in CONTRIBUTING.md, which has each of them.
    """
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for folder, rooms in ROOMS.items():
        table = re.search(rf"<!-- table: rooms_of_{folder.name} -->\n(.*?)<!-- end", page, re.DOTALL)
        assert table, f"CONTRIBUTING.md has no table rooms_of_{folder.name}"
        assert set(re.findall(r"^\| `(\w+)`", table[1], re.MULTILINE)) == set(rooms)
        assert set(packages_in(folder)) <= set(rooms)


def test_the_language_is_checked_in_every_room() -> None:
    """
    Both packages are areas as a whole, and a room cannot be left out.
    """
    assert {str(path.relative_to(ROOT)).partition("/")[0] for path in (VERIFIER, CAPS)} <= set(AREAS)


def test_the_glossary_has_the_words_of_every_room() -> None:
    """
    A room of the graph has its words in the glossary, or a name that is not ours.
    """
    page = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    heads = [match.split(", ") for match in re.findall(r"^\| ([^|]+) \|", page, re.MULTILINE)]
    known = {word.strip("`") for head in heads for word in head}
    assert {word for words in WORDS.values() for word in words.split(", ")} <= known
    assert WORDS.keys() | PLAIN == rooms_of_the_graph()
    assert not WORDS.keys() & PLAIN


def test_every_room_answers_a_question() -> None:
    """
    A new room needs a question in questions.toml that leads to it.
    """
    places = {place for question in QUESTIONS for place in question["places"]}
    for folder, rooms in ((VERIFIER, sorted(VERIFIER_ROOMS)), (CAPS, ROOMS[CAPS])):
        for room in rooms:
            path = str((folder / room).relative_to(ROOT))
            assert any(place.startswith((f"{path}/", f"{path}.py")) for place in places), f"no question leads to {path}"


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question["ask"])
def test_the_words_of_a_question_lead_to_its_answer(question: dict[str, list[str]]) -> None:
    """
    A reader who searches paths and docstrings finds the first place in few looks, and the others in few more.
    """
    assert question.keys() == {"ask", "places"}
    found = [str(path.relative_to(ROOT)) for path in found_by(str(question["ask"]))]
    for place, looks in zip(question["places"], (LOOKS, 2 * LOOKS), strict=False):
        assert (ROOT / place).is_file()
        if place.endswith(".py") and not place.startswith("tests/"):
            assert place in found[:looks], f"the words lead to {found[:looks]}"
