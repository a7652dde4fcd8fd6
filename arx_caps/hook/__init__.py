# SPDX-License-Identifier: Apache-2.0
"""Hooks of coding agents: what a call of a built-in tool means, and who decides on it.

``claude_code`` maps the calls of Claude Code, ``judges`` asks for the decision, ``decider`` makes it.
"""
