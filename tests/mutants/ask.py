# SPDX-License-Identifier: Apache-2.0
"""Ask the package in a folder the vectors, and print the first that it answers wrongly.

Exit code 0: it answers all of them rightly; 1: not; another one: it could not be imported, or it is another package.
"""

import resource
import sys
from pathlib import Path

_MEMORY_BYTES = 4 << 30  # a mutant may have lost a bound


def main() -> int:
    """Ask; return the exit code."""
    import arx_verifier

    if Path(arx_verifier.__file__).parent != Path(sys.argv[1]):
        raise SystemExit(f"expected the package in {sys.argv[1]}, got {arx_verifier.__file__}")
    from tests.vectors.families import judge, load
    from tests.vectors.subject import ANSWERS

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    for vector in load():
        try:
            why = judge(vector, ANSWERS[vector.family](vector.input))
        except Exception as error:
            why = type(error).__name__
        if why is not None:
            print(vector.path)
            return 1
    return 0


if __name__ == "__main__":
    try:
        code = main()
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        code = 3
    sys.exit(code)
