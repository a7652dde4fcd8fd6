// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { test } from "node:test";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { InMemoryTransport } from "@modelcontextprotocol/sdk/inMemory.js";
import { McpServer } from "@modelcontextprotocol/sdk/server/mcp.js";
import { Client as Client2, InMemoryTransport as Transport2 } from "@modelcontextprotocol/client";
import { McpServer as McpServer2 } from "@modelcontextprotocol/server";
import { z } from "zod";
import { guardTransport } from "../src/enforcement/mcp.ts";
import { mint, serviceOf } from "./mint.ts";

const ALLOW = [{ tool: "orders.get", args: { id: { glob: "o-*" } } }];
const SDKS = {
  "SDK 1": [McpServer, Client, InMemoryTransport],
  "SDK 2": [McpServer2, Client2, Transport2],
} as const;

for (const [name, [Server, Caller, Pair]] of Object.entries(SDKS)) {
  test(`${name}: an allowed call alone reaches a tool`, async () => {
    const service = serviceOf();
    const seen: unknown[] = [];
    let arrived = (): void => undefined;
    // biome-ignore lint/suspicious/noExplicitAny: the two SDKs have two types of one form
    const server: any = new (Server as any)({ name: "orders", version: "1" }, {});
    server.registerTool("get", { inputSchema: z.object({ id: z.string() }) }, (args: unknown, context: unknown) => {
      seen.push(args, JSON.stringify(context).includes("arx1_"));
      return { content: [{ type: "text", text: "order" }] };
    });
    server.registerTool("wait", { inputSchema: z.object({}) }, async () => {
      arrived();
      return new Promise<never>(() => undefined); // the kill alone ends the call
    });
    // biome-ignore lint/suspicious/noExplicitAny: as above
    const client: any = new (Caller as any)({ name: "agent", version: "1" }, {});
    const [near, far] = (Pair as typeof InMemoryTransport).createLinkedPair();
    await Promise.all([server.connect(guardTransport(far as never, service.verifier)), client.connect(near)]);

    const allowed = await client.callTool({ name: "get", arguments: { id: "o-1" }, _meta: { "dev.arx/cap": mint(ALLOW) } });
    assert.equal(allowed.content[0].text, "order");
    assert.deepEqual(seen, [{ id: "o-1" }, false]);

    const refused = await client.callTool({ name: "get", arguments: { id: "x" }, _meta: { "dev.arx/cap": mint(ALLOW) } });
    assert.equal(refused.isError, true);
    assert.equal(refused._meta["dev.arx/refusal"].code, "argument_not_allowed");
    assert.match(refused.content[0].text, /^get was refused: id must match "o-\*", got "x"\. Do not repeat this call\./);
    const bare = await client.callTool({ name: "get", arguments: { id: "o-1" } });
    assert.equal(bare._meta["dev.arx/refusal"].code, "missing_token");
    assert.equal(seen.length, 2);

    assert.deepEqual((await client.listTools()).tools, []);
    const listed = await client.listTools({ _meta: { "dev.arx/cap": mint(ALLOW) } });
    assert.deepEqual(listed.tools.map((tool: { name: string }) => tool.name), ["get"]);
    await assert.rejects(client.readResource({ uri: "file:///x" }));

    // Two calls of one id at once: the second one is refused, so that no answer leaves under another call's grant.
    const allowedAt = service.recorder.decisions.length;
    const twice = (id: string): void => {
      const params = { name: "get", arguments: { id }, _meta: { "dev.arx/cap": mint(ALLOW) } };
      void near.send({ jsonrpc: "2.0", id: "twice", method: "tools/call", params });
    };
    const calls = seen.length;
    twice("o-1");
    twice("o-2");
    await client.callTool({ name: "get", arguments: { id: "o-3" }, _meta: { "dev.arx/cap": mint(ALLOW) } });
    assert.deepEqual(seen.slice(calls), [{ id: "o-1" }, false, { id: "o-3" }, false]);
    assert.equal(service.recorder.decisions.length, allowedAt + 2);

    const started = new Promise<void>((resolve) => (arrived = resolve));
    const waiting = client.callTool({ name: "wait", arguments: {}, _meta: { "dev.arx/cap": mint([{ tool: "*" }]) } });
    await started;
    service.view.kill("session:s-1");
    const ended = await waiting;
    assert.equal(ended._meta["dev.arx/refusal"].code, "revoked");
    await client.close();
  });
}

test("what a call sends before its answer leaves, and so does the answer", async () => {
  const [near, far] = InMemoryTransport.createLinkedPair();
  const guarded = guardTransport(far, serviceOf().verifier);
  guarded.onmessage = (message) => {
    const { id } = message as { id: number };
    const params = { level: "info", data: "sent" } as const;
    void guarded.send({ jsonrpc: "2.0", method: "notifications/message", params }, { relatedRequestId: id })
      .then(() => guarded.send({ jsonrpc: "2.0", id, result: {} }));
  };
  const got: unknown[] = [];
  const answered = new Promise<void>((resolve) => {
    near.onmessage = (message) => void (got.push(Object.keys(message).sort()), "result" in message && resolve());
  });
  await Promise.all([near.start(), guarded.start()]);
  const params = { name: "get", arguments: {}, _meta: { "dev.arx/cap": mint([{ tool: "*" }]) } };
  await near.send({ jsonrpc: "2.0", id: "c", method: "tools/call", params });
  await answered;
  assert.deepEqual(got, [["jsonrpc", "method", "params"], ["id", "jsonrpc", "result"]]);
});
