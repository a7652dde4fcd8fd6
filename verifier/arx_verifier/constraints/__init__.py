# SPDX-License-Identifier: Apache-2.0
"""The constraints of arguments and the rules of tools, compiled and tested.  SPEC 7."""

from typing import TYPE_CHECKING

from arx_verifier._door import open_door

if TYPE_CHECKING:
    from arx_verifier.constraints.constraint import Constraint as Constraint
    from arx_verifier.constraints.constraint import ConstraintLike as ConstraintLike
    from arx_verifier.constraints.constraint import FlatConstraint as FlatConstraint
    from arx_verifier.constraints.constraint import Written as Written
    from arx_verifier.constraints.constraint import compile_constraint as compile_constraint
    from arx_verifier.constraints.constraint import kinds_of as kinds_of
    from arx_verifier.constraints.constraint import read_constraint as read_constraint
    from arx_verifier.constraints.constraint import said as said
    from arx_verifier.constraints.rule import MAX_TOLD as MAX_TOLD
    from arx_verifier.constraints.rule import CompiledRule as CompiledRule
    from arx_verifier.constraints.rule import Rule as Rule
    from arx_verifier.constraints.rule import WireRule as WireRule
    from arx_verifier.constraints.rule import compile_rule as compile_rule
    from arx_verifier.constraints.rule import compile_wire as compile_wire
    from arx_verifier.constraints.rule import could_permit as could_permit
    from arx_verifier.constraints.rule import explain as explain
    from arx_verifier.constraints.rule import explain_first as explain_first
    from arx_verifier.constraints.rule import explain_last as explain_last
    from arx_verifier.constraints.rule import merge as merge
    from arx_verifier.constraints.rule import permits as permits
    from arx_verifier.constraints.rule import permits_with_any as permits_with_any
    from arx_verifier.constraints.rule import read_rule as read_rule
    from arx_verifier.constraints.rule import wrong_in as wrong_in
    from arx_verifier.constraints.scalars import NUMBERS as NUMBERS
    from arx_verifier.constraints.scalars import TEXTS as TEXTS
    from arx_verifier.constraints.scalars import is_decimal as is_decimal
    from arx_verifier.constraints.scalars import is_integer as is_integer
    from arx_verifier.constraints.text import is_one_line as is_one_line
else:
    open_door(__name__)
