# SPDX-License-Identifier: Apache-2.0
"""Simplifications that each break the bound: what they replace in the real code, and by what."""

from tests.simulation.code import COMPARED, GUARDED, Patches

LEASE = "        lease = Lease(sent + lease_ms * MS, sent_wall + lease_ms * MS, sent)\n"
CLOCKS = "self._boot() >= lease.boot or self._wall() >= lease.wall"

MUTATIONS: dict[str, Patches] = {
    # The lease runs from when the answer arrived, not from before the question left.
    "lease from receipt": {
        "follower_core": (
            (LEASE, "        lease = Lease(self._boot() + lease_ms * MS, self._wall() + lease_ms * MS, sent)\n"),
        ),
    },
    # What was pushed counts as a sign of life.
    "beat lease": {
        "follower_core": (
            (
                "            self._due = min(self._due, self._boot() + self._patience)\n",
                "            self._due = min(self._due, self._boot() + self._patience)\n"
                "            if state.lease is not None:\n"
                "                length = state.lease.boot - state.lease.sent\n"
                "                state.lease = Lease(self._boot() + length, self._wall() + length, state.lease.sent)\n",
            ),
        ),
    },
    # A reader looks at the clock first.
    "clock before kills": {
        "epoch": (
            (
                "        if (ended := self._ended(state, born, targets)) is not None:\n",
                "        boot, wall = self._boot(), self._wall()\n"
                "        if (ended := self._ended(state, born, targets)) is not None:\n",
            ),
            (CLOCKS, "boot >= lease.boot or wall >= lease.wall"),
        ),
    },
    # A reader takes the lease after the kills: a renewal in between vouches for an old look.
    "deadline after kills": {
        "epoch": (
            (
                "        if lease.sent < sent_after:\n",
                "        lease = state.lease or lease\n        if lease.sent < sent_after:\n",
            ),
        ),
    },
    # The writer grants the lease before it applies the entries.
    "deadline published before entries": {
        "follower_core": (
            (
                "        for entry in answer.entries:\n",
                "        length = answer.lease_ms * MS\n"
                "        self._state.lease = Lease(sent + length, sent_wall + length, sent)\n"
                "        for entry in answer.entries:\n",
            ),
        ),
    },
    # A push moves the sequence on although entries before it are missing.
    "applied moved over a gap": {
        "epoch": (("        if in_order:\n            state.applied = seq\n", "        state.applied = seq\n"),),
    },
    # An answer that was cut short earns a lease.
    "lease though behind": {
        "epoch": (
            (
                " or incarnation != state.incarnation or seq != state.applied:\n",
                " or incarnation != state.incarnation:\n",
            ),
        ),
        "follower_core": (
            (
                "            self._due = 0  # the answer was cut short: no lease before the rest arrives\n"
                "            return\n",
                "            self._due = 0\n",
            ),
        ),
    },
    # Sequences of different histories are compared.
    "no incarnation": {
        "epoch": (
            (
                "        if incarnation != state.incarnation and incarnation is not None:\n",
                "        if incarnation == '':\n",
            ),
        ),
    },
    # The mint looks at who asks, and only then where the epoch stands.
    "born read after the check": {
        "authenticate": (
            ("    born = mint.kills.born()\n    used = used_id(", "    used = used_id("),
            (
                'AuthenticatedCaller("agent", grant.agent, row, born, ',
                'AuthenticatedCaller("agent", grant.agent, row, mint.kills.born(), ',
            ),
        ),
    },
    # A number stands for all that led to it, also after the store has given it twice.
    "chain not compared": {
        "follower_core": (
            (" and self._place != (answer.incarnation, answer.seq, answer.chain):\n", " and not answer.chain:\n"),
        ),
        "functions.lua": ((COMPARED, "  elseif known == '' then\n"),),
    },
    # A relay does not say how old its knowledge is.
    "age not sent": {
        "hub": (("        age = max(0, came - granted.sent)\n", "        age = 0\n"),),
    },
    # A relay confirms what it has applied itself.
    "relay confirms for itself": {
        "hub": (("                applied = min(applied, member.applied(self.incarnation))\n", ""),),
    },
    # A silent follower behind a relay is not waited for.
    "silent ones not named": {
        "hub": (
            ("                late.append(Late(member.name, member.heard_ms, applies, member.crowd.verifiers))\n", ""),
        ),
    },
    # Another server answers at the store's address, without the last kills, and no mint has looked at it.
    "unattested server answers": {
        "functions.lua": ((GUARDED, "  if false then\n    return UNATTESTED\n"),),
    },
    # The probe claims not to write, so that a replica answers it.
    "probe answered by a replica": {
        "functions.lua": (("local flags = {'allow-oom'}\n", "local flags = {'allow-oom', 'no-writes'}\n"),),
    },
}
