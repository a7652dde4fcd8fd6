# SPDX-License-Identifier: Apache-2.0
"""The constraints of arguments and the rules of tools, compiled and tested.  SPEC 7."""

from typing import TYPE_CHECKING

from arx_verifier._door import open_door

if TYPE_CHECKING:
    from arx_verifier.constraints.constraint import (
        Constraint,
        ConstraintLike,
        FlatConstraint,
        Written,
        compile_constraint,
        kinds_of,
        read_constraint,
        said,
    )
    from arx_verifier.constraints.rule import (
        MAX_TOLD,
        CompiledRule,
        Rule,
        WireRule,
        compile_rule,
        compile_wire,
        could_permit,
        explain,
        explain_first,
        explain_last,
        merge,
        permits,
        permits_with_any,
        read_rule,
        wrong_in,
    )
    from arx_verifier.constraints.scalars import NUMBERS, TEXTS, is_decimal, is_integer
    from arx_verifier.constraints.text import is_one_line
else:
    __getattr__, __dir__ = open_door(
        __name__,
        {
            "constraint": (
                "Constraint ConstraintLike FlatConstraint Written compile_constraint kinds_of read_constraint said"
            ),
            "rule": (
                "CompiledRule MAX_TOLD Rule WireRule compile_rule compile_wire explain explain_last merge "
                "permits permits_with_any read_rule explain_first wrong_in could_permit"
            ),
            "scalars": "NUMBERS TEXTS is_decimal is_integer",
            "text": "is_one_line",
        },
    )

__all__ = [
    "MAX_TOLD",
    "NUMBERS",
    "TEXTS",
    "CompiledRule",
    "Constraint",
    "ConstraintLike",
    "FlatConstraint",
    "Rule",
    "WireRule",
    "Written",
    "compile_constraint",
    "compile_rule",
    "compile_wire",
    "could_permit",
    "explain",
    "explain_first",
    "explain_last",
    "is_decimal",
    "is_integer",
    "is_one_line",
    "kinds_of",
    "merge",
    "permits",
    "permits_with_any",
    "read_constraint",
    "read_rule",
    "said",
    "wrong_in",
]
