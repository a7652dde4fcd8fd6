// SPDX-License-Identifier: Apache-2.0
/** `node nonces_process.ts URL PREFIX KEY INCARNATION` decides each line, `{token, tool, args}`, and prints the code. */

import { createInterface } from "node:readline";
import { KeyRing } from "../src/token/keyring.ts";
import { SharedNonces } from "../src/verification/sharedNonces.ts";
import { Verifier } from "../src/verification/verifier.ts";
import { FixedView, MemoryRecorder } from "./doubles.ts";

const [url, prefix, key, incarnation] = process.argv.slice(2) as [string, string, string, string];
const verifier = new Verifier({
  audience: "orders", keys: new KeyRing({ "k1.0": Buffer.from(key, "hex") }, "test", 86_400_000),
  epochs: new FixedView(incarnation, 1_000_000), recorder: new MemoryRecorder(), nonces: new SharedNonces(url, prefix),
});

for await (const line of createInterface({ input: process.stdin })) {
  const { token, tool, args } = JSON.parse(line);
  const { code } = await verifier.authorize(token, { tool, args, at: Date.now() });
  process.stdout.write(`${code}\n`);
}
await verifier.close();
