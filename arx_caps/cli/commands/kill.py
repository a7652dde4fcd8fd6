# SPDX-License-Identifier: Apache-2.0
"""``arx kill``, ``freeze``, ``thaw``: end or refuse targets.  SPEC 10.

``cli.target_commands`` makes the commands; ``revocation.confirm`` waits for the verifiers.
"""

from typing import Final

from arx_caps.cli.target_commands import FREEZE, KILL, THAW, target_command

_TARGETS: Final = """

    A TARGET is KIND:ID, such as session:s-abcdefghijklmnop, or the word realm; one kind may stand before its ids:
    `arx kill session s-abcdefghijklmnop`.  Exits with 0 only when every verifier has confirmed, with 3 when that is
    not known.

    \b
        arx kill agent:acme/support/worker --reason "it went astray"
        arx freeze session s-abcdefghijklmnop --reason "what is it doing?"
"""
kill_command: Final = target_command(
    KILL,
    "End every token born before now in these targets, for ever.  An agent, an operator, a subject, a key, a policy and"
    " the realm are refused from then on as well, until they are thawed." + _TARGETS,
)
freeze_command: Final = target_command(FREEZE, "Refuse every token in these targets until they are thawed." + _TARGETS)
thaw_command: Final = target_command(
    THAW,
    "End the freeze of these targets, also the one that a kill of an agent, an operator, a subject, a key, a policy or"
    " the realm left.  What was killed stays revoked, and so does what tasks of before the kill delegate to a thawed"
    " agent: start new tasks." + _TARGETS,
)
