# SPDX-License-Identifier: Apache-2.0
"""Play the demo and say whether everything came as expected: exit 0, or 1 when one thing did not."""

import argparse
import json
import os
import signal
import sys
import time
from typing import Any, Final, NoReturn, TextIO

from arx_caps.demo.stage import StageError, stage
from arx_caps.demo.story import Scene, Story

GREEN: Final = "32"
RED: Final = "31"
DIM: Final = "2"


class Printer:
    """Writes scenes for people, as they happen."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._colour = out.isatty() and "NO_COLOR" not in os.environ
        self._count = 0

    def say(self, text: str = "", code: str = "") -> None:
        """Write a line."""
        self._out.write((f"\x1b[{code}m{text}\x1b[0m" if code and self._colour else text) + "\n")
        self._out.flush()

    def scene(self, scene: Scene) -> None:
        """Write a scene: what was tried, what came, and why."""
        self._count += 1
        mark, code = ("ok", GREEN) if scene.holds else ("NOT AS EXPECTED", RED)
        self.say(f"{self._count:3}. {scene.title}")
        self.say(f"     {scene.came}  [{mark}]", code)
        if not scene.holds:
            self.say(f"     expected: {scene.expected}", RED)
        for line in scene.why:
            self.say(f"     {line}", DIM)
        figures = scene.figures
        if "took_ms" in figures:
            self.say(f"     in {figures['took_ms']} ms, without asking anybody", DIM)
        for name, late in figures.get("last_accepted_after_ms", {}).items():
            when = f"{late:.1f} ms after the kill" if late >= 0 else f"{-late:.1f} ms before the kill"
            self.say(f"     {name}: last call accepted {when}", DIM)


def play(printer: Printer) -> dict[str, Any]:
    """Play everything; returns what ``--json`` prints."""
    began = time.monotonic()
    printer.say("ARx: one task's authority, end to end, with real processes on this machine")
    printer.say("starting Valkey, the mint, two tool services and two agents …", DIM)
    scenes = []
    with stage() as set_up:
        printer.say(f"ready in {time.monotonic() - began:.1f} s\n", DIM)
        story = Story(set_up)
        for scene in story.scenes():
            scenes.append(scene)
            printer.scene(scene)
        rendered = set_up.render_trail(story.session)
        printer.say("\nwho handed what to whom, and what each did:\n")
        printer.say(rendered)
    wrong = [scene for scene in scenes if not scene.holds]
    took = time.monotonic() - began
    if wrong:
        printer.say(f"{len(wrong)} of {len(scenes)} did not come as expected, after {took:.1f} s", RED)
    else:
        printer.say(f"all {len(scenes)} as expected, in {took:.1f} s", GREEN)
    return {
        "schema": "arx/demo/1",
        "holds": not wrong,
        "took_s": round(took, 3),
        "session": story.session,
        "scenes": [
            {"title": s.title, "expected": s.expected, "came": s.came, "holds": s.holds, "why": s.why, **s.figures}
            for s in scenes
        ],
        "decisions": story.tree,
    }


def _leave(number: int, _: object) -> NoReturn:
    """Leave by way of every cleanup: a realm's keys and seven processes must not outlive what started them."""
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


def main() -> int:
    """Play the demo."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    parser = argparse.ArgumentParser(prog="python -m arx_caps.demo", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object, progress on standard error")
    given = parser.parse_args()
    try:
        told = play(Printer(sys.stderr if given.json else sys.stdout))
    except StageError as error:
        print(f"error: the demo could not run: {error}", file=sys.stderr)
        return 1
    if given.json:
        print(json.dumps(told, indent=2))
    return 0 if told["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
