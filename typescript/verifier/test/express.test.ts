// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { once } from "node:events";
import { request as ask, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { after, test } from "node:test";
import express from "express";
import { type ExpressApplication, grantOf, guard } from "../src/enforcement/express.ts";
import { sha256 } from "../src/token/chain.ts";
import { mint, type Service, serviceOf } from "./mint.ts";

const TOOLS = {
  "GET /orders/{id}": "orders.get", "POST /orders/{id}/refund": "orders.refund", "GET /stream": "orders.stream",
  "GET /other": "orders.other", "GET /below/{id}": "orders.below",
};
const ran: string[] = [];
let finish = (): void => undefined;

function application(): ExpressApplication {
  const app = express();
  app.use(express.json());
  app.get("/healthz", (_req, res) => void res.send("well"));
  app.get("/orders/new", (_req, res) => void (ran.push("new"), res.send("new")));
  app.get("/orders/:id", (req, res) => void res.json({ id: req.params.id, by: grantOf(req)?.holder }));
  app.post("/orders/:id/refund", (req, res) => void res.json(req.body));
  app.get("/stream", (_req, res) => {
    res.write("first");
    finish = () => void res.end("last");
  });
  app.get("/other", (_req, _res, next) => next("route"));
  const below = express.Router();
  below.get("/:id", (req, res) => void res.send(`below ${req.params.id}`));
  app.use("/below", below);
  app.get("/{*rest}", (_req, res) => void (ran.push("rest"), res.send("rest")));
  return app as unknown as ExpressApplication;
}

const service: Service = serviceOf();
const server: Server = guard(application(), service.verifier, { tools: TOOLS, public: ["GET /healthz"] });
await once(server.listen(0, "127.0.0.1"), "listening");
const { port } = server.address() as AddressInfo;
after(() => server.close());

/** Send a request with a token that is signed for it; each part may be replaced. */
async function send(method: string, target: string, body = "", headers: Record<string, string> = {}): Promise<[number, string]> {
  const http = { method, target, bodyDigest: sha256(body) };
  const token = mint([{ tool: "*" }], { tool: "", args: {}, at: Date.now(), http });
  const type = body === "" ? {} : { "content-type": "application/json" };
  const sent = ask({ port, method, path: target, headers: { authorization: `Bearer ${token}`, ...type, ...headers } });
  sent.end(body);
  const [answer] = await once(sent, "response");
  let text = "";
  for await (const part of answer) text += part;
  return [answer.statusCode, text.startsWith("{") && answer.statusCode >= 400 ? JSON.parse(text).code : text];
}

test("an allowed call runs with what was judged", async () => {
  assert.deepEqual(await send("GET", "/orders/o-1"), [200, '{"id":"o-1","by":"acme/support"}']);
  assert.deepEqual(await send("POST", "/orders/o-1/refund", '{"amount":5}'), [200, '{"amount":5}']);
  assert.deepEqual(await send("GET", "/below/b-1"), [200, "below b-1"]);
});

test("a public route needs no token", async () => {
  assert.deepEqual(await send("GET", "/healthz", "", { authorization: "" }), [200, "well"]);
});

for (const [name, method, target, body, headers, status, code] of [
  ["without a token", "GET", "/orders/o-1", "", { authorization: "" }, 401, "missing_token"],
  ["with a login", "GET", "/orders/o-1", "", { authorization: "Basic x" }, 401, "missing_token"],
  ["with two tokens", "GET", "/orders/o-1", "", { authorization: "Bearer x y" }, 401, "malformed"],
  ["to a route without a tool", "GET", "/rest", "", {}, 403, "tool_not_allowed"],
  ["with another method", "HEAD", "/orders/o-1", "", {}, 403, ""],
  ["to another route that Express takes it for", "GET", "/orders/new", "", {}, 403, "tool_not_allowed"],
  ["that a handler passes to another route", "GET", "/other", "", {}, 403, "tool_not_allowed"],
  ["with another case", "GET", "/Orders/o-1", "", {}, 403, "tool_not_allowed"],
  ["with a last slash", "GET", "/orders/o-1/", "", {}, 403, "tool_not_allowed"],
  ["with dots in its path", "GET", "/orders/../orders/o-1", "", {}, 400, "malformed_request"],
  ["with an escaped slash", "GET", "/orders/o%2f1", "", {}, 400, "malformed_request"],
  ["with a name twice in its body", "POST", "/orders/o-1/refund", '{"amount":5,"amount":50}', {}, 400, "malformed_request"],
  ["with a byte-order mark", "POST", "/orders/o-1/refund", '\ufeff{"amount":5}', {}, 400, "malformed_request"],
  ["in UTF-16", "POST", "/orders/o-1/refund", "{}", { "content-type": "application/json; charset=utf-16" }, 400, "malformed_request"],
  ["of a form", "POST", "/orders/o-1/refund", "a=1", { "content-type": "application/x-www-form-urlencoded" }, 400, "malformed_request"],
  ["compressed", "POST", "/orders/o-1/refund", "{}", { "content-encoding": "gzip" }, 400, "malformed_request"],
  ["with an argument in two places", "POST", "/orders/o-1/refund", '{"id":"o-2"}', {}, 400, "malformed_request"],
  ["with an argument where the route has none", "POST", "/orders/o-1/refund?amount=5", "{}", {}, 400, "malformed_request"],
] as const) {
  test(`a request ${name} is refused, and nothing runs`, async () => {
    ran.length = 0;
    assert.deepEqual(await send(method, target, body, headers), [status, code]);
    assert.deepEqual(ran, []);
  });
}

test("a token of another request is refused", async () => {
  const http = { method: "GET", target: "/orders/o-2", bodyDigest: sha256("") };
  const token = mint([{ tool: "*" }], { tool: "", args: {}, at: Date.now(), http });
  assert.deepEqual(await send("GET", "/orders/o-1", "", { authorization: `Bearer ${token}` }), [401, "proof_invalid"]);
});

test("an upgrade is refused", async () => {
  const sent = ask({ port, path: "/orders/o-1", headers: { connection: "upgrade", upgrade: "websocket" } });
  sent.end();
  const [answer] = await once(sent, "response");
  assert.equal(answer.statusCode, 403);
  answer.resume();
});

test("a handler that lets no timer run is stopped at a write", async () => {
  const { verifier, view } = serviceOf();
  const app = express();
  app.get("/spin", async (_req, res) => {
    await new Promise((resolve) => res.write("before", resolve));
    view.kill("task:t-1");
    for (const end = performance.now() + 60; performance.now() < end; ) await null;
    res.write("after");
    res.end();
  });
  const spinning = guard(app, verifier, { tools: { "GET /spin": "orders.spin" } });
  after(() => spinning.close());
  await once(spinning.listen(0, "127.0.0.1"), "listening");
  const http = { method: "GET", target: "/spin", bodyDigest: sha256("") };
  const token = mint([{ tool: "*" }], { tool: "", args: {}, at: Date.now(), http });
  const to = (spinning.address() as AddressInfo).port;
  const sent = ask({ port: to, path: "/spin", headers: { authorization: `Bearer ${token}` } });
  sent.end();
  const [answer] = await once(sent, "response");
  let text = "";
  answer.on("data", (part: Buffer) => (text += part));
  answer.once("error", () => undefined);
  await new Promise((resolve) => answer.once("close", resolve));
  assert.deepEqual([text, answer.complete], ["before", false]);
});

test("from a kill on no byte of an open response leaves", async () => {
  const http = { method: "GET", target: "/stream", bodyDigest: sha256("") };
  const token = mint([{ tool: "*" }], { tool: "", args: {}, at: Date.now(), http });
  const sent = ask({ port, path: "/stream", headers: { authorization: `Bearer ${token}` } });
  sent.end();
  const [answer] = await once(sent, "response");
  const [first] = await once(answer, "data");
  service.view.kill("task:t-1");
  let rest = "";
  answer.on("data", (part: Buffer) => (rest += part));
  answer.once("error", () => undefined);
  await new Promise((resolve) => answer.once("close", resolve));
  finish();
  assert.deepEqual([String(first), rest, answer.complete], ["first", "", false]);
});
