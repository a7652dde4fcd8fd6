# SPDX-License-Identifier: Apache-2.0
"""Run one target under atheris, in the environment of ``python -m tests.fuzz``."""

import argparse
import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-untyped]  # in the environment of its own alone

# Coverage guides the fuzzer: the parsers, and the standard library's that some of them call.
with atheris.instrument_imports(include=["arx_verifier", "arx_caps", "tomllib"]):
    from tests.fuzz import targets

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.one")
    parser.add_argument("name", choices=targets.NAMES)
    parser.add_argument("--seconds", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True, help="of the inputs; 0 for the time")
    parser.add_argument("--found", type=Path, required=True, help="folder for inputs that break the law")
    parser.add_argument("--kept", type=Path, required=True, help="folder for inputs that reach new code")
    asked = parser.parse_args()
    target = targets.load(asked.name)

from tests.fuzz import corpus  # it reads files, and need not be instrumented


def main() -> None:
    """Fuzz."""
    with tempfile.TemporaryDirectory() as seeds:
        for number, data in enumerate(corpus.inputs(asked.name)):
            (Path(seeds) / str(number)).write_bytes(data)
        limits = [f"-max_total_time={asked.seconds}", f"-seed={asked.seed}", f"-max_len={target.MAX_BYTES}"]
        limits += ["-timeout=10", "-rss_limit_mb=2048"]
        ends = [f"-artifact_prefix={asked.found}/", "-print_final_stats=1"]
        atheris.Setup([sys.argv[0], *limits, *ends, str(asked.kept), seeds], target.check)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
