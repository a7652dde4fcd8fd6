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

for (const file of readdirSync(SOURCE, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".ts"))) {
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
