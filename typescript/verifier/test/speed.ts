// SPDX-License-Identifier: Apache-2.0
/**
 * Times decisions for `python -m tests.typescript.speed`: for each line `{vector, tokens}` it decides each token once, and
 * answers the processor time of one decision, us.  For the line `express` it answers what a guarded route of Express costs
 * more than the bare one, us of processor time, its decision included.
 */

import { createHmac } from "node:crypto";
import { once } from "node:events";
import { Agent, createServer, request as ask, type IncomingMessage, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { createInterface } from "node:readline";
import express from "express";
import { type ExpressApplication, guard } from "../src/enforcement/express.ts";
import { type Decision, pack } from "../src/journal/record.ts";
import { KeyRing } from "../src/token/keyring.ts";
import { MemoryNonces } from "../src/verification/nonces.ts";
import { Verifier } from "../src/verification/verifier.ts";
import { FixedView } from "./doubles.ts";
import { mint, serviceOf } from "./mint.ts";

const [ROUNDS, REQUESTS, AT] = [30, 200, 1_800_000_000_000];

/** Packs each record, as a journal does. */
class Packing {
  readonly boot = "speed";
  readonly waits = false;
  #sequence = 0;

  append(decision: Decision): number {
    pack(decision);
    this.#sequence += 1;
    return this.#sequence;
  }

  count(): void {}

  async settle(): Promise<void> {}

  async close(): Promise<void> {}
}

const used = (): number => {
  const { user, system } = process.cpuUsage();
  return user + system;
};

let kept: { readonly text: string; readonly verifier: Verifier } | undefined;

// biome-ignore lint/suspicious/noExplicitAny: the members of a vector are described in tests/vectors/README.md
type Vector = any;

function verifierOf(vector: Vector): Verifier {
  const text = JSON.stringify(vector);
  if (kept?.text === text) return kept.verifier;
  const { incarnation, applied, kills, freezes } = vector.epoch;
  const keys = Object.entries<string>(vector.keys).map(([kid, key]) => [kid, Buffer.from(key, "hex")] as const);
  const verifier = new Verifier({
    audience: vector.audience, keys: new KeyRing(Object.fromEntries(keys), vector.realm, vector.max_ttl_ms),
    epochs: new FixedView(incarnation, applied, kills, freezes), recorder: new Packing(),
    nonces: new MemoryNonces(AT - 60_000), clock: () => AT,
  });
  kept = { text, verifier };
  return verifier;
}

async function decide(vector: Vector, tokens: readonly string[]): Promise<number> {
  const verifier = verifierOf(vector);
  const began = used();
  for (const token of tokens) {
    const { allowed, code } = await verifier.authorize(token, vector.request);
    if (!allowed) throw new Error(`expected a grant, got ${code}`);
  }
  return (used() - began) / tokens.length;
}

function hash(count: number): number {
  const [key, data] = [Buffer.alloc(32, 1), Buffer.alloc(64, 2)];
  const began = used();
  for (let left = count; left > 0; left -= 1) createHmac("sha256", key).update(data).digest();
  return (used() - began) / count;
}

async function timed(server: Server, agent: Agent): Promise<number> {
  const { port } = server.address() as AddressInfo;
  const headers = { authorization: `Bearer ${mint([{ tool: "*" }])}` };
  const began = used();
  for (let left = REQUESTS; left > 0; left -= 1) {
    const sent = ask({ port, path: "/orders/o-1", agent, headers });
    sent.end();
    const [answer] = (await once(sent, "response")) as [IncomingMessage];
    answer.resume();
    await once(answer, "end");
    if (answer.statusCode !== 200) throw new Error(`expected an answer, got ${answer.statusCode}`);
  }
  return (used() - began) / REQUESTS;
}

async function compare(): Promise<number> {
  const app = (): express.Express => express().get("/orders/:id", (req, res) => void res.json({ id: req.params.id }));
  const guarded = guard(app() as unknown as ExpressApplication, serviceOf().verifier, { tools: { "GET /orders/{id}": "orders.get" } });
  const servers = [createServer(app()), guarded];
  const agent = new Agent({ keepAlive: true });
  for (const server of servers) await once(server.listen(0, "127.0.0.1"), "listening");
  const more: number[] = [];
  for (let round = 0; round < ROUNDS; round += 1) {
    const [bare = 0, own = 0] = [await timed(servers[0] as Server, agent), await timed(guarded, agent)];
    if (round >= ROUNDS / 3) more.push(own - bare);
  }
  for (const server of servers) server.close();
  agent.destroy();
  return more.sort((one, other) => one - other)[more.length >> 1] ?? 0;
}

for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line);
  const answer = asked.do === "express" ? await compare() : asked.do === "hash" ? hash(asked.count) : await decide(asked.vector, asked.tokens);
  process.stdout.write(`${answer}\n`);
}
