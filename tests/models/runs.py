# SPDX-License-Identifier: Apache-2.0
"""Which models are checked, with which parts and constants, and which property each mistake breaks."""

from typing import Final, NamedTuple

LATE: Final = "accepted_after_the_lease"
CONFIRMED: Final = "accepted_after_confirmed"
OVER: Final = "spent<="
UNCOUNTED: Final = "((c+r)+l)<="
SENT: Final = "sent_after_a_read"
DEPLOYED: Final = "deployed_without_a_test"
PAID: Final = "paid_unseen"


class Run(NamedTuple):
    """One search.

    Attributes:
        model: The file in ``docs/models``, without its ending.
        name: What is looked at.
        macros: Parts (with an empty value) and constants of the model; a mistake too.
        breaks: The assertion that must fail; None if all hold.
        large: Whether it is left out of the short slice.
    """

    model: str
    name: str
    macros: dict[str, str]
    breaks: str | None = None
    large: bool = False

    @property
    def mutation(self) -> str | None:
        """The macro of its mistake, or None."""
        return next((name for name in self.macros if name.startswith("MUTATION_")), None)

    @property
    def text(self) -> str:
        """Its parts and constants, for the page."""
        shown = [f"`{n}={v}`" if v else f"`{n}`" for n, v in self.macros.items() if not n.startswith(("MUT", "REACH"))]
        return ", ".join(shown)


def switch(mistake: str) -> str:
    """Return the macro that breaks a model as the simulator's mistake of this name breaks the code."""
    return "MUTATION_" + mistake.upper().replace(" ", "_")


KILL: Final = {"LEASE": "2", "BUMPS": "2"}
HISTORY: Final = {"HISTORY": "", "LEASE": "1", "BUMPS": "2"}
MINT: Final = {"MINT": "", **KILL}
REPLICA: Final = {"REPLICA": "", **KILL}
MOVED: Final = {"MOVED": "", **KILL}
RELAY: Final = {"LEASE": "2", "RELAYS": "2"}
RELAY_MOVED: Final = {"MOVED": "", **RELAY}
HURRY: Final = {"HURRY": "", "LEASE": "2", "RELAYS": "1"}
DRAWS: Final = {"MAX": "2", "VERIFIERS": "2", "OPS": "2"}
RESERVE: Final = {"RESERVE": "", **DRAWS}
LEASED: Final = {"LEASED": "", **DRAWS}
ALONE: Final = {**DRAWS, "VERIFIERS": "1"}
PERIOD: Final = {"LEASED": "", "PERIOD": "", **ALONE}
RESERVE_PERIOD: Final = {"RESERVE": "", "PERIOD": "", **ALONE}
CRASH: Final = {"CRASH": "", **DRAWS}
CLOCK: Final = {"CLOCK_BACK": "", **CRASH}
CLOCK_PERIOD: Final = {"CLOCK_BACK": "", "PERIOD": "", **ALONE}
FAILOVER: Final = {"FAILOVER": "", **DRAWS}
EMPTY: Final = {"EMPTY": "", "CLOCK_BACK": "", **DRAWS}
BACK: Final = {"BACK": "", **DRAWS}
SEAL: Final = {"SEAL": "", **CRASH}
SHARD: Final = {"SHARD": "", **DRAWS}
MARKS: Final = {"VERIFIERS": "2"}
LOST_MARKS: Final = {"CRASH": "", "LIFT": "", **MARKS}
MOVED_MARKS: Final = {"FAILOVER": "", **MARKS}
APPROVALS: Final = {"APPROVE": "", "LIFT": "", **MARKS}
LOST_APPROVALS: Final = {"CRASH": "", **APPROVALS, "VERIFIERS": "1"}
CONFIRM: Final = {"CONFIRM": "", "LEASE": "1", "RELAYS": "1"}

# A mistake, by its name in the simulator: model, parts and constants, and the property that it breaks.
MISTAKES: Final = {
    "lease from receipt": ("kill", KILL, LATE),
    "beat lease": ("kill", KILL, LATE),
    "clock before kills": ("kill", KILL, LATE),
    "deadline after kills": ("kill", KILL, LATE),
    "deadline published before entries": ("kill", KILL, LATE),
    "applied moved over a gap": ("kill", KILL, LATE),
    "lease though behind": ("kill", KILL, LATE),
    "no incarnation": ("kill", HISTORY, LATE),
    "born read after the check": ("kill", MINT, LATE),
    "chain not compared": ("kill", HISTORY, LATE),
    "probe answered by a replica": ("kill", REPLICA, LATE),
    "unattested server answers": ("kill", MOVED, LATE),
    "age not sent": ("relay", RELAY, LATE),
    "relay confirms for itself": ("relay", CONFIRM, CONFIRMED),
    "silent ones not named": ("relay", CONFIRM, CONFIRMED),
}

# Mistakes of the ledger, by their names in `tests/verifier/test_ledger.py`.
LEDGER_MISTAKES: Final = {
    "a reservation takes nothing": ("budget", RESERVE, OVER),
    "a slice takes nothing": ("budget", LEASED, OVER),
    "a commit is repeated": ("budget", RESERVE, OVER),
    "more than was reserved is committed": ("budget", RESERVE, UNCOUNTED),
    "what goes back is not held against the period": ("budget", RESERVE_PERIOD, OVER),
    "the clock goes back": ("budget", CLOCK, OVER),
    "a period begins again": ("budget", CLOCK_PERIOD, OVER),
    "a lost pool is full": ("budget", CRASH, OVER),
    "a failover loses nothing": ("budget", CRASH, OVER),
    "a lost pool that was topped up has its max": ("budget", {"TOP_UP": "", **CRASH}, OVER),
    "a slice is a quarter of the pool": ("budget", LEASED, UNCOUNTED),
    "no margin without data": ("budget", EMPTY, OVER),
    "an older beginning is taken": ("budget", BACK, OVER),
    "equal beginnings are one": ("budget", BACK, OVER),
}

# Mistakes of the budget protocol beside the arithmetic of the ledger: in verifiers, and around the ledger.
BUDGET_MISTAKES: Final = {
    "let through without an answer": ("budget", DRAWS, OVER),
    "undone without an answer": ("budget", DRAWS, OVER),
    "slice used after its return": ("budget", LEASED, OVER),
    "leases of the silent returned": ("budget", LEASED, OVER),
    "forked with its slice": ("budget", LEASED, OVER),
    "slice counted from the answer": ("budget", PERIOD, OVER),
    "no margin after a failover": ("budget", FAILOVER, OVER),
    "a server that wakes gives at once": ("budget", {"TURNS": "1", **BACK}, OVER),
    "a note is used twice": ("budget", SEAL, OVER),
    "a note names no seal": ("budget", SEAL, OVER),
    "drawn after the seal": ("budget", SEAL, OVER),
    "answered before the replica has it": ("budget", SHARD, OVER),
    "a pool in two buckets": ("budget", SHARD, OVER),
}

# Mistakes of marks, in the ledger and in verifiers.
MARK_MISTAKES: Final = {
    "set after the call": ("marks", MARKS, SENT),
    "remembered by the verifier": ("marks", MARKS, SENT),
    "sent without an answer": ("marks", MARKS, SENT),
    "proven by the allow": ("marks", MARKS, DEPLOYED),
    "warnings end with a loss": ("marks", LOST_MARKS, SENT),
    "a mark ends a loss": ("marks", {"CRASH": "", **MARKS}, SENT),
    "a later task has lost nothing": ("marks", LOST_MARKS, SENT),
    "proofs count after a loss": ("marks", LOST_MARKS, DEPLOYED),
    "clean after a failover": ("marks", MOVED_MARKS, SENT),
    "warned beside an old server": ("marks", MOVED_MARKS, SENT),
    "an approval counts for each setting": ("marks", APPROVALS, PAID),
    "one setting shown is enough": ("marks", APPROVALS, PAID),
    "set again at the same time": ("marks", APPROVALS, PAID),
    "listed as of the approval": ("marks", APPROVALS, PAID),
    "approved before the ledger": ("marks", APPROVALS, PAID),
    "approved after a loss": ("marks", LOST_APPROVALS, PAID),
}

RUNS: Final = (
    Run("kill", "the view and the lease", {"LEASE": "3", "BUMPS": "3"}),
    Run("kill", "confirmed kills", {"CONFIRM": "", **KILL}),
    Run("kill", "histories, short leases", HISTORY),
    Run("kill", "histories", {**HISTORY, "LEASE": "2"}, large=True),
    Run("kill", "the mint", MINT),
    Run("kill", "a replica", REPLICA),
    Run("kill", "another server at the address", MOVED),
    Run("relay", "a relay that is restarted", RELAY),
    Run("relay", "another server at the store's address", RELAY_MOVED),
    Run("relay", "questions that wait", HURRY),
    Run("relay", "confirmed kills, short leases", CONFIRM),
    Run("relay", "confirmed kills and a restart", {**CONFIRM, "RELAYS": "2"}, large=True),
    Run("relay", "confirmed kills", {**CONFIRM, "LEASE": "2"}, large=True),
    Run("budget", "draws", {**DRAWS, "MAX": "3"}),
    Run("budget", "reservations", RESERVE),
    Run("budget", "slices", LEASED),
    Run("budget", "draws and a crash", {"CRASH": "", "TOP_UP": "", **DRAWS}),
    Run("budget", "reservations and a crash", {"RESERVE": "", "CRASH": "", "TOP_UP": "", **ALONE}),
    Run("budget", "slices and a crash", {"LEASED": "", "CRASH": "", "TOP_UP": "", **ALONE}),
    Run("budget", "reservations and a period", RESERVE_PERIOD),
    Run("budget", "slices and a period", PERIOD),
    Run("budget", "a crash and a clock that is set back", CLOCK),
    Run("budget", "a period and a clock that is set back", CLOCK_PERIOD),
    Run("budget", "a failover", {**FAILOVER, "MAX": "3"}),
    Run("budget", "a ledger without data whose clock is behind", EMPTY),
    Run("budget", "failover and back, the mint looks first", BACK),
    Run("budget", "failover and back, each verifier has seen it", {"ALL_SAW": "", **BACK}),
    Run("budget", "a clean end", SEAL),
    Run("budget", "reservations and a clean end", {"RESERVE": "", "SEAL": "", "CRASH": "", **ALONE}),
    Run("budget", "slices and a clean end", {"LEASED": "", "SEAL": "", "CRASH": "", **ALONE}),
    Run("budget", "a shard that fails over", SHARD),
    Run("budget", "reservations and a shard that fails over", {"RESERVE": "", "SHARD": "", **ALONE}),
    Run("budget", "slices and a shard that fails over", {"LEASED": "", "SHARD": "", **ALONE}),
    Run("budget", "a shard that fails over and starts again", {"CRASH": "", **SHARD}),
    Run("marks", "marks of a session", {"LIFT": "", **MARKS}),
    Run("marks", "marks and a crash", LOST_MARKS),
    Run("marks", "marks and a failover", MOVED_MARKS),
    Run("marks", "approvals", APPROVALS),
    Run("marks", "approvals and a crash", LOST_APPROVALS),
    Run("marks", "approvals and a failover", {"APPROVE": "", **MOVED_MARKS}),
    # That these states are reached shows that the runs above are not empty.
    Run("kill", "an acceptance in the last tick is reached", {**KILL, "REACH_LATE": ""}, "k_since"),
    Run("kill", "a confirmation is reached", {"CONFIRM": "", **KILL, "REACH_CONFIRMED": ""}, "!(confirmed)"),
    Run("kill", "the next history is reached", {**HISTORY, "REACH_NEXT_HISTORY": ""}, "t_inc==1"),
    Run("kill", "the history after a failover is reached", {**MOVED, "REACH_ATTESTED": ""}, "inc==1"),
    Run("kill", "a derived token is reached", {**MINT, "REACH_MINTED": ""}, "t_root==t_born"),
    Run("relay", "an acceptance in the last tick is reached", {**RELAY, "REACH_LATE": ""}, "since!="),
    Run("relay", "a confirmation is reached", {**CONFIRM, "REACH_CONFIRMED": ""}, "!(confirmed)"),
    Run("budget", "a pool that is spent whole is reached", {**DRAWS, "REACH_ALL_SPENT": ""}, "spent<("),
    Run("budget", "a pool that is spent whole by slices is reached", {**LEASED, "REACH_ALL_SPENT": ""}, "spent<("),
    Run("budget", "a draw after a clean end is reached", {**SEAL, "REACH_DRAWN_AFTER_AN_END": ""}, "!(reopened)"),
    Run(
        "budget",
        "a draw after a shard failed over is reached",
        {**SHARD, "REACH_DRAWN_AFTER_A_TAKE_OVER": ""},
        "!(taken",
    ),
    Run("marks", "a call after a lift is reached", {**LOST_MARKS, "REACH_SENT_AFTER_A_LIFT": ""}, "!(was_read)"),
    Run("marks", "a call that a proof permits is reached", {**MARKS, "REACH_DEPLOYED": ""}, "!(tested)"),
    Run("marks", "an approved call is reached", {**APPROVALS, "REACH_PAID_WITH_AN_APPROVAL": ""}, "!(true_set"),
    Run("relay", "unattested server answers", {**RELAY_MOVED, switch("unattested server answers"): ""}, LATE),
    *(
        Run(model, name, {**macros, switch(name): ""}, breaks)
        for name, (model, macros, breaks) in (MISTAKES | LEDGER_MISTAKES | BUDGET_MISTAKES | MARK_MISTAKES).items()
    ),
)
