// SPDX-License-Identifier: Apache-2.0
// Each room imports only rooms before it: the order is that of the verifier in Python, which a test of the house compares.

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";

const ORDER = `
  errors limits names addresses json request constraints token revocation journal verification enforcement service index
`.trim().split(/\s+/);
const SOURCE = path.join(import.meta.dirname, "..", "src");
const IMPORTED = /(?:from|import) "(\.[^"]+)"|import\("(\.[^"]+)"\)|new URL\("(\.[^"]+)"/g;

const roomOf = (file: string): string => (file.split(path.sep)[0] as string).replace(/\.(ts|js)$/, "");

const FILES = readdirSync(SOURCE, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".ts"));
const MOST_LINES = 150; // of code, in a file of a guard: a reader has it whole

for (const file of FILES) {
  test(`${file} imports no later room`, () => {
    const place = ORDER.indexOf(roomOf(file));
    assert.notEqual(place, -1, "a room without a place in ORDER");
    const text = readFileSync(path.join(SOURCE, file), "utf8");
    for (const [, ...given] of text.matchAll(IMPORTED)) {
      const target = path.join(path.dirname(file), given.find((one) => one !== undefined) as string);
      if (target.endsWith(".json")) continue; // the tables of SPEC
      assert.ok(ORDER.slice(0, place + 1).includes(roomOf(target)), `imports ${target}`);
    }
  });
}

for (const file of FILES.filter((name) => roomOf(name) === "enforcement")) {
  test(`${file} has at most ${MOST_LINES} lines of code`, () => {
    const text = readFileSync(path.join(SOURCE, file), "utf8").replace(/\/\*[^]*?\*\//g, "");
    const lines = text.split("\n").filter((line) => !/^\s*(?:\/\/.*)?$/.test(line));
    assert.ok(lines.length <= MOST_LINES, `${lines.length} lines`);
  });
}
