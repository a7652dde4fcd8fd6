// SPDX-License-Identifier: Apache-2.0
// What the guards of Express, of MCP and of functions do at the edges of their checks.

import assert from "node:assert/strict";
import { once } from "node:events";
import { request as ask } from "node:http";
import type { AddressInfo } from "node:net";
import { after, mock, test } from "node:test";
import { InMemoryTransport } from "@modelcontextprotocol/sdk/inMemory.js";
import express from "express";
import { type ExpressApplication, guard, type GuardOptions } from "../src/enforcement/express.ts";
import { guardTransport } from "../src/enforcement/mcp.ts";
import { effectOf } from "../src/enforcement/messages.ts";
import { currentGrant, protect } from "../src/enforcement/protect.ts";
import { RouteMap } from "../src/enforcement/routes.ts";
import { refusalText } from "../src/enforcement/texts.ts";
import { Refusal, SettingsError } from "../src/errors.ts";
import { mint, serviceOf } from "./mint.ts";

const ANY = mint([{ tool: "*" }]);

async function served(app: unknown, options: GuardOptions, service = serviceOf()): Promise<number> {
  const server = guard(app as ExpressApplication, service.verifier, options);
  await once(server.listen(0, "127.0.0.1"), "listening");
  after(() => server.close().closeAllConnections());
  return (server.address() as AddressInfo).port;
}

/** Send a request; the text ends with "!" if the answer was cut. */
async function send(port: number, method: string, path: string, body: string, headers: Record<string, string | string[]>): Promise<[number, string]> {
  const sent = ask({ port, method, path, headers: { "content-length": String(body.length), ...headers } });
  sent.end(body);
  const [answer] = await once(sent, "response");
  let text = "";
  answer.on("data", (part: Buffer) => (text += part));
  answer.on("error", () => undefined);
  await new Promise((resolve) => answer.once("close", resolve));
  return [answer.statusCode, answer.complete ? text : `${text}!`];
}

test("a route that is public and has a tool is an error at start", () => {
  const options = { tools: { "GET /a": "a.get" }, public: ["GET /a"] };
  assert.throws(() => guard(express() as unknown as ExpressApplication, serviceOf().verifier, options), SettingsError);
});

test("an option that is unknown, or of another form, is an error at start", () => {
  const app = express() as unknown as ExpressApplication;
  const { verifier } = serviceOf();
  for (const more of [{ pubilc: ["GET /a"] }, { maxBody: Number.NaN }, { maxBody: "1mb" }]) {
    assert.throws(() => guard(app, verifier, { tools: { "GET /b": "b.get" }, ...more } as GuardOptions), SettingsError, JSON.stringify(more));
  }
  assert.throws(() => serviceOf(undefined, "refund" as never), SettingsError); // a text is a list of letters
});

test("a header that is judged occurs once, and a body has its longest length", async () => {
  const app = express().post("/orders", (_req, res) => void res.send("ran"));
  const port = await served(app, { tools: { "POST /orders": "orders.add" }, maxBody: 7 });
  const [authorization, json] = [`Bearer ${ANY}`, "application/json"];
  const code = async (body: string, headers: Record<string, string | string[]>): Promise<string> => {
    const [status, text] = await send(port, "POST", "/orders", body, headers);
    return status === 200 ? text : JSON.parse(text).code;
  };
  assert.equal(await code('{"a":1}', { authorization, "content-type": json }), "ran");
  for (const [body, headers] of [
    ['{"a":1}', { authorization: [authorization, authorization], "content-type": json }],
    ['{"a":1}', { authorization, "content-type": [json, json] }],
    ['{"a":1}', { authorization, "content-type": json, "content-encoding": ["identity", "identity"] }],
    ['{"a":12}', { authorization, "content-type": json }],
    ['{"a":1}', { authorization, "content-type": "text/plain" }],
  ] as const) assert.equal(await code(body, headers as Record<string, string | string[]>), "malformed_request", JSON.stringify(headers));
});

test("without a setting a body has at most 1 MiB", async () => {
  const app = express().post("/orders", (_req, res) => void res.send("ran"));
  const port = await served(app, { tools: { "POST /orders": "orders.add" } });
  const headers = { authorization: `Bearer ${ANY}`, "content-type": "application/json" };
  for (const [size, status] of [[2 ** 20, 200], [2 ** 20 + 1, 400]] as const) {
    const body = `{"a":"${"x".repeat(size - 8)}"}`;
    assert.equal((await send(port, "POST", "/orders", body, headers))[0], status, String(body.length));
  }
});

test("the network of a limit is that of the connection", async () => {
  const app = express().get("/orders", (_req, res) => void res.send("ran"));
  for (const [net, status] of [["127.0.0.0/8", 200], ["10.0.0.0/8", 403]] as const) {
    const port = await served(app, { tools: { "GET /orders": "orders.get" } }, serviceOf({ net: [net] }));
    assert.equal((await send(port, "GET", "/orders", "", { authorization: `Bearer ${ANY}` }))[0], status);
  }
});

test("a router has its path, with or without a slash, and none behind it has that", async () => {
  const [empty, router] = [express.Router(), express.Router()];
  router.get("/:id", (_req, res) => void res.send("one")).get("/", (_req, res) => void res.send("all"));
  const app = express().use("/new", empty).get("/new/a", (_req, res) => void res.send("new")).use("/orders/", router);
  app.get("/files/*rest", (req, res) => void res.send(req.params["rest"]?.toString()));
  app.get(/others/, (_req, res) => void res.send("pattern"));
  const tools = {
    "GET /orders": "orders.list", "GET /new/a": "orders.new", "GET /orders/{id:int}": "orders.get",
    "GET /files/{rest:path}": "orders.file", "GET /others/": "orders.others",
  };
  const port = await served(app, { tools });
  const headers = { authorization: `Bearer ${ANY}` };
  for (const [target, text] of [["/orders", "all"], ["/new/a", "new"], ["/orders/1", "one"], ["/files/a/b", "a,b"]] as const) {
    assert.deepEqual(await send(port, "GET", target, "", headers), [200, text]);
  }
  assert.equal((await send(port, "GET", "/others/", "", headers))[0], 403); // a pattern is no path
});

test("an error of the program is no refusal of the token", async () => {
  const service = serviceOf();
  service.recorder.append = () => {
    throw new TypeError("a fault");
  };
  const app = express().get("/orders", (_req, res) => void res.send("ran"));
  const port = await served(app, { tools: { "GET /orders": "orders.get" } }, service);
  const [status, text] = await send(port, "GET", "/orders", "", { authorization: `Bearer ${ANY}` });
  assert.deepEqual([status, JSON.parse(text).code], [503, "closed"]);
});

test("an answer that a middleware began before the refusal is cut", async () => {
  let ran = 0;
  const app = express();
  app.use((_req, res, next) => (res.write("begun"), next()));
  app.get("/orders/new", (_req, res) => void (ran += 1, res.end("new")));
  const port = await served(app, { tools: { "GET /orders/{id}": "orders.get" } });
  await assert.rejects(send(port, "GET", "/orders/new", "", { authorization: `Bearer ${ANY}` }), { code: "ECONNRESET" });
  assert.equal(ran, 0);
});

test("a refusal is whole, although a handler kept a method of its response", async () => {
  const service = serviceOf();
  const app = express().get("/orders", (_req, res) => {
    const { write } = res;
    service.view.kill("session:s-1");
    res.send("secret");
    (write as (part: string) => boolean).call(res, "secret");
  });
  const port = await served(app, { tools: { "GET /orders": "orders.get" } }, service);
  const [status, text] = await send(port, "GET", "/orders", "", { authorization: `Bearer ${ANY}` });
  assert.deepEqual([status, JSON.parse(text).code], [401, "revoked"]);
});

test("a field of a query may have no name, or no value", () => {
  const find = (query: string) => new RouteMap({ "GET /a": "a.get" }).find("GET", `/a?${query}`)?.args;
  assert.deepEqual({ ...find("=x&b=&c") }, { "": "x", b: "", c: "" });
});

test("a target has one meaning, and a route one form", () => {
  const routes = new RouteMap({ "GET /a": "a.list", "GET /a/{n:int}": "a.get", "GET /f/{rest:path}": "f.get" });
  const find = (target: string) => routes.find("GET", target)?.args;
  assert.deepEqual({ ...find("/a/-9007199254740991") }, { n: -9007199254740991 });
  assert.deepEqual({ ...find("/a/-9007199254740992") }, { n: "-9007199254740992" });
  assert.deepEqual({ ...find("/f/x") }, { rest: "x" });
  for (const target of ["/f/%3bv=2", "/f/%ff", "/a?x=%zz", "/a?x=%ff", "/a/7.0", "?x"]) {
    assert.throws(() => find(target), (error) => error instanceof Refusal && error.code === "malformed_request", target);
  }
  for (const route of ["get /a", "GET a", "GET /a//b", "GET /a/../b", "GET /{x}/{x}", "GET /{x:path}/b", "GET /{x}?{x}", "GET /a?", "GET ?{x}"]) {
    assert.throws(() => new RouteMap({ [route]: "a.get" }), SettingsError, route);
  }
  assert.throws(() => new RouteMap({ "GET /a": "a get" }), SettingsError);
  assert.throws(() => new RouteMap({ "GET /a/{n}": "a.get", "GET /{b}/c": "a.get" }), SettingsError);
});

test("a text for a model has the end, the shape and the length of a refusal", () => {
  const failure = (rule: string, came: string) => [{ place: "caveat 1", rule, expected: "x", came }];
  assert.match(refusalText("revoked", [], "get", "d-1"), /^An operator ended this work.*\(decision d-1\)$/);
  assert.match(refusalText("argument_not_allowed", failure("shape", "no amount"), "get", ""), /^get was refused: no amount\. /);
  const long = (size: number): string => refusalText("argument_not_allowed", failure("shape", "x".repeat(size)), "get", "");
  assert.match(long(600), /: x{600}\. /);
  assert.match(long(601), /: x{599}…\. /);
});

test("the effect of a call is known by its answer, but for a task and a question", () => {
  for (const [result, effect] of [
    [{}, "done"], [{ isError: false }, "done"], [{ isError: true }, "failed"], [undefined, "failed"], [{ resultType: "complete" }, "done"],
    [{ task: { taskId: "7" } }, "unknown"], [{ resultType: "input_required" }, "unknown"],
  ] as const) assert.equal(effectOf({ result }), effect, JSON.stringify(result));
});

test("a function is guarded from its name to its result", async () => {
  const service = serviceOf();
  assert.throws(() => currentGrant(), /no guarded call/);
  assert.throws(() => protect(service.verifier, "orders get", () => 1), SettingsError);
  const killed = protect(service.verifier, "orders.get", () => (service.view.kill("session:s-1"), "secret"));
  await assert.rejects(killed(ANY, {}), (error) => error instanceof Refusal && error.code === "revoked");
});

interface Line { readonly id?: unknown; readonly method?: string; readonly params?: { readonly _meta: { readonly as: string } }; readonly result?: unknown; readonly error?: { readonly data?: { readonly code: string } } }

interface Meant { readonly _meta?: object; readonly [name: string]: unknown }

/** A guarded transport, what its server got and what its client got. */
async function linked(service = serviceOf()) {
  const [near, far] = InMemoryTransport.createLinkedPair();
  const transport = guardTransport(far, service.verifier);
  const [asked, got]: [Line[], Line[]] = [[], []];
  near.onmessage = (message) => void got.push(message as Line);
  transport.onmessage = (message) => void asked.push(message as Line);
  await Promise.all([near.start(), transport.start()]);
  const client = async (method: string, id: string | undefined, { _meta, ...params }: Meant = {}): Promise<void> => {
    const meta = { "dev.arx/cap": ANY, as: id, ..._meta };
    await near.send({ jsonrpc: "2.0", method, params: { _meta: meta, ...params }, ...(id === undefined ? {} : { id }) } as never);
  };
  const inner = (id: string): number => asked.find(({ params }) => params?._meta.as === id)?.id as number ?? 99;
  const call = (id: string): Promise<void> => client("tools/call", id, { name: "get", arguments: {} });
  const answer = (id: string): Promise<void> => transport.send({ jsonrpc: "2.0", id: inner(id), result: {} });
  return { transport, asked, got, client, call, answer, inner };
}

const settled = (): Promise<void> => new Promise((resolve) => setImmediate(() => setImmediate(resolve)));

test("the server finds its own receiver, and its messages about no request leave", async () => {
  const { transport, got } = await linked();
  const receive = (): void => undefined;
  transport.onmessage = receive;
  assert.equal(transport.onmessage, receive);
  await transport.send({ jsonrpc: "2.0", method: "notifications/tools/list_changed" });
  assert.deepEqual(got.map(({ method }) => method), ["notifications/tools/list_changed"]);
});

test("what is cancelled or closed before its decision does not reach the server", async () => {
  for (const method of ["tools/call", "tools/list"]) {
    const { transport, asked, client } = await linked();
    transport.onclose = () => undefined; // as a server does
    void client(method, "a", { name: "get" });
    await client("notifications/cancelled", undefined, { requestId: "a" });
    await settled();
    assert.deepEqual(asked.map((line) => line.method), ["notifications/cancelled"]);
    void client(method, "b", { name: "get" });
    transport.onclose?.();
    await settled();
    assert.equal(asked.length, 1);
  }
});

test("an answer leaves for a request that waits for it, and for no other", async () => {
  const { asked, got, client, call, answer } = await linked();
  await client("notifications/cancelled", undefined, { requestId: "a" }); // of no request yet
  await call("a");
  await settled();
  await answer("b");
  await answer("a");
  await answer("a");
  assert.deepEqual(got.map(({ id }) => id), ["a"]);
  await call("c");
  await settled();
  await client("notifications/cancelled", undefined, { requestId: "c" });
  await answer("c"); // the SDKs answer no cancelled request; another server may
  assert.deepEqual(got.map(({ id }) => id), ["a"]);
  assert.equal(asked.filter(({ method }) => method === "tools/call").length, 2);
});

test("a list is refused with its token, and an error of it leaves", async () => {
  const { transport, asked, got, client, inner } = await linked();
  await client("tools/list", "a", { _meta: { "dev.arx/cap": `${ANY.slice(0, -4)}AAAA` } });
  await settled();
  assert.deepEqual([got.at(-1)?.error?.data?.code, asked.length], ["bad_signature", 0]);
  await client("tools/list", "b");
  await settled();
  await transport.send({ jsonrpc: "2.0", id: inner("b"), error: { code: -1, message: "no list" } });
  assert.deepEqual([got.at(-1)?.id, asked.length], ["b", 1]);
});

test("a message with no single meaning is refused", async () => {
  const { asked, got, client } = await linked();
  for (const [method, params] of [
    ["tools/call", {}], ["tools/call", { name: "" }], ["tools/call", { name: ["get"] }], ["tools/call", { name: "get", arguments: "a=1" }],
    ["tools/call", { name: "get", arguments: [1] }], ["tools/call", { name: "resources.read", arguments: {} }],
    ["resources/read", { uri: "orders://%31" }], ["resources/read", { uri: "files://a%2fb" }],
  ] as const) {
    await client(method, "x", params);
    await settled();
    assert.match(JSON.stringify(got.pop()), /"malformed_request"/, JSON.stringify(params));
  }
  for (const method of ["orders/purge", "tasks/get", "tasks/result", "sampling/createMessage"]) {
    await client(method, "x");
    assert.match(JSON.stringify(got.pop()), /-32601/);
  }
  assert.deepEqual(asked, []);
});

test("a call that lasts longer than the time between two rechecks goes on", async () => {
  mock.timers.enable({ apis: ["setInterval"] });
  after(() => mock.timers.reset());
  const { got, asked, call, answer } = await linked();
  await call("a");
  await settled();
  mock.timers.tick(10_000);
  assert.equal(asked.length, 1);
  await answer("a");
  assert.deepEqual(got.map(({ result }) => result), [{}]);
});
