// SPDX-License-Identifier: Apache-2.0
/**
 * `node test/mcp_attacked.ts stdio|http` serves guarded tools, prompts and resources, for messages that no client sends.
 *
 * It prints `{port, any, narrow}` to its standard error: a token for everything, and one for `get` of an id `o-…`.
 * Over HTTP, `/session` has one transport for all requests, and each other path one for each request.
 * It ends with 1 if a handler got what was not judged, or what begins with `f-`.
 */

import { once } from "node:events";
import fs from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { Server } from "@modelcontextprotocol/sdk/server/index.js";
import { StdioServerTransport } from "@modelcontextprotocol/sdk/server/stdio.js";
import { StreamableHTTPServerTransport } from "@modelcontextprotocol/sdk/server/streamableHttp.js";
import type { Transport } from "@modelcontextprotocol/sdk/shared/transport.js";
import * as types from "@modelcontextprotocol/sdk/types.js";
import { guardTransport } from "../src/enforcement/mcp.ts";
import { CALLS, LISTS, NOTIFICATIONS, SESSION } from "../src/enforcement/messages.ts";
import { writeArguments } from "../src/json.ts";
import { mint, serviceOf } from "./mint.ts";

const { verifier } = serviceOf();
const judged = new Map<string, number>();
const authorize = verifier.authorize.bind(verifier);
verifier.authorize = async (credential, request) => {
  const decision = await authorize(credential, request);
  const key = keyOf(request.tool, request.args);
  if (decision.allowed) judged.set(key, (judged.get(key) ?? 0) + 1);
  return decision;
};

/** Return a text of a call.  The SDK drops members that it does not know: these are left out. */
function keyOf(tool: string, args: { readonly [name: string]: unknown }): string {
  const known = { "orders.prompts.get": ["name", "arguments"], "orders.resources.read": ["uri"] }[tool];
  const kept = Object.entries(args).filter(([name, value]) => {
    return (known?.includes(name) ?? true) && !(known !== undefined && name === "arguments" && JSON.stringify(value) === "{}");
  });
  return `${tool} ${writeArguments(Object.fromEntries(kept))}`;
}

function confused(what: string): never {
  fs.writeSync(2, `confused: ${what}\n`);
  process.exit(1);
}

/** Compare what a handler got with what was judged; each decision is for one call. */
function saw(tool: string, args: object, named: unknown): string {
  const key = keyOf(`orders.${tool}`, { ...args });
  const left = judged.get(key) ?? 0;
  if (left === 0 || String(named).startsWith("f-")) confused(key);
  judged.set(key, left - 1);
  return String(named);
}

function serverOf(): Server {
  const capabilities = { tools: {}, prompts: {}, resources: { subscribe: true }, completions: {}, logging: {} };
  const server = new Server({ name: "orders", version: "1" }, { capabilities });
  const without = ({ _meta, inputResponses: _, requestState: __, ...rest }: { [name: string]: unknown }): object => {
    if (JSON.stringify(_meta ?? null).includes("dev.arx/cap")) confused("a token");
    return rest;
  };
  server.setRequestHandler(types.CallToolRequestSchema, async ({ params }) => {
    const { name, arguments: args = {} } = params;
    without(params);
    const text = saw(name, args, args["id"]);
    if (name === "slow") await new Promise(setImmediate);
    return { content: [{ type: "text", text }] };
  });
  server.setRequestHandler(types.GetPromptRequestSchema, ({ params }) => {
    const description = saw("prompts.get", without(params), params.name);
    return { description, messages: [] };
  });
  server.setRequestHandler(types.ReadResourceRequestSchema, ({ params: { uri, ...rest } }) => {
    return { contents: [{ uri, text: saw("resources.read", without({ uri, ...rest }), uri) }] };
  });
  server.setRequestHandler(types.ListToolsRequestSchema, () => {
    return { tools: ["get", "slow", "refund"].map((name) => ({ name, inputSchema: { type: "object" as const } })) };
  });
  server.setRequestHandler(types.ListPromptsRequestSchema, () => ({ prompts: [{ name: "o-1" }] }));
  server.setRequestHandler(types.ListResourcesRequestSchema, () => ({ resources: [{ uri: "o://1", name: "o" }] }));
  server.fallbackRequestHandler = async ({ method, params = {} }) => {
    if (CALLS.has(method)) saw(method.replace("/", "."), without(params), params["uri"] ?? "o");
    else if (!SESSION.has(method) && !Object.hasOwn(LISTS, method)) confused(method);
    return {};
  };
  server.fallbackNotificationHandler = async ({ method }) => void (NOTIFICATIONS.has(method) || confused(method));
  server.onerror = () => undefined; // messages of no form
  return server;
}

const say = (port: number): unknown => {
  const narrow = mint([{ tool: "orders.get", args: { id: { glob: "o-*" } } }]);
  return fs.writeSync(2, `${JSON.stringify({ port, any: mint([{ tool: "*" }]), narrow })}\n`);
};

if (process.argv[2] === "stdio") {
  await serverOf().connect(guardTransport(new StdioServerTransport() as Transport, verifier));
  say(0);
} else {
  const open = async (more: object): Promise<StreamableHTTPServerTransport> => {
    const transport = guardTransport(new StreamableHTTPServerTransport({ enableJsonResponse: true, ...more } as never), verifier);
    await serverOf().connect(transport as Transport);
    return transport;
  };
  const session = await open({ sessionIdGenerator: () => "s" });
  const listener = createServer(async (request, response) => {
    const transport = request.url === "/session" ? session : await open({});
    await transport.handleRequest(request, response);
  });
  await once(listener.listen(0, "127.0.0.1"), "listening");
  say((listener.address() as AddressInfo).port);
  process.stdin.resume();
}
process.stdin.once("end", () => process.exit(0));
