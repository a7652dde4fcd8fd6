// SPDX-License-Identifier: Apache-2.0
// Weaknesses of the guards that were mended: each test fails without its mend.

import assert from "node:assert/strict";
import { AsyncLocalStorage } from "node:async_hooks";
import { once } from "node:events";
import { request as ask, createServer, type RequestListener } from "node:http";
import { type AddressInfo, connect, type Socket } from "node:net";
import { after, test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { InMemoryTransport } from "@modelcontextprotocol/sdk/inMemory.js";
import { McpServer } from "@modelcontextprotocol/sdk/server/mcp.js";
import { StreamableHTTPServerTransport } from "@modelcontextprotocol/sdk/server/streamableHttp.js";
import { ListToolsRequestSchema } from "@modelcontextprotocol/sdk/types.js";
import { McpServer as McpServer2, WebStandardStreamableHTTPServerTransport } from "@modelcontextprotocol/server";
import express from "express";
import { z } from "zod";
import { type ExpressApplication, guard, type GuardOptions } from "../src/enforcement/express.ts";
import { guardTransport } from "../src/enforcement/mcp.ts";
import { protect } from "../src/enforcement/protect.ts";
import { refusalText } from "../src/enforcement/texts.ts";
import { type Refusal, SettingsError } from "../src/errors.ts";
import { parseStoreUrl } from "../src/revocation/store_url.ts";
import { sha256 } from "../src/token/chain.ts";
import { MemoryRecorder } from "./doubles.ts";
import { mint, type Service, serviceOf } from "./mint.ts";

interface Asked { readonly method?: string; readonly target: string; readonly body?: string; readonly headers?: Record<string, string> }
interface Answered { readonly status: number; readonly headers: Record<string, unknown>; readonly text: string }

async function listen(listener: RequestListener | ReturnType<typeof guard>): Promise<number> {
  const server = typeof listener === "function" ? createServer(listener) : listener;
  await once(server.listen(0, "127.0.0.1"), "listening");
  after(() => server.close().closeAllConnections());
  return (server.address() as AddressInfo).port;
}

function guarded(app: unknown, tools: GuardOptions["tools"], service: Service = serviceOf(), more: object = {}): Promise<number> {
  return listen(guard(app as ExpressApplication, service.verifier, { tools, ...more }));
}

/** Send a request with a token that is signed for it. */
async function send(port: number, { method = "GET", target, body = "", headers = {} }: Asked): Promise<Answered> {
  const http = { method, target, bodyDigest: sha256(body) };
  const token = mint([{ tool: "*" }], { tool: "", args: {}, at: Date.now(), http });
  const type = body === "" ? {} : { "content-type": "application/json" };
  const sent = ask({ port, method, path: target, headers: { authorization: `Bearer ${token}`, ...type, ...headers } });
  sent.end(body);
  const [answer] = await once(sent, "response");
  let text = "";
  for await (const part of answer) text += part;
  return { status: answer.statusCode, headers: answer.headers, text };
}

test("a withheld response has no header that its handler set", async () => {
  const service = serviceOf();
  const app = express().get("/orders", (_req, res) => {
    res.setHeader("x-secret", "1");
    res.statusMessage = "secret";
    service.view.kill("session:s-1");
    res.send("secret");
  });
  const port = await guarded(app, { "GET /orders": "orders.get" }, service);
  const { status, headers, text } = await send(port, { target: "/orders" });
  assert.deepEqual([status, headers["x-secret"], JSON.parse(text).code], [401, undefined, "revoked"]);
});

test("early hints of a killed call do not leave", async () => {
  const service = serviceOf();
  const app = express().get("/orders", (_req, res) => {
    service.view.kill("session:s-1");
    res.writeEarlyHints({ link: "</secret>; rel=preload" });
    res.end();
  });
  const port = await guarded(app, { "GET /orders": "orders.get" }, service);
  const client = connect(port, "127.0.0.1");
  client.write(`GET /orders HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer ${mint([{ tool: "*" }])}\r\n\r\n`);
  let text = "";
  for await (const part of client) text += part;
  assert.doesNotMatch(text, /secret/);
  assert.match(text, /^HTTP\/1\.1 401 [^]*"code":"revoked"/);
});

test("a middleware that takes the method or the target from a header changes no call", async () => {
  const ran: string[] = [];
  const app = express();
  app.use((req, _res, next) => {
    const [method, url] = [req.headers["x-http-method-override"], req.headers["x-original-url"]];
    if (typeof method === "string") req.method = method;
    if (typeof url === "string") req.url = url;
    next();
  });
  app.post("/orders/:id", (req, res) => void (ran.push(`post ${req.params.id}`), res.send("")));
  app.delete("/orders/:id", (_req, res) => void (ran.push("delete"), res.send("")));
  const below = express.Router().get("/:id", (req, res) => void (ran.push(`below ${req.params.id} ${req.query["q"]}`), res.send("")));
  app.use("/below", below);
  const port = await guarded(app, {
    "POST /orders/{id}": "orders.add", "DELETE /orders/{id}": "orders.delete", "GET /below/{id}": "orders.below",
  });
  const post = { method: "POST", target: "/orders/1", body: "{}" };
  for (const [asked, status] of [
    [post, 200], [{ target: "/below/1?q=2" }, 200],
    [{ ...post, headers: { "x-http-method-override": "DELETE" } }, 400],
    [{ ...post, headers: { "x-original-url": "/orders/2" } }, 400],
    [{ target: "/below/1?q=2", headers: { "x-original-url": "/below/1?q=3" } }, 400],
  ] as const) assert.equal((await send(port, asked)).status, status, JSON.stringify(asked));
  assert.deepEqual(ran, ["post 1", "below 1 2"]);
});

test("a query is what was judged, whatever the application's parser makes of it", async () => {
  const app = express().set("query parser", "extended").get("/orders", (req, res) => void res.json(req.query));
  const port = await guarded(app, { "GET /orders": "orders.get" });
  const { text } = await send(port, { target: "/orders?amount=1&amount[to]=9&a.b=%2B" });
  assert.deepEqual(JSON.parse(text), { amount: "1", "amount[to]": "9", "a.b": "+" });
});

test("a guarded application serves no request that was not decided", async () => {
  const [app, sub] = [express(), express()];
  sub.get("/orders", (_req, res) => void res.send("sub"));
  app.use("/sub", sub).get("/orders", (_req, res) => void res.send("orders"));
  await guarded(app, { "GET /orders": "orders.get" });
  const port = await listen(app); // as `app.listen` does
  for (const target of ["/orders", "/sub/orders"]) assert.equal((await send(port, { target })).status, 403);
  const other = await listen(express().get("/orders", (_req, res) => void res.send("other")));
  assert.equal((await send(other, { target: "/orders" })).text, "other");
});

test("a router at another prefix, which Express takes an escaped one for, serves no route that was decided", async () => {
  const serving = (name: string) => express.Router().get("/:id", (_req, res) => void res.send(name));
  const app = express().use("/orders", serving("orders")).use("/:tenant", serving("tenant"));
  const port = await guarded(app, { "GET /orders/{id}": "orders.get" });
  assert.equal((await send(port, { target: "/orders/1" })).text, "orders");
  assert.equal((await send(port, { target: "/%6frders/1" })).status, 403);
});

test("a router that Express takes another spelling for serves no route with a parameter in its place", async () => {
  const serving = (name: string) => express.Router().get("/:id", (_req, res) => void res.send(name));
  const app = express().use("/orders", serving("orders")).use("/:tenant", serving("tenant"));
  const port = await guarded(app, { "GET /{tenant}/{id}": "orders.get" });
  assert.equal((await send(port, { target: "/acme/1" })).text, "tenant");
  for (const target of ["/orders/1", "/Orders/1"]) assert.equal((await send(port, { target })).status, 403);
});

test("a target that Express ends at a number sign is refused", async () => {
  const port = await guarded(express().get("/orders/:id", (req, res) => void res.send(req.params.id)), { "GET /orders/{id}": "orders.get" });
  for (const target of ["/orders/1#2", "/orders/1?q=1#2"]) assert.equal((await send(port, { target })).status, 400);
});

test("a route in a pattern of Express is an error at start", () => {
  for (const route of ["GET /orders/:id", "GET /files/*rest", "GET /a:b", "GET /a\\b"]) {
    for (const options of [{ tools: { [route]: "orders.get" } }, { tools: {}, public: [route] }]) {
      assert.throws(() => guard(express() as unknown as ExpressApplication, serviceOf().verifier, options), SettingsError);
    }
  }
});

test("a body that is too long is answered", async () => {
  const port = await guarded(express(), { "POST /orders": "orders.add" }, serviceOf(), { maxBody: 10 });
  const { status, headers } = await send(port, { method: "POST", target: "/orders", body: JSON.stringify("x".repeat(10)) });
  assert.equal(status, 400);
  assert.equal(headers["content-type"], "application/problem+json");
});

test("a client that asks for an upgrade and is gone does not end the process", async () => {
  const server = guard(express() as unknown as ExpressApplication, serviceOf().verifier, { tools: { "GET /orders": "orders.get" } });
  const port = await listen(server);
  for (let left = 10; left > 0; left -= 1) {
    const ended = new Promise((resolve) => server.once("connection", (socket: Socket) => socket.once("close", resolve)));
    const client = connect(port, "127.0.0.1");
    await once(client, "connect");
    client.write("GET /orders HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n", () => client.resetAndDestroy());
    await ended; // an error that nobody takes would have ended the process by now
  }
});

test("a body whose type no parser of the application takes is what was judged", async () => {
  const app = express().use(express.json()).post("/refunds", (req, res) => {
    const { amount = 1000 } = req.body ?? {};
    res.send(`refunded ${amount}`);
  });
  const port = await guarded(app, { "POST /refunds": "payments.refund" });
  const authorization = `Bearer ${mint([{ tool: "*", args: { amount: { max: 20 } } }])}`;
  for (const type of ["application/json", "application/merge-patch+json"]) {
    const answer = await fetch(`http://127.0.0.1:${port}/refunds`, {
      method: "POST", body: '{"amount":20}', headers: { authorization, "content-type": type },
    });
    assert.equal(await answer.text(), "refunded 20", type);
  }
});

test("an argument in a place where the route has none is refused", async () => {
  const answer: RequestListener = (_req, res) => void res.end("ran");
  const app = express().post("/refund", answer).post("/noted", answer).get("/refund", answer).get("/strict", answer)
    .delete("/refund", answer).head("/headed", answer);
  const port = await guarded(app, {
    "POST /refund": "orders.refund", "POST /noted?{amount}&{note}": "orders.refund", "GET /refund": "orders.refund",
    "GET /strict?{amount}": "orders.refund", "DELETE /refund?{amount}": "orders.refund", "HEAD /headed": "orders.refund",
  });
  const amount = '{"amount":5}';
  for (const [method, target, body, status] of [
    ["POST", "/refund", amount, 200], ["POST", "/noted?amount=5", "", 200], ["POST", "/noted?note=x", '{"x":1}', 200],
    ["GET", "/refund?amount=5", "", 200], ["GET", "/strict?amount=5", "", 200], ["DELETE", "/refund?amount=5", "", 200],
    ["HEAD", "/headed?amount=5", "", 200],
    ["POST", "/refund?amount=5", "", 400], ["POST", "/refund?amount=5", "{}", 400], ["POST", "/refund?x=1", amount, 400],
    ["POST", "/noted", amount, 400], ["POST", "/noted?amount=5&x=1", "", 400],
    ["GET", "/refund", amount, 400], ["GET", "/refund?amount=5", "{}", 400], ["HEAD", "/headed", amount, 400],
    ["GET", "/strict?amount=5&x=1", "", 400], ["GET", "/strict", amount, 400], ["DELETE", "/refund", amount, 400],
  ] as const) {
    const headers = { "content-length": String(body.length) };
    assert.equal((await send(port, { method, target, body, headers })).status, status, `${method} ${target} ${body}`);
  }
});

for (const [name, authorization, code] of [
  ["without a token", undefined, "missing_token"],
  ["with a token that no key made", `Bearer ${mint([{ tool: "*" }]).slice(0, -4)}AAAA`, "bad_signature"],
] as const) {
  test(`the body of a request ${name} is not read`, async () => {
    const service = serviceOf();
    const port = await guarded(express(), { "POST /orders": "orders.add" }, service);
    const headers = { "content-type": "application/json", "content-length": "2", ...(authorization === undefined ? {} : { authorization }) };
    const sent = ask({ port, method: "POST", path: "/orders", headers });
    sent.end("{"); // and never the rest
    const [answer] = await once(sent, "response");
    answer.resume();
    assert.deepEqual([answer.statusCode, [...service.recorder.counts.keys()]], [401, [code]]);
    sent.destroy();
  });
}

interface Line { readonly id?: string | number; readonly method?: string; readonly result?: { _meta?: Record<string, { code: string }> }; readonly error?: { data?: { code: string } } }

/** A guarded server with a tool that never answers by itself, and the raw messages that its client gets. */
async function served(service: Service) {
  const server = new McpServer({ name: "orders", version: "1" });
  let [arrived, finish] = [(): void => undefined, (): void => undefined];
  server.registerTool("wait", { inputSchema: z.object({}) }, () => {
    arrived();
    return new Promise((resolve) => (finish = () => resolve({ content: [{ type: "text", text: "secret" }] })));
  });
  const [near, far] = InMemoryTransport.createLinkedPair();
  const got: Line[] = [];
  let heard = (): void => undefined;
  near.onmessage = (message) => void (got.push(message as Line), heard());
  await server.connect(guardTransport(far, service.verifier));
  const next = (id: string): Promise<Line> => new Promise((resolve) => {
    heard = () => {
      const found = got.find((line) => line.id === id);
      if (found !== undefined) resolve(found);
    };
    heard();
  });
  const call = (id: string, name = "wait"): Promise<void> => {
    const params = { name, arguments: {}, _meta: { "dev.arx/cap": mint([{ tool: "*" }]) } };
    return near.send({ jsonrpc: "2.0", id, method: "tools/call", params });
  };
  const started = (): Promise<void> => new Promise((resolve) => (arrived = resolve));
  return { near, got, next, call, server, started, finish: () => finish() };
}

for (const method of ["ping", "tools/list"]) {
  test(`a ${method} with the id of a running call lets no answer of an ended one leave`, async () => {
    const service = serviceOf();
    const { near, next, call, started, finish, got } = await served(service);
    const running = started();
    await call("w");
    await running;
    await near.send({ jsonrpc: "2.0", id: "w", method, params: { _meta: { "dev.arx/cap": mint([{ tool: "*" }]) } } });
    await near.send({ jsonrpc: "2.0", id: "p", method: "ping" });
    await next("p");
    got.length = 0;
    service.view.kill("session:s-1");
    finish();
    const answer = await next("w");
    assert.equal(answer.result?._meta?.["dev.arx/refusal"]?.code, "revoked");
    assert.doesNotMatch(JSON.stringify(got), /secret/);
  });
}

for (const comes of [true, false]) {
  test(`a list that ${comes ? "comes after a kill does not leave" : "never comes ends with its token"}`, async () => {
    const service = serviceOf();
    const { near, got, next, server } = await served(service);
    server.server.setRequestHandler(ListToolsRequestSchema, () => {
      service.view.kill("session:s-1");
      return comes ? { tools: [{ name: "secret", inputSchema: { type: "object" as const } }] } : new Promise<never>(() => undefined);
    });
    const params = { _meta: { "dev.arx/cap": mint([{ tool: "*" }]) } };
    await near.send({ jsonrpc: "2.0", id: "l", method: "tools/list", params });
    assert.equal((await next("l")).error?.data?.code, "revoked");
    assert.doesNotMatch(JSON.stringify(got), /secret/);
  });
}

test("a client that is gone before its refusal does not end the process", async () => {
  const { near } = await served(serviceOf());
  const asked = near.send({ jsonrpc: "2.0", id: "x", method: "tools/call", params: { name: "wait", arguments: {} } });
  await near.close();
  await asked;
  await new Promise(setImmediate); // an answer that nobody takes would be an unhandled rejection by now
});

test("the id of a cancelled request is free, and no late answer has it", async () => {
  const { near, got, call, next, started, finish } = await served(serviceOf());
  for (const isDecided of [false, true]) {
    const running = started();
    await call("w");
    if (isDecided) await running;
    await near.send({ jsonrpc: "2.0", method: "notifications/cancelled", params: { requestId: "w" } });
    got.length = 0;
    await near.send({ jsonrpc: "2.0", id: "w", method: "tools/call", params: { name: "wait", arguments: {} } });
    finish();
    assert.equal((await next("w")).result?._meta?.["dev.arx/refusal"]?.code, "missing_token");
    await near.send({ jsonrpc: "2.0", id: "p", method: "ping" });
    await next("p");
    assert.doesNotMatch(JSON.stringify(got), /secret/);
  }
});

test("what a killed call sends for no request does not leave", async () => {
  const service = serviceOf();
  const { got, call, next, server } = await served(service);
  const changed = (): number => got.filter(({ method }) => method === "notifications/tools/list_changed").length;
  let send = async (): Promise<void> => undefined;
  server.registerTool("get", { inputSchema: z.object({}) }, async () => {
    send = AsyncLocalStorage.bind(() => server.server.sendToolListChanged());
    await send();
    return { content: [{ type: "text", text: "o-1" }] };
  });
  await call("g", "get");
  await next("g");
  assert.equal(changed(), 2); // one of the tool itself, by no call
  service.view.kill("session:s-1");
  await send();
  assert.equal(changed(), 2);
  await server.server.sendToolListChanged();
  assert.equal(changed(), 3); // of the server, for each client
});

/** Kills the session while the record of an effect waits for its disk. */
class SlowDisk extends MemoryRecorder {
  override readonly waits = true;
  kill = (): void => undefined;

  override async settle(sequence: number): Promise<void> {
    await new Promise(setImmediate);
    if (this.decisions[sequence - 1]?.code === "effect") this.kill();
  }
}

function onSlowDisk(): Service {
  const recorder = new SlowDisk();
  const service = serviceOf(undefined, ["orders.*"], recorder);
  recorder.kill = () => service.view.kill("session:s-1");
  return service;
}

test("an answer of Express whose record waits for its disk does not leave after a kill", async () => {
  const app = express().get("/orders", (_req, res) => void res.send("secret"));
  const port = await guarded(app, { "GET /orders": "orders.get" }, onSlowDisk());
  const { status, text } = await send(port, { target: "/orders" });
  assert.deepEqual([status, JSON.parse(text).code], [401, "revoked"]);
});

test("a result of a function whose record waits for its disk is withheld after a kill", async () => {
  const run = protect(onSlowDisk().verifier, "orders.get", () => "secret");
  await assert.rejects(run(mint([{ tool: "*" }]), {}), (error: Refusal) => error.code === "revoked");
});

test("a kill that comes while a record is written is in force", async () => {
  const recorder = new MemoryRecorder();
  const service = serviceOf(undefined, [], recorder);
  const { append } = recorder;
  recorder.append = (decision) => {
    if (decision.code === "ok") service.view.kill("session:s-1"); // a write that waits for its disk
    return append.call(recorder, decision);
  };
  const { allowed, code } = await service.verifier.authorize(mint([{ tool: "*" }]), { tool: "orders.get", args: {}, at: Date.now() });
  assert.deepEqual([allowed, code, recorder.decisions.map((decision) => decision.code)], [false, "revoked", ["ok", "revoked"]]);
});

test("a holder that attenuates its token again and again fills no memory", async () => {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  const used = (): number => (collect(), process.memoryUsage().heapUsed);
  const { verifier, recorder } = serviceOf();
  const before = used();
  for (let number = 0; number < 400; number += 1) {
    const heavy = { any_of: [...new Array<number>(1900).fill(1), number], optional: true };
    const token = mint([{ tool: "*", open: true, args: { z: heavy } }]);
    assert.equal((await verifier.authorize(token, { tool: "orders.get", args: {}, at: Date.now() })).code, "ok");
    recorder.decisions.length = 0;
  }
  assert.ok(used() - before < 100e6, `${used() - before} bytes`); // each of them takes 635 kB while it is known
});

test("an argument named as a member of every object has its name in the text", () => {
  const failure = { place: "caveat 1", rule: "constructor", expected: "given", came: "nothing" };
  assert.match(refusalText("argument_not_allowed", [failure], "get", ""), /constructor must be given, got nothing/);
});

test("a login with a hash is no URL of localhost", () => {
  for (const url of ["redis://u:secret#x@db.example", "rediss://:a?secret#@db.example", "redis://db.example/0#secret"]) {
    assert.throws(() => parseStoreUrl(url), (error: Error) => {
      return error instanceof SettingsError && /percent-encode `#`/.test(error.message) && !error.message.includes("secret");
    });
  }
  assert.deepEqual(parseStoreUrl("redis://u:a%23x@db.example").places, [{ host: "db.example", port: 6379 }]);
});

/** Keeps events, and replays those of a stream behind another one, as each event store does. */
class Events {
  readonly #kept: (readonly [stream: string, message: object])[] = [];

  async storeEvent(stream: string, message: object): Promise<string> {
    return String(this.#kept.push([stream, message]));
  }

  async getStreamIdForEventId(id: string): Promise<string | undefined> {
    return this.#kept[Number(id) - 1]?.[0];
  }

  async replayEventsAfter(last: string, { send }: { send(id: string, message: object): Promise<void> }): Promise<string> {
    const stream = this.#kept[Number(last) - 1]?.[0] ?? "";
    for (const [at, [of, message]] of this.#kept.entries()) {
      if (at >= Number(last) && of === stream) await send(String(at + 1), message);
    }
    return stream;
  }

  holds(text: string): boolean {
    return JSON.stringify(this.#kept).includes(text);
  }
}

type Sent = (init: RequestInit) => Promise<Response>;
type Log = (data: string) => Promise<void>;
/** What SDK 1 or SDK 2 gives to a tool. */
type Context = Record<"sendNotification", (message: object) => Promise<void>> | { mcpReq: { notify(message: object): Promise<void> } };

/** Return what sends requests to a transport of the SDK 1 on Node, or of the SDK 2 on requests of the web. */
async function resumable(sdk: 1 | 2, service: Service, eventStore: Events, run: (log: Log) => Promise<string>): Promise<Sent> {
  const options = { sessionIdGenerator: () => "session", eventStore } as never;
  const info = [{ name: "orders", version: "1" }, { capabilities: { logging: {} } }] as const;
  const [server, transport] = sdk === 1
    ? [new McpServer(...info), guardTransport(new StreamableHTTPServerTransport(options), service.verifier)]
    : [new McpServer2(...info), guardTransport(new WebStandardStreamableHTTPServerTransport(options), service.verifier)];
  (server as McpServer).registerTool("get", {}, async (given: unknown) => {
    const context = given as Context;
    const notify = "mcpReq" in context ? context.mcpReq.notify : context.sendNotification;
    const log: Log = (data) => notify({ method: "notifications/message", params: { level: "info", data } });
    return { content: [{ type: "text", text: await run(log) }] };
  });
  await server.connect(transport as never);
  if (!(transport instanceof StreamableHTTPServerTransport)) return (init) => transport.handleRequest(new Request("http://orders/mcp", init));
  const port = await listen((request, response) => void transport.handleRequest(request, response));
  return (init) => fetch(`http://127.0.0.1:${port}/mcp`, init);
}

/** Return what calls the tool of a new session, and what resumes its stream. */
async function called(sdk: 1 | 2, service: Service, events: Events, run: (log: Log) => Promise<string>) {
  const send = await resumable(sdk, service, events, run);
  const headers = {
    "content-type": "application/json", accept: "application/json, text/event-stream", "mcp-protocol-version": "2025-11-25",
  };
  const post = (id: number, method: string, params: object): Promise<Response> => {
    const session = method === "initialize" ? {} : { "mcp-session-id": "session" };
    return send({ method: "POST", headers: { ...headers, ...session }, body: JSON.stringify({ jsonrpc: "2.0", id, method, params }) });
  };
  const clientInfo = { name: "a", version: "1" };
  await (await post(1, "initialize", { protocolVersion: "2025-11-25", capabilities: {}, clientInfo })).text();
  const call = (): Promise<Response> => post(2, "tools/call", { name: "get", arguments: {}, _meta: { "dev.arx/cap": mint([{ tool: "*" }]) } });
  const resume = (last: string): Promise<Response> => {
    return send({ method: "GET", headers: { ...headers, "mcp-session-id": "session", "last-event-id": last } });
  };
  return { call, resume };
}

for (const sdk of [1, 2] as const) {
  test(`SDK ${sdk}: a stored answer of a killed call is not replayed`, async () => {
    const [service, events, gate] = [serviceOf(), new Events(), Promise.withResolvers<void>()];
    const { call, resume } = await called(sdk, service, events, () => gate.promise.then(() => "secret"));
    const reader = ((await call()).body as ReadableStream<Uint8Array>).getReader();
    const last = /^id: (\d+)$/m.exec(String(Buffer.from((await reader.read()).value ?? [])))?.[1];
    assert.ok(last); // the client knows where to go on, and its connection ends
    await reader.cancel();
    gate.resolve();
    while (!events.holds("secret")) await new Promise(setImmediate);
    service.view.kill("session:s-1");
    const text = String(Buffer.from((await (await resume(last)).body?.getReader().read())?.value ?? []));
    assert.doesNotMatch(text, /secret/);
    assert.match(text, /"code":"malformed_request"/);
  });
}

/** Takes a message with a secret only when it is let go. */
class SlowEvents extends Events {
  readonly #came = Promise.withResolvers<void>();
  readonly #gate = Promise.withResolvers<void>();
  readonly came = this.#came.promise;
  readonly letGo = this.#gate.resolve;

  override async storeEvent(stream: string, message: object): Promise<string> {
    if (JSON.stringify(message).includes("secret")) {
      this.#came.resolve();
      await this.#gate.promise;
    }
    return super.storeEvent(stream, message);
  }
}

for (const sdk of [1, 2] as const) {
  for (const what of ["answer", "line of a log"] as const) {
    test(`SDK ${sdk}: the ${what} of a call that is killed while a store keeps it does not leave`, async () => {
      const [service, events] = [serviceOf(), new SlowEvents()];
      const { call } = await called(sdk, service, events, async (log) => {
        if (what !== "answer") await log("secret");
        return what === "answer" ? "secret" : "done";
      });
      const answer = await call();
      await events.came;
      service.view.kill("session:s-1");
      events.letGo();
      const text = await answer.text();
      assert.doesNotMatch(text, /secret/);
      assert.match(text, /"id":2/); // the client is answered all the same
      assert.match(text, /"code":"revoked"/);
    });
  }
}

test("arguments that the SDK of MCP drops are refused", async () => {
  const ran: unknown[] = [];
  const server = new McpServer({ name: "orders", version: "1" });
  server.registerPrompt("get", {}, () => (ran.push("prompt"), { messages: [] }));
  server.registerTool("get", { inputSchema: z.looseObject({}) }, (args) => (ran.push(args), { content: [] }));
  const [near, far] = InMemoryTransport.createLinkedPair();
  await server.connect(guardTransport(far, serviceOf().verifier));
  const ask = async (id: number, method: string, args: string): Promise<string> => {
    const answered = new Promise((resolve) => (near.onmessage = resolve));
    const params = { name: "get", arguments: JSON.parse(args), _meta: { "dev.arx/cap": mint([{ tool: "*" }]) } };
    await near.send({ jsonrpc: "2.0", id, method, params });
    return JSON.stringify(await answered);
  };
  await near.start();
  for (const [at, args] of ['{"__proto__":{"id":"o-1"}}', '{"a":[{"__proto__":1}]}'].entries()) {
    for (const [to, method] of ["prompts/get", "tools/call"].entries()) {
      assert.match(await ask(2 * at + to, method, args), /"code":"malformed_request"/);
    }
  }
  assert.deepEqual(ran, []);
  assert.doesNotMatch(await ask(9, "tools/call", '{"a":"\\"__proto__\\":"}'), /malformed_request/); // a text, no member
  assert.equal(ran.length, 1);
});
