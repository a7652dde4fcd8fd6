# SPDX-License-Identifier: Apache-2.0
"""An unmodified gh under `arx run`: it speaks plain HTTP to the front's socket, and prints each refusal."""

import shutil
from pathlib import Path

import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_verifier import Rule
from tests.gateway.gateway_realm import AUDIENCE
from tests.gateway.served_door import Recorder
from tests.run.world import run_world

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.spec("8.4")]


def test_gh_reads_a_pull_request_and_prints_what_is_refused(
    tmp_path: Path, valkey: EmbeddedValkey, realm_name: str
) -> None:
    """
    A read passes; a merge, another repository and GraphQL are refused by texts that gh prints.
    """
    assert shutil.which("gh"), "install gh, as .ci/run does"
    service = Recorder()
    with run_world(tmp_path, valkey, realm_name, service, "github", "api.github.com") as world:
        world.start(Rule(tool=f"{AUDIENCE}.pulls.get", args={"repo": "acme/app"}, open=True))
        done = world.run("gh", "api", "repos/acme/app/pulls/7")
        assert done.returncode == 0, done.stderr
        merge = world.run("gh", "api", "-X", "PUT", "repos/acme/app/pulls/7/merge")
        assert 'gh: refused by arx: tool not allowed: the tool must be orders.pulls.get, got "orders.' in merge.stderr
        other = world.run("gh", "api", "repos/acme/other/pulls/7")
        assert 'gh: refused by arx: argument not allowed: repo must be "acme/app"' in other.stderr
        graph = world.run("gh", "pr", "merge", "7", "-R", "acme/app", "--merge")
        assert "refused by arx: GraphQL names no repository" in graph.stderr
        assert [each.returncode for each in (merge, other, graph)] == [1, 1, 1]
    assert [(scope["method"], scope["path"]) for scope, _ in service.arrived] == [("GET", "/repos/acme/app/pulls/7")]
