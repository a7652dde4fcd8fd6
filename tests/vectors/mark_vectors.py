# SPDX-License-Identifier: Apache-2.0
"""Vectors of marks (SPEC 21)."""

from typing import Any

from tests.vectors.form_vectors import Vectors, vector
from tests.vectors.second import ANYTHING, AT, HOP, HOP2, Token, bound, canonical, discharge, joined, mint, requiring

OPENED = AT - 60_000
TO: dict[str, Any] = {"hop": HOP, "to": "acme/worker"}
TO2: dict[str, Any] = {"hop": HOP2, "to": "acme/worker/helper"}
READ, PAY, SEND, RUN = "web.get", "orders.pay", "mail.send", "deploy.run"
UNTRUSTED = ["call", "untrusted", "session", ["web.*"]]
NO_PAY = [["untrusted"], [PAY]]
TESTED = ["from", "tested", "task", ["orders"]]


def rows(**members: Any) -> dict[str, Any]:
    """The members of a caveat with rows."""
    return {"opened": OPENED} | members


def policy(**members: Any) -> Token:
    """A token that allows anything, with rows of its policy."""
    return mint(ANYTHING | rows(**members))


def asking(tool: str, args: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A call, in form of the vectors."""
    return {"tool": tool, "args": args or {}} | more


def marked(
    expect: str, token: Token, why: str, *calls: Any, tool: str = PAY, args: Any = None, spec: str = "21.4"
) -> dict[str, Any]:
    """A vector of a service that keeps marks: the calls before, of one token or of another, and then one."""
    return vector(spec, expect, token, why, costs={}, calls=[*calls], request=asking(tool, args))


def in_two_tasks(**members: Any) -> tuple[Token, dict[str, Any]]:
    """Such a token, and what makes a call one of another task of its session."""
    return policy(**members), {"token": mint(ANYTHING | rows(**members), task="t-other").text()}


def vectors() -> Vectors:
    """All of this file."""
    return shapes() | warnings() | proofs() | values() | links() | approvals()


def shapes() -> Vectors:
    """SPEC 21.2."""
    wrong = {
        "no-opened": ({"after": [NO_PAY]}, "no time of opening"),
        "opened-alone": ({"opened": OPENED}, "no rows"),
        "empty": (rows(after=[]), "no row"),
        "no-mark": (rows(after=[[[], [PAY]]]), "a row without a mark"),
        "no-tool": (rows(after=[[["untrusted"], []]]), "a row without a tool"),
        "name": (rows(after=[[["un trusted"], [PAY]]]), "a mark with a space"),
        "pattern": (rows(after=[[["untrusted"], ["orders*"]]]), "no pattern of tools"),
        "how": (rows(marks=[["never", "untrusted", "session", ["web.*"]]]), "a way to set a mark that does not exist"),
        "of": (rows(marks=[["call", "untrusted", "realm", ["web.*"]]]), "a mark of a realm"),
        "service": (rows(marks=[["from", "tested", "task", ["CI"]]]), "a service in upper case"),
        "within": (rows(only_after=[["tested", -1, [RUN]]]), "a negative time"),
        "none": (rows(distinct=[[[SEND], ["to"], 0, "task"]]), "no value at all"),
        "many": (rows(distinct=[[[SEND], ["to"], 1001, "task"]]), "more values than a session keeps"),
        "arguments": (rows(distinct=[[[SEND], [], 1, "task"]]), "no argument"),
    }
    found = {
        f"mark-{name}": marked("malformed", mint(ANYTHING, value), why, spec="21.2")
        for name, (value, why) in wrong.items()
    }
    many = [[[f"m{number}"], [PAY]] for number in range(33)]
    return found | {
        "mark-33-rows": marked("malformed", mint(ANYTHING, *[rows(after=many[:11])] * 3), "33 rows", spec="21.2"),
        "mark-32-rows": marked("grant", policy(after=many[:32]), "32 rows", spec="21.2"),
        "mark-no-ledger": vector(
            "21.4", "mark_unsupported", policy(after=[NO_PAY]), "no ledger", calls=[], request=asking(PAY)
        ),
        "mark-no-ledger-not-named": vector(
            "21.4", "grant", policy(after=[NO_PAY]), "no row names the tool", calls=[], request=asking(READ)
        ),
        "mark-holder-proves": marked(
            "malformed", mint(ANYTHING, rows(marks=[TESTED])), "a holder sets no proof", spec="21.3"
        ),
        "mark-holder-proves-done": marked(
            "malformed",
            mint(ANYTHING, TO | rows(marks=[["done", "saved", "task", ["db.*"]]])),
            "nor by the effect of a call",
            spec="21.3",
        ),
    }


def warnings() -> Vectors:
    """SPEC 21.4: `marks` and `after`."""
    token = policy(marks=[UNTRUSTED], after=[NO_PAY])
    both = policy(
        marks=[UNTRUSTED, ["call", "private", "task", ["crm.read"]]], after=[[["untrusted", "private"], [PAY]]]
    )
    own = policy(marks=[["call", "paid", "session", [PAY]]], after=[[["paid"], [PAY]]])
    early = mint(ANYTHING | rows(after=[NO_PAY], opened=OPENED - 1))
    late = mint(ANYTHING | rows(after=[NO_PAY], opened=OPENED - 1), rows(after=[[["other"], [READ]]], opened=AT))
    return {
        "mark-none": marked("grant", token, "nothing has happened"),
        "mark-after": marked("after_mark", token, "a page was read", asking(READ)),
        "mark-after-other-tool": marked("grant", token, "no row names the tool", asking(READ), tool="orders.get"),
        "mark-refused-call-sets-none": marked(
            "grant", policy(marks=[UNTRUSTED], after=[NO_PAY, [["paid"], [READ]]]), "a call was allowed", asking(PAY)
        ),
        "mark-done-is-no-warning": marked(
            "grant",
            policy(marks=[["done", "saved", "session", ["db.backup"]]], after=[[["saved"], [PAY]]]),
            "a proof of the same name forbids nothing",
            asking("db.backup", effect="done"),
            spec="21.1",
        ),
        "mark-short-sets-none": vector(
            "21.4",
            "grant",
            policy(marks=[UNTRUSTED], after=[NO_PAY], spend=["p", "calls", "1", "task", OPENED]),
            "a call that no pool could pay has set nothing",
            costs={READ: {"calls": "2"}, PAY: {"calls": "1"}},
            calls=[asking(READ)],
            request=asking(PAY),
        ),
        "mark-refused-draws-nothing": vector(
            "21.4",
            "grant",
            policy(marks=[TESTED], only_after=[["tested", 0, [RUN]]], spend=["p", "calls", "2", "task", OPENED]),
            "a call that a row refused has drawn nothing",
            costs={"*": {"calls": "1"}},
            calls=[asking(RUN), asking("orders.get", mark="tested")],
            request=asking(RUN),
        ),
        "mark-early": marked(
            "store_unavailable",
            mint(ANYTHING | rows(after=[NO_PAY], opened=AT + 60_001)),
            "opened more than a minute in the future",
            spec="21.5",
        ),
        "mark-early-margin": marked(
            "grant",
            mint(ANYTHING | rows(after=[NO_PAY], opened=AT + 60_000)),
            "a minute in the future",
            spec="21.5",
        ),
        "mark-both-one": marked("grant", both, "one of two", asking(READ)),
        "mark-both": marked("after_mark", both, "both", asking(READ), asking("crm.read")),
        "mark-own": marked("grant", own, "a call is judged before it sets its own mark"),
        "mark-own-again": marked("after_mark", own, "the second one", asking(PAY)),
        "mark-service": marked("after_mark", token, "the service set it", asking("orders.get", mark="untrusted")),
        "mark-service-named-by-after-alone": marked(
            "after_mark", policy(after=[NO_PAY]), "a row has the mark", asking("orders.get", mark="untrusted")
        ),
        "mark-lost": marked("after_mark", early, "opened before the ledger began", spec="21.5"),
        "mark-lost-earliest": marked("after_mark", late, "the earliest time counts", spec="21.5"),
    }


def proofs() -> Vectors:
    """SPEC 21.4: `only_after`."""
    token = policy(marks=[TESTED], only_after=[["tested", 0, [RUN]]])
    saved = policy(marks=[["done", "saved", "task", ["db.backup"]]], only_after=[["saved", 0, [RUN]]])
    by_warning = policy(marks=[["call", "tested", "session", ["web.*"]]], only_after=[["tested", 0, [RUN]]])
    early = mint(ANYTHING | rows(only_after=[["tested", 0, [RUN]]], marks=[TESTED], opened=OPENED - 1))
    set_it = asking("orders.get", mark="tested")
    hour = policy(marks=[TESTED], only_after=[["tested", 1, [RUN]]])
    other = policy(marks=[["from", "tested", "task", ["ci"]]], only_after=[["tested", 0, [RUN]]])
    ten, later = policy(marks=[TESTED], only_after=[["tested", 10, [RUN]]]), asking(READ, at=AT + 10)
    rerun = policy(marks=[TESTED], only_after=[["tested", 10, [RUN, READ]]])

    def two(first: int, second: int) -> Token:
        return policy(marks=[TESTED], only_after=[["tested", first, [RUN]], ["tested", second, [RUN]]])

    def ran(expect: str, token: Token, why: str, after_ms: int, *calls: Any) -> dict[str, Any]:
        return vector("21.4", expect, token, why, costs={}, calls=[*calls], request=asking(RUN, at=AT + after_ms))

    return {
        "mark-missing": marked("mark_missing", token, "nothing was tested", tool=RUN),
        "mark-proof": marked("grant", token, "the service proved it", set_it, tool=RUN),
        "mark-proof-within": marked("grant", hour, "in the same millisecond", set_it, tool=RUN),
        "mark-proof-over": ran("mark_missing", ten, "by the verifier's clock", 10, set_it),
        "mark-proof-last-ms": ran("grant", ten, "the last of its ten ms", 9, set_it),
        "mark-proof-over-at-ledger": ran("mark_missing", rerun, "by the ledger's clock", 0, set_it, later),
        "mark-proof-again": ran("grant", ten, "the last one counts", 15, set_it, set_it | {"at": AT + 10}),
        "mark-proof-least-within": ran("mark_missing", two(0, 5), "each row of a proof counts", 5, set_it),
        "mark-proof-least-within-first": ran("mark_missing", two(5, 0), "in any order", 5, set_it),
        "mark-proof-both-within": ran("grant", two(5, 0), "both rows hold", 4, set_it),
        "mark-proof-of-another-service": marked(
            "mark_missing", other, "no row lets this service prove it", set_it, tool=RUN, spec="21.3"
        ),
        "mark-from-names-no-tool": vector(
            "21.2", "grant", token, "its last item is a service", calls=[], request=asking("orders")
        ),
        "mark-proof-not-by-warning": marked(
            "mark_missing", by_warning, "a warning of the same name proves nothing", asking(READ), tool=RUN, spec="21.1"
        ),
        "mark-done-allowed": marked("mark_missing", saved, "allowed is not done", asking("db.backup"), tool=RUN),
        "mark-done": marked("grant", saved, "its effect is done", asking("db.backup", effect="done"), tool=RUN),
        "mark-failed": marked(
            "mark_missing", saved, "its effect failed", asking("db.backup", effect="failed"), tool=RUN
        ),
        "mark-proof-lost": marked("mark_missing", early, "the ledger lost it", set_it, tool=RUN, spec="21.5"),
    }


def values() -> Vectors:
    """SPEC 21.4: `distinct`."""
    token = policy(distinct=[[[SEND], ["to", "cc"], 2, "task"]])

    def to(*values: Any) -> dict[str, Any]:
        return asking(SEND, {"to": [*values]})

    def sent(expect: str, why: str, args: dict[str, Any], *calls: Any, of: Token = token) -> dict[str, Any]:
        return marked(expect, of, why, *calls, tool=SEND, args=args)

    early = mint(ANYTHING | rows(distinct=[[[SEND], ["to"], 2, "task"]], opened=OPENED - 1))
    by_task, there = in_two_tasks(distinct=[[[SEND], ["to"], 2, "task"]])
    by_session, there_by_session = in_two_tasks(distinct=[[[SEND], ["to"], 2, "session"]])
    both, there_by_both = in_two_tasks(distinct=[[[SEND], ["to"], 1, "task"], [[SEND], ["to"], 2, "session"]])
    own = rows(distinct=[[[SEND], ["to"], 1, "task"]])
    link, beside = (mint(ANYTHING, {"hop": hop, "to": "acme/worker"} | own) for hop in (HOP, HOP2))
    apart = policy(distinct=[[[SEND], ["to"], 1, "task"], [[SEND], ["cc"], 1, "task"]])
    tools = policy(distinct=[[[SEND], ["to"], 1, "task"], [["mail.draft"], ["to"], 1, "task"]])
    least = mint(ANYTHING | rows(distinct=[[[SEND], ["to"], 2, "task"]]), rows(distinct=[[[SEND], ["to"], 1, "task"]]))
    return {
        "distinct-two": sent("grant", "two values", {"to": ["a", "b"]}),
        "distinct-three": sent("argument_not_allowed", "three values at once", {"to": ["a", "b"], "cc": "c"}),
        "distinct-third": sent("argument_not_allowed", "a third value", {"to": "c"}, to("a"), to("b")),
        "distinct-again": sent("grant", "a value of before", {"cc": "a"}, to("a"), to("b")),
        "distinct-refused-counts-none": sent("grant", "what was refused", {"to": "c"}, to("a"), to("b", "d")),
        "distinct-type": sent("argument_not_allowed", "5 is not its text", {"to": 5}, to("5", "6")),
        "distinct-form": sent("grant", "5.0 is 5", {"to": 5.0}, to(5, 6)),
        "distinct-case": sent("argument_not_allowed", "compared to the byte", {"to": "A"}, to("a", "b")),
        "distinct-missing": sent("argument_not_allowed", "no value to count", {"subject": "x"}),
        "distinct-null": sent("argument_not_allowed", "null is no value", {"to": None}),
        "distinct-null-beside": sent("grant", "another one has a value", {"to": "a", "cc": None}),
        "distinct-object": sent("argument_not_allowed", "an object", {"to": {"name": "a"}}),
        "distinct-nested": sent("argument_not_allowed", "a list in a list", {"to": [["a"]]}),
        "distinct-null-inside": sent("argument_not_allowed", "null in a list", {"to": [None]}),
        "distinct-empty": sent("grant", "an empty list has no value", {"to": []}, to("a", "b")),
        "distinct-least": sent("argument_not_allowed", "the holder's own row", {"to": ["a", "b"]}, of=least),
        "distinct-unseen": vector(
            "8.5",
            "request_unseen",
            token,
            "a body that is not seen",
            costs={},
            calls=[],
            request=asking(SEND, {"to": "a"}, http={"method": "POST", "target": "/send", "body": None}),
        ),
        "distinct-other-task": sent("grant", "of another task", {"to": "c"}, to("a", "b") | there, of=by_task),
        "distinct-session": sent(
            "argument_not_allowed", "in another task", {"to": "c"}, to("a", "b") | there_by_session, of=by_session
        ),
        "distinct-session-and-task": sent("grant", "each has its own", {"to": "c"}, to("a") | there_by_both, of=both),
        "distinct-link-beside": sent(
            "grant", "another link's", {"to": "c"}, to("a") | {"token": beside.text()}, of=link
        ),
        "distinct-other-arguments": sent(
            "argument_not_allowed",
            "another row's value is a new one",
            {"to": "b", "cc": "a"},
            asking(SEND, {"to": "a", "cc": "b"}),
            of=apart,
        ),
        "distinct-other-tools": sent(
            "grant", "another row's", {"to": "a"}, asking("mail.draft", {"to": "b"}), of=tools
        ),
        "distinct-lost": sent("argument_not_allowed", "the ledger lost its values", {"to": "a"}, of=early),
    }


def links() -> Vectors:
    """SPEC 21.3: rows of holders."""
    base = mint(ANYTHING | rows(after=[NO_PAY]))
    set_here = rows(marks=[["call", "untrusted", "session", ["web.*"]]])
    refuse = rows(after=[NO_PAY])
    worker = mint(ANYTHING, TO | set_here | refuse)
    below = worker.with_caveats(TO2)
    other = mint(ANYTHING, {"hop": HOP2, "to": "acme/worker"} | set_here | refuse)
    above = base.with_caveats(TO | set_here)
    plain = mint(ANYTHING, set_here | refuse)
    read, service = asking(READ), asking("orders.get", mark="untrusted")
    first = mint(ANYTHING, TO | refuse)
    second = first.with_caveats(TO2 | refuse)
    beside = mint(ANYTHING, {"hop": HOP2, "to": "acme/worker"} | refuse)
    by_task, in_other_task = in_two_tasks(marks=[["call", "untrusted", "task", ["web.*"]]], after=[NO_PAY])
    policy_set = mint(ANYTHING | rows(marks=[UNTRUSTED]), TO | refuse)
    return {
        "mark-link": marked("after_mark", worker, "its own mark", read, spec="21.3"),
        "mark-link-below": marked("after_mark", below, "of a link above", read | {"token": worker.text()}, spec="21.3"),
        "mark-link-above": marked(
            "after_mark", worker, "one below has the row too", read | {"token": below.text()}, spec="21.3"
        ),
        "mark-link-beside": marked("grant", worker, "of another link", read | {"token": other.text()}, spec="21.3"),
        "mark-link-not-for-policy": marked("grant", above, "no row above sees it", read, spec="21.3"),
        "mark-link-seen-below": marked(
            "after_mark", mint(ANYTHING, TO | set_here, TO2 | refuse), "a later row sees it", read, spec="21.3"
        ),
        "mark-link-service-first": marked(
            "after_mark", first, "the first row of two has it", service | {"token": second.text()}, spec="21.3"
        ),
        "mark-link-service-beside": marked(
            "grant", first, "of another link", service | {"token": beside.text()}, spec="21.3"
        ),
        "mark-service-of-task": marked(
            "grant", by_task, "the policy's row has it of the task", service | in_other_task, spec="21.3"
        ),
        "mark-link-of-token": marked("after_mark", plain, "before a delegation it is of the token", read, spec="21.3"),
        "mark-policy-for-link": marked("after_mark", policy_set, "a mark of the session binds all", read, spec="21.3"),
        "mark-other-task": marked(
            "after_mark",
            policy(after=[NO_PAY]),
            "of the session, by another task",
            read | {"token": mint(ANYTHING | rows(marks=[UNTRUSTED]), task="t-other").text()},
            spec="21.3",
        ),
        "mark-task-other-task": marked(
            "grant",
            policy(after=[NO_PAY]),
            "of another task",
            read
            | {"token": mint(ANYTHING | rows(marks=[["call", "untrusted", "task", ["web.*"]]]), task="t-other").text()},
            spec="21.3",
        ),
    }


def approvals() -> Vectors:
    """SPEC 21.8: third-party caveats with `when`."""

    def after(*when: list[str], of: dict[str, Any] | None = None) -> bytes:
        return canonical({"id": "k-1:t-1", "opened": OPENED, "tools": [PAY], "when": [*when]} | (of or {}))

    def approved(token: Token, *shown: Any, at: bytes) -> str:
        members: list[dict[str, Any]] = [{"shown": each} for each in shown] or [{"exp": AT + 60_000}]
        return joined(token, bound(discharge(*members, third_party=at), token))

    def case(expect: str, token: Token | str, why: str, *calls: Any, args: Any = None) -> dict[str, Any]:
        return marked(expect, token, why, *calls, args=args, spec="21.8")  # type: ignore[arg-type]  # as it is presented

    def wrong(why: str, expect: str = "unknown_caveat", **members: Any) -> dict[str, Any]:
        given = {name: value for name, value in ({"id": "k"} | members).items() if value is not None}
        return case(expect, requiring(mint(), canonical(given)), why)

    sets = ANYTHING | rows(marks=[UNTRUSTED, ["call", "private", "task", ["crm.read"]]])
    read, crm, time = asking(READ), asking("crm.read"), ["untrusted", AT]
    one, both = after(["untrusted"]), after(["untrusted", "private"])
    either = after(["untrusted"], ["private"])
    token, two, any_of = (requiring(mint(sets), caveat) for caveat in (one, both, either))
    narrowed = requiring(mint(sets, {"shown": []}), one)
    alone = requiring(mint(), one)
    early = requiring(mint(sets), after(["untrusted"], of={"opened": OPENED - 1}))
    earlier = after(["untrusted"], of={"opened": OPENED - 1})
    refusing = requiring(mint(sets | rows(after=[NO_PAY])), one)
    counting = requiring(mint(sets | rows(distinct=[[[PAY], ["to"], 1, "task"]])), one)
    worker = requiring(mint(ANYTHING, TO | rows(marks=[UNTRUSTED])), one)
    other = requiring(mint(ANYTHING, {"hop": HOP2, "to": "acme/worker"} | rows(marks=[UNTRUSTED])), one)
    own = after(["untrusted"], of={"id": "own"})
    second = requiring(token, own)
    empty, shown = discharge(third_party=own), discharge({"shown": [time]}, third_party=one)
    of_another = joined(second, bound(empty, second), bound(shown, second))
    inner = requiring(discharge(third_party=one), after(["private"]))
    many = requiring(mint(sets), after(*[[f"m{number}"] for number in range(30)]))
    return {
        "approve-none": case("grant", token, "nothing has happened"),
        "approve-after": case("missing_discharge", token, "a page was read", read),
        "approve-other-tool": marked("grant", token, "binds another tool", read, tool="orders.get", spec="21.8"),
        "approve-shown": case("grant", approved(token, [time], at=one), "the approver was shown it", read),
        "approve-unneeded": case("grant", approved(token, [], at=one), "no mark is set"),
        "approve-shown-nothing": case("missing_discharge", approved(token, at=one), "a discharge of no mark", read),
        "approve-shown-earlier": case(
            "missing_discharge", approved(token, [["untrusted", AT - 1]], at=one), "another setting of it", read
        ),
        "approve-shown-later": case(
            "missing_discharge", approved(token, [["untrusted", AT + 1]], at=one), "nor a later one", read
        ),
        "approve-shown-to-another": case(
            "missing_discharge", of_another, "a discharge without caveats, before one that was shown it", read
        ),
        "approve-shown-another": case(
            "missing_discharge", approved(token, [["private", AT]], at=one), "another mark", read
        ),
        "approve-shown-narrowed": case(
            "missing_discharge", approved(token, [time], [], at=one), "each caveat of the discharge counts", read
        ),
        "approve-shown-narrowed-by-token": case(
            "missing_discharge", approved(narrowed, [time], at=one), "and each of the token", read
        ),
        "approve-both-one-set": case("grant", two, "one of two", read),
        "approve-both-one-shown": case("missing_discharge", approved(two, [time], at=both), "both are set", read, crm),
        "approve-both-shown": case("grant", approved(two, [time, ["private", AT + 1]], at=both), "both", read, crm),
        "approve-either": case("missing_discharge", any_of, "the second list", crm),
        "approve-either-shown": case("grant", approved(any_of, [["private", AT]], at=either), "of it", crm),
        "approve-either-one-shown": case(
            "missing_discharge", approved(any_of, [["private", AT]], at=either), "of both lists", crm, read
        ),
        "approve-refused-before": case("after_mark", approved(refusing, [time], at=one), "a row refuses", read),
        "approve-asked-last": case(
            "argument_not_allowed", counting, "another row refuses", read, args={"to": ["a", "b"]}
        ),
        "approve-lost": case("after_mark", early, "the ledger may have lost marks"),
        "approve-lost-shown": case("after_mark", approved(early, [time], at=earlier), "nor an approval", read),
        "approve-no-ledger": vector("21.4", "mark_unsupported", alone, "no ledger", calls=[], request=asking(PAY)),
        "approve-link": case("missing_discharge", worker, "a holder's caveat sees the marks of its link", read),
        "approve-link-beside": case("grant", worker, "of another link", read | {"token": other.text()}),
        "approve-service": case(
            "missing_discharge",
            alone,
            "before a delegation it names a mark of the session for services",
            asking("orders.get", mark="untrusted") | {"token": requiring(mint(task="t-other"), one).text()},
        ),
        "approve-nested": case(
            "malformed",
            joined(token, bound(inner, token)),
            "a discharge has no `when`",
        ),
        "approve-30-lists": case("grant", many, "30 lists and two rows of the policy"),
        "approve-31-lists": case("malformed", requiring(many, one), "and one more"),
        "approve-no-opened": wrong("no time of opening", when=[["untrusted"]]),
        "approve-opened-alone": wrong("no marks", opened=OPENED),
        "approve-empty": wrong("no list", opened=OPENED, when=[]),
        "approve-no-mark": wrong("a list without a mark", opened=OPENED, when=[[]]),
        "approve-name": wrong("a mark with a space", opened=OPENED, when=[["un trusted"]]),
    }
