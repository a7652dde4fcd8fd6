# SPDX-License-Identifier: Apache-2.0
"""``arx kill``, ``arx freeze``, ``arx thaw``: the help of the commands that ``target_commands`` makes.  SPEC 10."""

from typing import Final

from arx_caps.cli.target_commands import FREEZE, KILL, THAW, target_command

_TARGETS: Final = """

    TARGET is KIND:ID, or realm.  A kind may precede several ids: `arx kill session s-abcdefghijklmnop`.

    \b
        agent:acme/support                        an agent, and every agent below it
        session:s-abcdefghijklmnop                a session, and its tasks
        task:t-abcdefghijklmnop                   a task; an approval is a-abcdefghijklmnop
        link:AAAAAAAAAAAAAAAAAAAAAA               a delegation, and those that follow it
        subject:0123456789abcdef0123456789abcdef  work on behalf of a person
        operator:ada                              an operator
        connection:c-abcdefghijklmnop             a person's account at an upstream
        key:k1.2                                  the tokens of a key
        policy:AAAAAAAAAAAAAAAAAAAAAA             the tokens that a policy granted
        realm                                     every token of the realm
        memory:agent:acme/support@AAAAAAAA        what a target wrote into memories: see `arx memory`

    Exit code 0: every verifier has confirmed; 3: the report says partial (verifiers that have not confirmed are
    fenced by their leases), unconfirmed or unknown; 1: the mint or the operator refused; 2: usage; 4: the mint did not
    authenticate the key; 5: nothing was done, as neither the mint nor the store answered.

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
