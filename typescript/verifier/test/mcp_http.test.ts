// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { generateKeyPairSync } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { after, test } from "node:test";
import { McpServer } from "@modelcontextprotocol/sdk/server/mcp.js";
import { StreamableHTTPServerTransport } from "@modelcontextprotocol/sdk/server/streamableHttp.js";
import { McpServer as McpServer2, WebStandardStreamableHTTPServerTransport } from "@modelcontextprotocol/server";
import { z } from "zod";
import { guardTransport } from "../src/enforcement/mcp.ts";
import type { AccessRequest } from "../src/request.ts";
import { sha256 } from "../src/token/chain.ts";
import { mint, mintBound, serviceOf } from "./mint.ts";

const ALLOW = [{ tool: "orders.get", args: { id: { glob: "o-*" } } }];
const TYPES = { "content-type": "application/json", accept: "application/json, text/event-stream", "mcp-protocol-version": "2025-06-18" };
const CALL = { jsonrpc: "2.0", id: 7, method: "tools/call", params: { name: "get", arguments: { id: "o-1" } } };

// biome-ignore lint/suspicious/noExplicitAny: an answer is a problem, a result or an error
const read = (answer: Response): Promise<any> => answer.json();
type Send = (body: string, headers?: Record<string, string>) => Promise<Response>;
const seen: string[] = [];

// biome-ignore lint/suspicious/noExplicitAny: the two SDKs have two types of one form
function serverOf(Server: any): any {
  const server = new Server({ name: "orders", version: "1" }, {});
  server.registerTool("get", { inputSchema: z.object({ id: z.string() }) }, ({ id }: { id: string }, extra: unknown) => {
    const { requestInfo, http } = extra as { requestInfo?: { headers: object }; http?: { req?: Request } };
    seen.push(JSON.stringify([requestInfo?.headers ?? [...(http?.req?.headers ?? [])]]));
    return { content: [{ type: "text", text: id }] };
  });
  return server;
}

/** A server of SDK 1 on Node's HTTP; each request has a transport, as a server without sessions does it. */
async function onNode(): Promise<Send> {
  const { verifier } = serviceOf();
  const listener = createServer(async (request, response) => {
    const options = { enableJsonResponse: true } as never;
    const transport = guardTransport(new StreamableHTTPServerTransport(options), verifier);
    await serverOf(McpServer).connect(transport);
    await transport.handleRequest(request, response);
  });
  await once(listener.listen(0, "127.0.0.1"), "listening");
  after(() => listener.close());
  const { port } = listener.address() as AddressInfo;
  return (body, headers) => fetch(`http://127.0.0.1:${port}/mcp?a=1`, { method: "POST", body, headers: { ...TYPES, ...headers } });
}

/** A server of SDK 2 on requests of the web. */
function onWeb(): Send {
  const { verifier } = serviceOf();
  return async (body, headers) => {
    const transport = guardTransport(new WebStandardStreamableHTTPServerTransport({ enableJsonResponse: true }), verifier);
    await serverOf(McpServer2).connect(transport);
    return transport.handleRequest(new Request("http://orders/mcp?a=1", { method: "POST", body, headers: { ...TYPES, ...headers } }));
  };
}

function signed(body: string, target = "/mcp?a=1", request: Partial<AccessRequest> = {}): Record<string, string> {
  const http = { method: "POST", target, bodyDigest: sha256(body) };
  return { authorization: `Bearer ${mint(ALLOW, { tool: "", args: {}, at: Date.now(), http, ...request })}` };
}

for (const [name, make] of Object.entries({ "SDK 1 on Node": onNode, "SDK 2 on the web": onWeb })) {
  test(`${name}: a proof in the header covers the raw body`, async () => {
    const send = await make();
    const codeOf = async (sent: Promise<Response>): Promise<string> => {
      const answer = await read(await sent);
      return answer.code ?? answer.result._meta?.["dev.arx/refusal"].code ?? answer.result.content[0].text;
    };
    const body = JSON.stringify(CALL);
    const headers = signed(body);
    seen.length = 0;
    assert.equal(await codeOf(send(body, headers)), "o-1");
    assert.equal(seen.length, 1);
    assert.doesNotMatch(String(seen), /arx1_|authorization/i); // the tool sees headers, and no token
    assert.match(String(seen), /mcp-protocol-version/);
    assert.equal(await codeOf(send(body, headers)), "replayed");
    assert.equal(await codeOf(send(`${body} `, signed(body))), "proof_invalid");
    assert.equal(await codeOf(send(body, signed(body, "/mcp"))), "proof_invalid");
    assert.equal(await codeOf(send(body, signed(body, "", { tool: "orders.get", args: { id: "o-1" }, http: undefined }))), "proof_invalid");
    assert.equal(await codeOf(send(body)), "missing_token");
    assert.equal(await codeOf(send(body, { authorization: "Bearer of-another-system" })), "missing_token");
    const other = JSON.stringify({ ...CALL, params: { name: "get", arguments: { id: "x" } } });
    assert.equal(await codeOf(send(other, signed(other))), "argument_not_allowed");
    for (const odd of [body.replace('"o-1"', '"o-1","id":"o-2"'), `[${body}]`, `\ufeff${body}`, "{"]) {
      assert.equal(await codeOf(send(odd, signed(odd))), "malformed_request", odd);
    }
    // Of a bound token its holder's key alone can make the proof.
    const [holder, thief] = [generateKeyPairSync("ed25519"), generateKeyPairSync("ed25519")];
    const request = { tool: "", args: {}, at: Date.now(), http: { method: "POST", target: "/mcp?a=1", bodyDigest: sha256(body) } };
    const bound = (signer?: typeof holder): Promise<string> => {
      return codeOf(send(body, { authorization: `Bearer ${mintBound(ALLOW, request, holder, signer)}` }));
    };
    assert.equal(await bound(), "o-1");
    assert.equal(await bound(thief), "proof_invalid");
    // A message's own token goes before that of the header, and its proof is of kind `tool`.
    const token = mint(ALLOW, { tool: "orders.get", args: { id: "o-1" }, at: Date.now() });
    const own = JSON.stringify({ ...CALL, params: { ...CALL.params, _meta: { "dev.arx/cap": token } } });
    assert.equal(await codeOf(send(own, signed(own))), "o-1");
    const list = JSON.stringify({ jsonrpc: "2.0", id: 8, method: "tools/list", params: {} });
    const listed = async (headers?: Record<string, string>): Promise<unknown[]> => (await read(await send(list, headers))).result.tools;
    assert.equal((await listed(signed(list))).length, 1);
    assert.equal((await listed()).length, 0);
    assert.equal(seen.length, 3);
  });
}

test("an error of the transport is no refusal", async () => {
  const handleRequest = async (_: Request): Promise<Response> => {
    throw new Error("broken");
  };
  const { verifier, recorder } = serviceOf();
  const guarded = guardTransport({ send: async () => undefined, handleRequest }, verifier);
  await assert.rejects(guarded.handleRequest(new Request("http://orders/mcp")), /broken/);
  assert.equal(recorder.counts.size, 0);
});
