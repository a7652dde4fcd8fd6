# SPDX-License-Identifier: Apache-2.0
"""Write the calls of AgentDojo's suites in the form of ``arx policy draft --calls``; runs where agentdojo is installed.

``python -m venv build/agentdojo && build/agentdojo/bin/pip install agentdojo==0.1.35``, then
``build/agentdojo/bin/python -P tests/mint/agentdojo_calls.py vendor/agentdojo``.
"""

import json
import sys
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")

from agentdojo.task_suite.load_suites import get_suites  # noqa: E402 - it warns while it is imported

VERSION = "v1.2.2"


def main(folder: Path) -> None:
    """Write the calls of the user tasks to ``benign.jsonl``, those of the injection tasks to ``injected.jsonl``."""
    for name, kind in (("benign", "user_tasks"), ("injected", "injection_tasks")):
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for suite_name, suite in get_suites(VERSION).items():
                environment = suite.load_and_inject_default_environment({})
                for task_name, task in getattr(suite, kind).items():
                    for call in task.ground_truth(environment.model_copy(deep=True)):
                        tool = f"{suite_name}.{call.function}"
                        line = {
                            "agent": f"dojo/{suite_name}",
                            "session": f"{suite_name}/{task_name}",
                            "tool": tool,
                            "args": call.args,
                        }
                        file.write(json.dumps(line, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
