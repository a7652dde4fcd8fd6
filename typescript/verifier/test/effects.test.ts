// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { type IncomingMessage, request as ask, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { after, test } from "node:test";
import { Client, InMemoryTransport } from "@modelcontextprotocol/client";
import { McpServer } from "@modelcontextprotocol/server";
import express from "express";
import { z } from "zod";
import { type ExpressApplication, grantOf, guard } from "../src/enforcement/express.ts";
import { guardTransport } from "../src/enforcement/mcp.ts";
import { currentGrant, protect } from "../src/enforcement/protect.ts";
import type { Decision } from "../src/journal/record.ts";
import { AuditError, SettingsError } from "../src/errors.ts";
import { sha256 } from "../src/token/chain.ts";
import { CallEffect } from "../src/verification/effect.ts";
import { MemoryRecorder } from "./doubles.ts";
import { mint, type Service, serviceOf } from "./mint.ts";

const ANY = [{ tool: "*" }];
const REFUND = ["orders.refund"];

/** The effects in a service's records, each with that of its decision before. */
function effectsOf({ recorder }: Service): (readonly unknown[])[] {
  const { decisions } = recorder;
  return decisions.filter(({ code }) => code === "effect").map(({ effect, externalId }) => {
    const allowed = decisions[Number(effect?.of.split("-").at(-1)) - 1] as Decision;
    assert.equal(allowed.effect?.result, "awaited");
    return [effect?.result, effect?.status, effect?.size, externalId];
  });
}

test("the end of a function is its effect, once", async () => {
  const service = serviceOf(undefined, REFUND);
  const run = protect(service.verifier, "orders.refund", async ({ end }) => {
    currentGrant().effect({ externalId: `re_${end}${"x".repeat(200)}` });
    if (end === "throws") throw new Error("no");
    if (end === "killed") {
      service.view.kill("task:t-1");
      await once(currentGrant().signal, "abort");
    }
    return end;
  });
  await run(mint(ANY), { end: "returns" });
  await assert.rejects(run(mint(ANY), { end: "throws" }));
  await protect(service.verifier, "orders.get", () => 1)(mint(ANY), {});
  await assert.rejects(run(mint(ANY), { end: "killed" }));
  const id = (end: string): string => `re_${end}${"x".repeat(200)}`.slice(0, 128);
  assert.deepEqual(effectsOf(service), [
    ["done", 0, -1, id("returns")], ["failed", 0, -1, id("throws")], ["unknown", 0, -1, id("killed")],
  ]);
});

const service = serviceOf(undefined, REFUND);
const app = express();
let [reached, broken] = [(): void => undefined, (): void => undefined];
app.post("/refund/:how", (req, res) => {
  const { how } = req.params;
  grantOf(req)?.effect({ externalId: how });
  if (how === "throws") throw new Error("no");
  if (how === "none") return void res.status(204).end();
  if (how === "length") {
    res.writeHead(200, { "Content-Length": 4 });
    res.write("four");
    return void setImmediate(() => (assert.equal(effectsOf(service).at(-1)?.[3], "length"), res.end()));
  }
  if (how === "parts") return void (res.write("one"), res.end("two"));
  if (how === "breaks" || how === "open") {
    res.write("begun");
    if (how === "breaks") broken = () => void res.destroy();
    return reached();
  }
  res.status(Number(how)).send("answer");
});
const TOOLS = { "POST /refund/{how}": "orders.refund" };
const server = guard(app as unknown as ExpressApplication, service.verifier, { tools: TOOLS });
await once(server.listen(0, "127.0.0.1"), "listening");
after(() => server.close());

async function send(how: string, to: Server = server): Promise<IncomingMessage> {
  const { port } = to.address() as AddressInfo;
  const http = { method: "POST", target: `/refund/${how}`, bodyDigest: sha256("") };
  const token = mint(ANY, { tool: "", args: {}, at: Date.now(), http });
  const sent = ask({ port, method: "POST", path: http.target, headers: { authorization: `Bearer ${token}` } });
  sent.end();
  const [answer] = (await once(sent, "response")) as [IncomingMessage];
  return answer;
}

/** Wait for the end of an answer, which may break off. */
function closed(answer: IncomingMessage): Promise<unknown> {
  answer.once("error", () => undefined);
  return new Promise((resolve) => answer.once("close", resolve));
}

for (const [how, result, status, size] of [
  ["200", "done", 200, 6], ["404", "failed", 404, 6], ["502", "unknown", 502, 6], ["none", "done", 204, 0],
  ["length", "done", 200, 4], ["parts", "done", 200, 6], ["breaks", "unknown", 0, -1],
] as const) {
  test(`an answer of Express that is ${how} has the effect ${result}`, async () => {
    const answer = await send(how);
    const parts: Buffer[] = [];
    answer.on("data", (part: Buffer) => {
      parts.push(part);
      broken();
    });
    await closed(answer);
    assert.deepEqual(effectsOf(service).at(-1), [result, status, size, how]);
    const { effect, salt } = service.recorder.decisions.at(-1) as Required<Decision>;
    const digest = createHash("sha256").update(salt).update(Buffer.concat(parts)).digest();
    assert.deepEqual(Buffer.from(effect?.digest ?? []), size > 0 ? digest : Buffer.alloc(0));
  });
}

test("a handler of Express that throws has failed", async () => {
  (await send("throws")).resume();
  assert.deepEqual(effectsOf(service).at(-1)?.slice(0, 2), ["failed", 500]);
});

test("a stream of Express that a kill ends has an unknown effect", async () => {
  const begun = new Promise<void>((resolve) => (reached = resolve));
  const answer = await send("open");
  await begun;
  service.view.kill("task:t-1");
  await closed(answer.resume());
  assert.deepEqual(effectsOf(service).at(-1), ["unknown", 0, -1, "open"]);
});

test("an answer of Express leaves when a journal that waits has its effect on disk", async () => {
  const order: string[] = [];
  let release = (): void => undefined;
  const held = new Promise<void>((resolve) => (release = resolve));
  class Waiting extends MemoryRecorder {
    override readonly waits = true;
    override async settle(sequence: number): Promise<void> {
      if (this.decisions[sequence - 1]?.code !== "effect") return;
      setImmediate(() => (order.push("on disk"), release()));
      await held;
    }
  }
  const recorder = new Waiting();
  const slow = guard(app as never, serviceOf(undefined, REFUND, recorder).verifier, { tools: TOOLS });
  after(() => slow.close());
  await once(slow.listen(0, "127.0.0.1"), "listening");
  const answer = await send("parts", slow);
  let text = "";
  for await (const part of answer) text += part;
  order.push("answered");
  assert.deepEqual([order, text, recorder.decisions.at(-1)?.effect?.result], [["on disk", "answered"], "onetwo", "done"]);
});

test("a result of MCP is its effect", async () => {
  const mcp = serviceOf(undefined, ["orders.*"]);
  const server = new McpServer({ name: "orders", version: "1" });
  let arrived = (): void => undefined;
  server.registerTool("run", { inputSchema: z.object({ how: z.string() }) }, async ({ how }) => {
    if (how === "waits") {
      arrived();
      await new Promise<never>(() => undefined);
    }
    if (how === "throws") throw new Error("no");
    return { isError: how === "fails", content: [{ type: "text", text: how }] };
  });
  const client = new Client({ name: "agent", version: "1" });
  const [near, far] = InMemoryTransport.createLinkedPair();
  await Promise.all([server.connect(guardTransport(far, mcp.verifier)), client.connect(near)]);
  const call = (how: string, options?: object): Promise<unknown> => {
    return client.callTool({ name: "run", arguments: { how }, _meta: { "dev.arx/cap": mint(ANY) } }, options);
  };
  for (const how of ["returns", "fails", "throws"]) await call(how);
  for (const end of [(): void => leave.abort(), (): void => mcp.view.kill("task:t-1")]) {
    const started = new Promise<void>((resolve) => (arrived = resolve));
    const waiting = call("waits", { signal: leave.signal }).catch(() => undefined);
    await started;
    end();
    await waiting;
    leave = new AbortController();
  }
  assert.deepEqual(effectsOf(mcp).map(([result]) => result), ["done", "failed", "failed", "unknown", "unknown"]);
  await client.close();
});
let leave = new AbortController();

test("an effect that cannot be recorded keeps no answer back", async () => {
  const full = serviceOf(undefined, ["*"]);
  const { append } = full.recorder;
  const run = protect(full.verifier, "orders.refund", () => {
    full.recorder.append = () => {
      throw new AuditError("full");
    };
    return "refunded";
  });
  const warned = once(process, "warning");
  assert.equal(await run(mint(ANY), {}), "refunded");
  assert.match(String((await warned)[0].message), /effect of a call has no record: full/);
  full.recorder.append = append;
});

test("a record has the digest of a whole megabyte, the status, and no error but its own", () => {
  for (const [size, status, result] of [[1 << 20, 399, "done"], [(1 << 20) + 1, 400, "failed"]] as const) {
    const seen: unknown[] = [];
    const effect = new CallEffect("run-1", ({ size: length, digest, result: known }, salt) => {
      const whole = createHash("sha256").update(salt).update(Buffer.alloc(size)).digest();
      return void seen.push(length, digest.length === 0 ? "none" : whole.equals(digest), known);
    });
    effect.take(Buffer.alloc(size));
    effect.settle(undefined, status);
    assert.deepEqual(seen, [size, size > 1 << 20 ? "none" : true, result]);
  }
  const broken = new CallEffect("run-1", () => {
    throw new TypeError("of the program");
  });
  assert.throws(() => broken.settle("done"), TypeError);
});

test("patterns that are none stop the start", () => {
  for (const wrong of ["orders.", [""], ["orders.*.x"], [7]]) {
    assert.throws(() => serviceOf(undefined, wrong as never), SettingsError, String(wrong));
  }
});
