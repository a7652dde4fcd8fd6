# SPDX-License-Identifier: Apache-2.0
"""AgentDojo's suites with each tool guarded by marks: what an agent that obeys an injection can still send."""
