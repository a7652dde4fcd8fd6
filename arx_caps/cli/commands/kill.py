# SPDX-License-Identifier: Apache-2.0
"""``arx kill``, ``arx freeze``, ``arx thaw``: the help of the commands that ``target_commands`` makes.  SPEC 10."""

from typing import Final

from arx_caps.cli.target_commands import FREEZE, KILL, THAW, target_command

_TARGETS: Final = """

    TARGET is KIND:ID, such as session:s-abcdefghijklmnop, or realm.  A kind may precede several ids: `arx kill
    session s-abcdefghijklmnop`.

    Exit code 0: every verifier has confirmed; 3: not known.

    \b
        arx kill agent:acme/support/worker --reason "refunds outside of its orders"
        arx freeze session s-abcdefghijklmnop --reason "under investigation"
"""
kill_command: Final = target_command(
    KILL,
    "Revoke every token of these targets that was issued before now, for ever.  A kill of an agent, an operator, a"
    " subject, a key, a policy or the realm also freezes it." + _TARGETS,
)
freeze_command: Final = target_command(FREEZE, "Refuse every token in these targets until they are thawed." + _TARGETS)
thaw_command: Final = target_command(
    THAW,
    "End the freeze of these targets, including the freeze that a kill leaves.  Killed tokens stay revoked, also those"
    " that tasks from before the kill delegate to a thawed agent: start new tasks." + _TARGETS,
)
