# SPDX-License-Identifier: Apache-2.0
"""The frameworks that both products have an adapter for."""

from typing import Final, NamedTuple


class Both(NamedTuple):
    """A framework, and what is installed to compare in it.

    Attributes:
        title: The framework's name.
        adapter: The module of tenuo that is compared, by its path in the package.
        tenuo: The extras of tenuo.
        verifier: The extra of arx-verifier.
        agent: The extra of arx-caps.
        more: Further packages.
        apart: Whether tenuo's is not for this framework, but a server and a client of its own.
    """

    title: str
    adapter: str
    tenuo: tuple[str, ...]
    verifier: str | None = None
    agent: str | None = None
    more: tuple[str, ...] = ()
    apart: bool = False


# By the name of ARx's adapter, which is also that of the module here.
BOTH: Final = {
    "langchain": Both("LangChain", "langgraph.py", ("langchain", "langgraph"), agent="langchain"),
    "openai_agents": Both("OpenAI Agents SDK", "openai.py", ("openai",), agent="openai-agents"),
    "google_adk": Both("Google ADK", "google_adk/guard.py", ("google_adk",), agent="google-adk"),
    "mcp": Both("MCP SDK 2", "mcp/mcpserver_middleware.py", ("mcp",), "mcp", "mcp"),
    "fastmcp": Both("FastMCP 4", "mcp/fastmcp_middleware.py", ("fastmcp",), "fastmcp", "fastmcp"),
    "a2a": Both("A2A", "a2a/server.py", ("a2a",), agent="a2a", apart=True),
    "fastapi": Both("FastAPI", "fastapi.py", ("fastapi",), "fastapi", more=("httpx", "uvicorn")),
}
# Extras of tenuo for frameworks that ARx has no adapter for.
TENUO_ALONE: Final = ("autogen", "crewai", "temporal")
