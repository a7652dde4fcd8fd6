# SPDX-License-Identifier: Apache-2.0
"""How many connections of clients a gateway takes: each has room for a second one, to the upstream."""

import subprocess
import sys

import pytest

# A process of its own, as a hard limit is lowered for good.
LIMITED = """
import resource, sys
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, int(sys.argv[1]) if len(sys.argv) > 1 else hard))
from arx_caps.gateway.serve import gateway_protocol
print(gateway_protocol().places, *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(("most", "places"), [(2512, 1000), (300, 1)])
def test_a_gateway_takes_as_many_connections_as_it_has_files_for(most: int, places: int) -> None:
    """The limit is raised as far as the system allows; more connections close the longest waiting."""
    done = subprocess.run([sys.executable, "-c", LIMITED, str(most)], capture_output=True, text=True, check=True)
    assert list(map(int, done.stdout.split())) == [places, most, most]
