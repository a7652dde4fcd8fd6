// SPDX-License-Identifier: Apache-2.0
/** `node journal_writer.ts FOLDER MODE` writes records as fast as it can, and prints `boot sequence` of each. */

import fs from "node:fs";
import { type ChainFacts, UNPROVEN } from "../src/journal/record.ts";
import { Journal, type JournalMode } from "../src/journal/writer.ts";

const [folder, mode = "strict"] = process.argv.slice(2) as [string, JournalMode?];
const journal = new Journal(folder, "orders-node", "orders", { segmentBytes: 65536, mode, maxBytes: 2 ** 30 });
const facts: ChainFacts = {
  ...UNPROVEN,
  kept: ["acme/support", "s-1", [], [], null, [], "t".repeat(22), "orders", null, "k1.0", "bearer", null],
};

for (;;) {
  const sequence = journal.append({ code: "ok", at: Date.now(), facts, tool: "node", incarnation: "i", applied: 7 });
  await journal.settle(sequence);
  fs.writeSync(1, `${journal.boot} ${sequence}\n`);
}
