// SPDX-License-Identifier: Apache-2.0
/**
 * `node journal_copy.ts FROM TO` reads the journal of another writer, and writes each of its decisions to a journal of its own.
 *
 * It prints their number, and ends with 1 at a record that it would write otherwise.
 */

import fs from "node:fs";
import path from "node:path";
import { pack } from "../src/journal/record.ts";
import { Journal } from "../src/journal/writer.ts";
import { decisionOf } from "./family_answers.ts";
import { readSegment } from "./reader.ts";

const [from, to] = process.argv.slice(2) as [string, string];
const journal = new Journal(to, "orders-node", "orders");
const files = fs.readdirSync(from).filter((name) => name.endsWith(".arxj"));
const read = files.map((name) => readSegment(fs.readFileSync(path.join(from, name))));
let last = 0;
for (const { header, records, damage } of read.sort((a, b) => (a.header?.first ?? 0) - (b.header?.first ?? 0))) {
  if (header === null || damage.length > 0) throw new Error("a damaged file");
  for (const [sequence, payload] of records) {
    const decision = payload === null ? undefined : decisionOf(payload);
    if (decision === undefined || payload === null || !pack(decision).equals(payload)) throw new Error(`record ${sequence} is another one`);
    if (journal.append(decision) !== sequence || sequence !== last + 1) throw new Error(`record ${sequence} has another place`);
    last = sequence;
  }
}
await journal.close();
process.stdout.write(`${last}\n`);
