// SPDX-License-Identifier: Apache-2.0
/** `node effects_process.ts FILE` calls `orders.get` for each line, `{token, args, end}`, and prints the code. */

import { createInterface } from "node:readline";
import { currentGrant, protect } from "../src/enforcement/protect.ts";
import { Refusal } from "../src/errors.ts";
import { openVerifier } from "../src/service.ts";

const verifier = openVerifier(process.argv[2] as string, { effects: ["orders.get"] });
let end = "";
const get = protect(verifier, "orders.get", async () => {
  currentGrant().effect({ externalId: end });
  if (end === "throws") throw new Error("no");
  if (end === "dies") process.kill(process.pid, "SIGKILL");
  return "order";
});

for await (const line of createInterface({ input: process.stdin })) {
  const given = JSON.parse(line);
  ({ end } = given);
  const code = await get(given.token, given.args).catch((error: Error) => (error instanceof Refusal ? error.code : error.message));
  process.stdout.write(`${code}\n`);
}
await verifier.close();
