// SPDX-License-Identifier: Apache-2.0
/**
 * `node test/applications.ts COUNT [FIRST]` guards random applications of Express, sends each random requests, and
 * compares what ran with what was judged.  It ends with 1 at the first difference.
 */

import { once } from "node:events";
import { Agent, createServer, request as ask, type IncomingMessage, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import express from "express";
import { type ExpressApplication, grantOf, guard } from "../src/enforcement/express.ts";
import { RouteMap } from "../src/enforcement/routes.ts";
import { SettingsError } from "../src/errors.ts";
import { mint, serviceOf } from "./mint.ts";

const [LITERALS, NAMES, METHODS] = [["orders", "export", "latest", "7", "x.y"], ["id", "kind", "n"], ["get", "post", "delete"]] as const;
const REQUESTS = 20;

type Method = (typeof METHODS)[number] | "all";
/** What ran, with all that it got. */
interface Ran { readonly method: Method; readonly path: string; readonly got: Record<string, unknown>; readonly by: string | undefined }

/** The same seed gives the same numbers. */
class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed;
  }

  below(most: number): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0; // mulberry32
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) % most;
  }

  chance(percent: number): boolean {
    return this.below(100) < percent;
  }

  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)] as T;
  }
}

/** An application; the same seed draws its twin, which has no guard. */
class Drawn {
  readonly app: express.Express;
  readonly routes: { readonly method: Method; readonly path: string }[] = [];
  ran: Ran[] = [];
  readonly #random: Random;

  constructor(seed: number) {
    this.#random = new Random(seed);
    this.app = this.#configured(express());
    this.app.use(express.json({ strict: false }), express.urlencoded({ extended: true }));
    this.#fill(this.app, "", 3, [...NAMES]);
  }

  #configured(app: express.Express): express.Express {
    for (const name of ["case sensitive routing", "strict routing"]) if (this.#random.chance(30)) app.enable(name);
    return app.set("query parser", this.#random.pick(["simple", "extended"]));
  }

  #fill(router: express.Router, before: string, deep: number, names: string[]): void {
    for (let left = 2 + this.#random.below(4); left > 0; left -= 1) {
      if (deep > 0 && this.#random.chance(30)) this.#mount(router, before, deep, names);
      else if (this.#random.chance(20)) this.#around(router);
      else if (this.#random.chance(12)) this.#odd(router);
      else this.#route(router, before, [...names]);
    }
  }

  #mount(router: express.Router, before: string, deep: number, names: string[]): void {
    const rest = [...names];
    const path = this.#random.chance(20) ? "" : this.#path(1, rest);
    const [caseSensitive, strict, mergeParams] = [30, 30, 50].map((percent) => this.#random.chance(percent));
    const inner = this.#random.chance(30) ? this.#configured(express()) : express.Router({ caseSensitive, strict, mergeParams } as object);
    this.#fill(inner, before + path, deep - 1, rest);
    if (path === "") router.use(inner);
    else router.use(path, inner);
  }

  /** A middleware that may do what a caller's header names. */
  #around(router: express.Router): void {
    const kind = this.#random.below(4);
    router.use((req, _res, next) => {
      const { "x-method": method, "x-url": url, "x-next": word } = req.headers;
      if (kind === 0 && typeof method === "string") req.method = method;
      if (kind === 1 && typeof url === "string") req.url = url;
      if (kind === 2 && word === "router") return next("router");
      return next();
    });
  }

  /** Routes that no line of a map can name. */
  #odd(router: express.Router): void {
    const path = this.#random.pick<string | RegExp | string[]>([
      "/orders{/:id}", "/{*rest}", /^\/(orders|export)/, ["/orders/:id", "/latest"], "/:id.:kind", "/orders/:id/",
    ]);
    const saw = this.#saw("all", `odd ${path}`);
    if (this.#random.chance(50)) router.get(path, saw);
    else router.all(path, saw);
  }

  #route(router: express.Router, before: string, names: string[]): void {
    const path = this.#random.chance(10) ? "/" : this.#path(3, names, true);
    const method: Method = this.#random.chance(10) ? "all" : this.#random.pick(METHODS);
    const whole = path === "/" && before !== "" ? before : before + path;
    this.routes.push({ method, path: whole });
    router[method](path, this.#saw(method, whole));
  }

  #saw(method: Method, path: string): express.RequestHandler {
    return (req, res, next) => {
      const word = req.headers["x-next"];
      if (word === "route" || word === "router") return next(word);
      if (word === "next") return next();
      const params = Object.entries(req.params).map(([name, value]) => [name, Array.isArray(value) ? value.join("/") : value]);
      const got = { ...Object.fromEntries(params), ...req.query, ...req.body };
      this.ran.push({ method, path, got, by: grantOf(req)?.tool });
      res.json({});
    };
  }

  #path(most: number, names: string[], rest = false): string {
    const parts: string[] = [];
    for (let left = 1 + this.#random.below(most); left > 0; left -= 1) {
      if (names.length === 0 || this.#random.chance(50)) parts.push(this.#random.pick(LITERALS));
      else parts.push(`:${names.splice(this.#random.below(names.length), 1)[0]}`);
    }
    if (rest && this.#random.chance(10)) parts.push("*rest");
    return `/${parts.join("/")}`;
  }
}

const keyOf = (method: string, path: string): string => `${method.toUpperCase()} ${path}`;

/** Draw which routes have a tool, a route at most one. */
function draw(routes: Drawn["routes"], random: Random): { tools: Record<string, string>; open: string[]; named: Map<string, string> } {
  const [tools, open, named]: [Record<string, string>, string[], Map<string, string>] = [{}, [], new Map()];
  for (const { method, path } of routes) {
    const verb = method === "all" ? random.pick(METHODS) : method;
    const line = keyOf(verb, path.replace(/\*rest/, "{rest:path}").replace(/:(\w+)/g, "{$1}").replace("{rest{path}}", "{rest:path}"));
    if (random.chance(25) || Object.hasOwn(tools, line) || open.includes(line)) continue;
    const tool = `orders.r${named.size}`;
    try {
      new RouteMap({ ...tools, ...Object.fromEntries(open.map((each) => [each, "public"])), [line]: tool });
    } catch (error) {
      if (error instanceof SettingsError) continue; // it overlaps with another one
      throw error;
    }
    if (random.chance(10)) open.push(line);
    else tools[line] = tool;
    named.set(keyOf(verb, path), open.includes(line) ? "public" : tool);
  }
  return { tools, open, named };
}

interface Asked { readonly method: string; readonly target: string; readonly body: string; readonly headers: Record<string, string>; readonly isPlain: boolean }

function drawRequest(routes: Drawn["routes"], random: Random): Asked {
  const { method, path } = random.pick(routes);
  const values = ["1", "7", "orders", "latest", "a.b", "O-1"];
  let target = path.replace(/\*rest/, () => `${random.pick(values)}/${random.pick(values)}`).replace(/:\w+/g, () => random.pick(values));
  let verb = (method === "all" ? random.pick(METHODS) : method).toUpperCase();
  const isPlain = random.chance(40);
  const headers: Record<string, string> = {};
  let body = verb === "POST" ? random.pick(["", '{"amount":5}']) : "";
  if (!isPlain) {
    const odd = (): string => random.pick(["%2F", "%2e", "/", "//", "/.", "/../orders", "%6f", "%C3%A9", ";x", "%00", "%", "%25", "/ORDERS", "\\", "é"]);
    if (random.chance(50)) target = target.split("").map((one) => (random.chance(8) ? random.pick([one.toUpperCase(), escaped(one), odd()]) : one)).join("");
    if (random.chance(30)) target += random.pick(["/", "?", "?q=1", "?q=1&q=2", "?id=9", "?q[a]=1", "?q.a=1", "?__proto__=1", "#x", "?q=%zz", "?q=+"]);
    if (random.chance(20)) verb = random.pick(["GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT"]);
    if (random.chance(15)) headers["x-method"] = random.pick(["GET", "POST", "DELETE"]);
    if (random.chance(15)) headers["x-url"] = random.pick(["/orders/1", "/7", "/latest/orders", "/export?q=2"]);
    if (random.chance(30)) headers["x-next"] = random.pick(["route", "router", "next"]);
    if (random.chance(30)) body = random.pick(['{"amount":5,"amount":6}', '{"id":"o"}', "a[b]=1", "{", '"x"', "[1]", "\ufeff{}", '{"__proto__":{"a":1}}']);
    if (body !== "") headers["content-type"] = random.pick(["application/json", "application/json; charset=utf-16", "application/x-www-form-urlencoded"]);
  } else if (body !== "") headers["content-type"] = "application/json";
  return { method: verb, target: Buffer.from(target).toString("latin1"), body, headers, isPlain };
}

function escaped(one: string): string {
  return `%${one.charCodeAt(0).toString(16)}`;
}

class Confused extends Error {}

/** Compare what ran with what was judged; `bare` is what runs of the twin. */
function compare(named: Map<string, string>, asked: Asked, ran: Ran[], bare: Ran[], status: number): void {
  for (const { method, path, got, by } of ran) {
    const tool = named.get(keyOf(asked.method, path));
    if (tool === undefined || (by ?? "public") !== tool) throw new Confused(`${method} ${path} ran as ${by}`);
    if (method !== "all" && method.toUpperCase() !== asked.method) throw new Confused(`${method} ran for ${asked.method}`);
    if (by === undefined) continue;
    for (const [name, value] of Object.entries(got)) {
      if (JSON.stringify(JUDGED.get(name)) !== JSON.stringify(value)) throw new Confused(`${path} got ${name}=${JSON.stringify(value)}`);
    }
  }
  if (ran.length > 1) throw new Confused("two routes ran for one decision");
  const [only] = bare;
  if (asked.isPlain && only !== undefined && ran.length === 0 && status !== 400) {
    if (named.has(keyOf(asked.method, only.path))) throw new Confused(`${only.path} was refused without a reason: ${status}`);
  }
}

let JUDGED = new Map<string, unknown>();
const service = serviceOf();
let token = "";
const authorize = service.verifier.authorize.bind(service.verifier);
service.verifier.authorize = (credential, request) => {
  JUDGED = new Map(Object.entries(request.args));
  return authorize(credential, request);
};

let current: Server | undefined;
let twin: express.Express | undefined;
const front = createServer((request, response) => current?.emit("request", request, response));
const behind = createServer((request, response) => void twin?.(request, response));
await Promise.all([front, behind].map((server) => once(server.listen(0, "127.0.0.1"), "listening")));
const agent = new Agent({ keepAlive: true });

async function send(server: Server, { method, target, body, headers }: Asked): Promise<number> {
  const { port } = server.address() as AddressInfo;
  const length = String(Buffer.byteLength(body)); // without it the body of a GET would be another request
  const sent = ask({ port, method, path: target, agent, headers: { authorization: `Bearer ${token}`, "content-length": length, ...headers } });
  sent.end(body);
  const [answer] = (await once(sent, "response")) as [IncomingMessage];
  answer.resume();
  await once(answer, "end");
  return answer.statusCode ?? 0;
}

const [count = 300, first = 1] = process.argv.slice(2).map(Number);
const seen = { applications: 0, requests: 0, ran: 0, refused: 0 };
console.error = () => undefined; // Express prints each error of a parser
for (let seed = first; seed < first + count; seed += 1) {
  const [drawn, bare, random] = [new Drawn(seed), new Drawn(seed), new Random(-seed)];
  if (drawn.routes.length === 0) continue;
  const { tools, open, named } = draw(drawn.routes, random);
  current = guard(drawn.app as unknown as ExpressApplication, service.verifier, { tools, public: open });
  twin = bare.app;
  seen.applications += 1;
  token = mint([{ tool: "*" }]); // one lives for an hour
  for (let left = REQUESTS; left > 0; left -= 1) {
    const asked = drawRequest(drawn.routes, random);
    [drawn.ran, bare.ran, JUDGED] = [[], [], new Map()];
    let status: number;
    try {
      status = await send(front, asked);
      if (asked.isPlain) await send(behind, asked);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ERR_UNESCAPED_CHARACTERS") continue; // no client sends this
      throw error;
    }
    try {
      compare(named, asked, drawn.ran, bare.ran, status);
    } catch (error) {
      process.stdout.write(`seed ${seed}: ${(error as Error).message}: ${JSON.stringify({ asked, tools, open, ran: drawn.ran, bare: bare.ran }, null, 1)}\n`);
      process.exit(1);
    }
    seen.requests += 1;
    seen.ran += drawn.ran.length;
    seen.refused += drawn.ran.length === 0 ? 1 : 0;
  }
}
// A run that runs next to nothing would find nothing.
if (seen.ran < seen.requests / 10) throw new Error(`too little ran: ${JSON.stringify(seen)}`);
process.stdout.write(`${JSON.stringify(seen)}; 0 confused\n`);
process.exit(0);
