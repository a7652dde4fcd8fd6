# SPDX-License-Identifier: Apache-2.0
"""Every fenced block of a page is run or compared by a test, or states why none does."""

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.house.pages import PAGES, ROOT, blocks
from tests.house.sections import DOCUMENTS

# How many blocks of a page the tests of a file run or compare.  A new block is counted here, or is marked in its page:
# <!-- not run: the reason -->
RUN = {
    "docs/adapters/index.md": {"../agent/test_other_frameworks.py": 1},
    "docs/adapters/a2a.md": {"../adapters/test_a2a.py": 2},
    "docs/adapters/google-adk.md": {"../adapters/test_google_adk.py": 1},
    "docs/adapters/langchain.md": {"../adapters/test_langchain.py": 5},
    "docs/adapters/pydantic-ai.md": {"../adapters/test_pydantic_ai.py": 4},
    "docs/adapters/openai-agents.md": {"../adapters/test_openai_agents.py": 1},
    "docs/adapters/django.md": {"../adapters/test_django_server.py": 2},
    "docs/adapters/flask.md": {"../adapters/test_flask_server.py": 2, "../test_serving_wsgi.py": 1},
    "docs/adapters/grpc.md": {"../adapters/test_grpc.py": 2},
    "docs/adapters/asgi.md": {"test_service_page.py": 1},
    "README.md": {"test_examples.py": 6, "test_install.py": 1},
    "docs/adapters/fastapi.md": {"../adapters/test_fastapi_server.py": 2},
    "docs/adapters/starlette.md": {"../adapters/test_starlette_server.py": 2},
    "docs/adapters/mcp.md": {
        "../adapters/test_mcp.py": 4,
        "../adapters/test_mcp_v1.py": 2,
        "../adapters/test_fastmcp.py": 2,
        "test_service_page.py": 1,
        "test_mcp.py": 2,
    },
    "docs/adapters/http-clients.md": {"../adapters/http_clients.py": 6},
    "docs/adapters/mem0.md": {"../adapters/test_mem0.py": 1},
    "docs/api.md": {"test_api_page.py": 1},
    "docs/audit.md": {"test_examples.py": 5, "test_commands.py": 1},
    "docs/budgets.md": {"test_examples.py": 1},
    "docs/concepts.md": {"test_examples.py": 7},
    "docs/coding-agents.md": {"../hook/test_claude_code.py": 2, "../hook/test_decider.py": 1},
    "docs/connect.md": {"../connect/test_page.py": 2},
    "docs/first-day.md": {"test_first_day_page.py": 5},
    "docs/gateway.md": {"../gateway/test_page.py": 14},
    "docs/deciders.md": {"../gateway/test_page.py": 1, "../gateway/test_authzen.py": 3},
    "docs/identity.md": {"test_examples.py": 8, "test_commands.py": 1, "test_holder_page.py": 5},
    "docs/memory.md": {"../cli/test_memory_live.py": 2},
    "docs/oauth.md": {"../gateway/test_dpop.py": 1, "../gateway/test_oauth.py": 1, "test_oauth_page.py": 10},
    "docs/operations.md": {"test_operations.py": 2, "test_commands.py": 8, "gateways.py": 1},
    "docs/policy.md": {"test_policy_page.py": 17},
    "docs/production.md": {"afternoon.py": 38},
    "docs/readiness.md": {
        "test_readiness_page.py": 5,
        "../adapters/test_fastapi_server.py": 1,
        "../adapters/test_flask_server.py": 1,
        "../adapters/test_django_server.py": 1,
        "../adapters/test_mcp_server.py": 1,  # and test_fastmcp_server.py
    },
    "docs/run.md": {"../run/test_page.py": 2},
    "docs/service.md": {"test_service_page.py": 3, "test_commands.py": 5, "../verifier/test_service_limits.py": 1},
    "docs/spec/README.md": {"../verifier/test_vector_runner.py": 1},
    "docs/store.md": {"test_commands.py": 1},
    "docs/typescript.md": {"../typescript/test_page.py": 7},
    "docs/verify-a-release.md": {"../release/verify_page.py": 6},
    "docs/tutorial.md": {"test_examples.py": 10, "../test_demo.py": 1},
}
NOT_RUN = re.compile(r"<!-- not run: (\S.*\S) -->")


def of_page(page: Path) -> str:
    return str(page.relative_to(ROOT))


# The blocks of the specification draw bytes, which the vectors hold.
SPECIFICATION = {path for paths in DOCUMENTS.values() for path in paths}
GUIDES = [page for page in PAGES if page not in SPECIFICATION]


@pytest.mark.parametrize("page", GUIDES, ids=of_page)
def test_every_block_is_run_or_marked(page: Path) -> None:
    """A block without a mark is one that a test counts; the test names the page, or reads all pages."""
    found = Counter(NOT_RUN.match(block.before) is not None for block in blocks(page.read_text(encoding="utf-8")))
    run = RUN.get(of_page(page), {})
    assert found[False] == sum(run.values()), f"{of_page(page)}: count the new block in RUN, or mark it"
    for test in run:
        assert (ROOT / "tests" / "house" / test).is_file()


def test_a_mark_that_names_a_test_names_one_that_exists() -> None:
    """Each file and folder of tests in a mark exists."""
    for page in PAGES:
        for reason in NOT_RUN.findall(page.read_text(encoding="utf-8")):
            for path in re.findall(r"tests/[\w/.]*\w", reason):
                assert (ROOT / path).exists(), path
