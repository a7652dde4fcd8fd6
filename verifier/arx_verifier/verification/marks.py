# SPDX-License-Identifier: Apache-2.0
"""Marks: what a call may do after what has happened in its session.  SPEC 21.

``MarkRows`` has the rows of a chain, and the question that a call asks the ledger, which judges and sets marks.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, NamedTuple

from arx_verifier.errors import Failure
from arx_verifier.jcs import encode
from arx_verifier.journal.record import form_of
from arx_verifier.ledger.pools import MarkQuestion, MarkSetting, Stopped
from arx_verifier.limits import MAX_TOOLS
from arx_verifier.names import MAX_TOOL_CHARS, matches_tool
from arx_verifier.refusal_text import APPROVAL
from arx_verifier.request import UNSEEN_BODY, AccessRequest
from arx_verifier.token.macaroon import Identifier
from arx_verifier.verification.effects import ChainRestrictions
from arx_verifier.verification.reasons import NO_STORE, PLACES, REQUEST_UNSEEN, Refused, show_time

NO_LEDGER: Final = "at a service with a ledger"
_NO_ANSWER: Final = ("at a service that sees the answer, which proves a mark", "a decider, which sees none")
_DIGEST_CHARS: Final = 32
_OF: Final = {"marks": 2, "distinct": 3}  # where these rows have what their mark is of
_COMPARED: Final = (str, int, float, bool)  # of another type, different values may have one form


class _Row(NamedTuple):
    """A row of a chain.

    Attributes:
        place: The place of its caveat.
        member: The member of the caveat; ``when`` for a third-party caveat.
        values: The row as written; for ``when``, the marks and the caveat.
        seen: What the marks that it sees are of, as fields have it; of a row that sets one, only that.
    """

    place: str
    member: str
    values: Any
    seen: tuple[str, ...]


class _ToolRows(NamedTuple):
    """The rows that name a tool, and the question that each of its calls asks, but for time and values.

    The rows of ``after`` are those of the member, and behind them those of third-party caveats, which are judged last.
    """

    rows: dict[str, list[_Row]]
    question: MarkQuestion
    done: tuple[str, ...]


class MarkRows:
    """The rows of a chain about marks.

    Attributes:
        shown: By place of a third-party caveat that a discharge answers, the marks that its approver was shown, each
            with its time.  Set before the first question.

    Args:
        said: The restrictions of the chain.
        links: Its links.
        identifier: Its identifier.
    """

    def __init__(self, said: ChainRestrictions, links: Sequence[str], identifier: Identifier) -> None:
        self._session, self._audience, self._opened = identifier.session or "", identifier.aud, said.opened
        self._by_tool: dict[str, _ToolRows | None] = {}
        self.shown: Mapping[str, frozenset[tuple[str, int]]] = {}
        self._policy = {"session": "s", "task": f"t/{identifier.task}"}
        self._rows = [self._row(index, member, row, said, links, identifier) for index, member, row in said.rows]

    def _row(
        self, index: int, member: str, row: Any, said: ChainRestrictions, links: Sequence[str], identifier: Identifier
    ) -> _Row:
        every, of = tuple(self._policy.values()), _OF.get(member)
        hops = bisect_right(said.hops, index)
        if index == 0 or (member == "when" and hops == 0):
            # A proof of the policy alone counts for it, and no mark of a link: a holder could set that.
            seen = every if of is None else (self._policy[row[of]],)
        else:
            own = [f"l/{link}" for link in (identifier.id, *links[:hops])]
            seen = (*every, *own) if of is None else (own[-1],)
        return _Row(PLACES[index + 1], member, row, seen)

    def ask(self, request: AccessRequest, declared: Sequence[str]) -> "MarkQuestion | Refused | None":
        """Return what a call asks the ledger; None if no row names its tool; or its refusal.

        Args:
            request: The call.
            declared: The warnings that its service declares of all of its calls; one that no row has is not set.
        """
        found = self._of(request.tool)
        if found is None:
            return self._with_declared(None, request, declared)
        question, rows = found.question._replace(at=request.at), found.rows["distinct"]
        if not rows:
            return self._with_declared(question, request, declared)
        if request.http is not None and request.http.body_digest == UNSEEN_BODY:
            return REQUEST_UNSEEN
        counted: list[tuple[str, int, tuple[str, ...]]] = []
        for row, (name, most, _) in zip(rows, question.distinct, strict=True):
            digests = _digests(row, self._session, name, request)
            if isinstance(digests, Refused):
                return digests
            if len(digests) > most:
                return self.refusal(request.tool, Stopped("distinct", len(counted)))
            counted.append((name, most, digests))
        return self._with_declared(question._replace(distinct=tuple(counted)), request, declared)

    def only_sets(self, request: AccessRequest, declared: Sequence[str]) -> MarkQuestion | None:
        """Return a question that sets what a call sets, and judges nothing; None if it sets nothing."""
        found = self._of(request.tool)
        sets = found.question.sets if found is not None else ()
        return self._with_declared(self._setting(request.tool, sets, request.at) if sets else None, request, declared)

    def names(self, tool: str) -> bool:
        """Return whether a row names a tool."""
        return self._of(tool) is not None

    def done(self, tool: str, at: int) -> MarkQuestion | None:
        """Return the question that sets the proofs of a call whose effect is done; None if it sets none."""
        found = self._of(tool)
        return self._setting(tool, found.done, at) if found is not None and found.done else None

    def named(self, name: str, tool: str, at: int) -> MarkQuestion:
        """Return the question with which a service sets a mark.

        Args:
            name: The mark.
            tool: The tool of its call.
            at: The time, ms since the Unix epoch.

        Raises:
            ValueError: No row has the mark, or its proof is another service's.
        """
        fields = []
        for row in self._rows:
            if row.member == "marks" and row.values[:2] == ("from", name) and self._audience in row.values[3]:
                fields.append(f"p:{row.seen[0]}:{name}")
        fields += self._warning(name)
        if not fields:
            raise ValueError(f"no rule of this token lets {self._audience} set the mark {name!r:.80}")
        return self._setting(tool, fields, at)

    def _with_declared(
        self, asked: MarkQuestion | None, request: AccessRequest, names: Sequence[str]
    ) -> MarkQuestion | None:
        declared = self.declared(names, request.tool, request.at) if names else None
        if asked is None or declared is None:
            return asked or declared
        return asked._replace(sets=tuple(dict.fromkeys((*asked.sets, *declared.sets))))

    def declared(self, names: Sequence[str], tool: str, at: int) -> MarkQuestion | None:
        """Return the question that sets warnings which a service declares; None if no row has one of them."""
        fields = [field for name in names for field in self._warning(name)]
        return self._setting(tool, fields, at) if fields else None

    def _warning(self, name: str) -> list[str]:
        """Return the field in which a service sets a warning; none if no row has it."""
        warned = [row for row in self._rows if _warns(row, name)]
        if not warned:
            return []
        # Where the policy sets it, else at the first link whose rows have it: those below see it there.
        policy = [row for row in warned if row.seen[-1][0] != "l"]
        of = next((row.seen[0] for row in policy if row.member == "marks"), "s")
        return [f"w:{of if policy else warned[0].seen[-1]}:{name}"]

    def refusal(self, tool: str, stopped: Stopped) -> Refused:
        """Return the refusal of a call that the ledger stopped."""
        found = self._of(tool)
        if found is None or stopped.member not in found.rows:
            return NO_STORE
        place, member, values, _ = found.rows[stopped.member][stopped.at]
        if stopped.member == "after":
            came = " and ".join(map(_shown, values[0], stopped.found))
            if member == "after" or "" in stopped.found:  # no approver is shown what may be lost
                return Refused("after_mark", (Failure(place, "after", " and ".join(values[0]), came),))
            given = "one of before" if place in self.shown else "none"
            return Refused("missing_discharge", (Failure(place, APPROVAL, f"an approval after {came}", given),))
        if member == "only_after":
            expected = values[0] if values[1] == 0 else f"{values[0]} of the last {values[1] // 1000} s"
            came = _shown(values[0], stopped.found[0]) if stopped.found else "none"
            return Refused("mark_missing", (Failure(place, "only_after", expected, came),))
        expected = f"at most {values[2]} different values of {', '.join(values[1])} in one {values[3]}"
        return Refused("argument_not_allowed", (Failure(place, "distinct", expected, "more of them"),))

    def unsupported(self, tool: str, *, keeps: bool) -> Refused:
        """Return the refusal of a call at a service that keeps no marks, or sees no answer that would prove one."""
        if keeps:
            return Refused("mark_unsupported", (Failure(PLACES[1], "marks", *_NO_ANSWER),))
        found = self._of(tool)
        place = "token" if found is None else next(iter(row.place for rows in found.rows.values() for row in rows))
        return Refused("mark_unsupported", (Failure(place, "marks", NO_LEDGER, "one without"),))

    def _of(self, tool: str) -> _ToolRows | None:
        known = self._by_tool
        try:
            return known[tool]
        except KeyError:  # in one step: another thread may forget all between a test and a read
            pass
        rows = self._compile(tool)
        if len(tool) <= MAX_TOOL_CHARS:
            if len(known) >= MAX_TOOLS:  # with a rule `*` a holder could otherwise fill memory with names
                known.clear()
            known[tool] = rows
        return rows

    def _compile(self, tool: str) -> _ToolRows | None:
        rows: dict[str, list[_Row]] = {"after": [], "only_after": [], "distinct": [], "marks": [], "when": []}
        for row in self._rows:
            if any(matches_tool(pattern, tool) for pattern in _tools_of(row)):
                rows[row.member].append(row)
        if not any(rows.values()):
            return None
        rows["after"] += rows["when"]
        sets = [(row.values[0], row.seen[0], row.values[1]) for row in rows["marks"]]
        question = self._setting(tool, [f"w:{of}:{name}" for how, of, name in sets if how == "call"], 0)._replace(
            after=tuple(
                tuple(tuple(f"w:{of}:{name}" for of in row.seen) for name in row.values[0]) for row in rows["after"]
            ),
            only_after=tuple(
                (tuple(f"p:{of}:{row.values[0]}" for of in row.seen if of[0] != "l"), row.values[1])
                for row in rows["only_after"]
            ),
            distinct=tuple((_set_of(row), row.values[2], ()) for row in rows["distinct"]),
            shown=tuple(
                tuple(tuple(at for mark, at in self.shown.get(row.place, ()) if mark == name) for name in row.values[0])
                for row in rows.pop("when")
            ),
        )
        return _ToolRows(rows, question, tuple(f"p:{of}:{name}" for how, of, name in sets if how == "done"))

    def _setting(self, tool: str, fields: Sequence[str], at: int) -> MarkQuestion:
        by = f"{tool[:MAX_TOOL_CHARS]} {self._audience}"
        return MarkQuestion(self._session, self._opened, at, by, sets=tuple(dict.fromkeys(fields)))


def _tools_of(row: _Row) -> Sequence[str]:
    if row.member == "marks" and row.values[0] == "from":
        return ()
    if row.member == "when":
        return row.values[1].tools or ("*",)
    tools: Sequence[str] = row.values[0] if row.member == "distinct" else row.values[-1]
    return tools


def _warns(row: _Row, name: str) -> bool:
    if row.member in ("after", "when"):
        return name in row.values[0]
    return row.member == "marks" and row.values[:2] == ("call", name)


def _set_of(row: _Row) -> str:
    """Return the name of the set that a row of ``distinct`` counts: rows that differ in their number share it."""
    tools, arguments, _, _ = row.values
    return sha256(encode([row.seen[0], tools, arguments])).hexdigest()[:32]


def _digests(row: _Row, session: str, name: str, request: AccessRequest) -> tuple[str, ...] | Refused:
    """Return the salted digests of the values that a call has; or the refusal, if one has no value to compare."""
    given = [request.args[argument] for argument in row.values[1] if request.args.get(argument) is not None]
    values: list[Any] = []
    for value in given:
        values += value if isinstance(value, list) else [value]
    if not given or any(type(value) not in _COMPARED for value in values):
        came = "another value" if given else "none"
        expected = f"{' or '.join(row.values[1])} as text or a number, or a list of them"
        return Refused("argument_not_allowed", (Failure(row.place, "distinct", expected, came),))
    salt = f"{session} {name} ".encode()
    return tuple({sha256(salt + form_of({"": value})).hexdigest()[:_DIGEST_CHARS] for value in values})


def _shown(name: str, value: str) -> str:
    """Return a mark with the time and the call that set it."""
    if not value:
        return f"{name}, which may be lost: open another session"
    found = MarkSetting.read(value)
    return f"{name} by {found.shown_tool} at {found.service}, {show_time(found.at)}"
