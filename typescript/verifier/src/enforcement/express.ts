// SPDX-License-Identifier: Apache-2.0
// Guard an application of Express 5: each request is decided before any part of the application runs.  SPEC 8.4, 11.

import { createServer, IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { Duplex } from "node:stream";
import { type Code, Refusal } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import { SettingsError } from "../revocation/errors.ts";
import { sha256 } from "../token/chain.ts";
import type { Decision, Grant } from "../verification/grant.ts";
import type { Verifier } from "../verification/verifier.ts";
import { problemOf } from "./problems.ts";
import { merge, readArguments, RouteMap } from "./routes.ts";

type Listener = (request: IncomingMessage, response: ServerResponse) => void;
interface Dispatcher { path: unknown; dispatch(request: IncomingMessage, response: ServerResponse, done: unknown): void }
/** The part of an application of Express that is used here. */
export type ExpressApplication = Listener & { route(path: string): unknown };

export interface GuardOptions {
  /** The tool of each route, such as `{ "GET /orders/{id}": "orders.get" }`; any other route is refused. */
  readonly tools: { readonly [route: string]: string };
  /** Routes that need no token. */
  readonly public?: readonly string[];
  /** The longest body, bytes. */
  readonly maxBody?: number;
}

const PUBLIC = "public";
const CHECK_MS = 50; // least time between two checks of an open response at its writes
const ONCE = ["authorization", "content-type", "content-encoding"];
const ROUTES = new WeakMap<IncomingMessage, string>(); // of each request, the route that was decided
const REFUSERS = new WeakMap<IncomingMessage, (code: Code) => void>();
const GRANTS = new WeakMap<IncomingMessage, Grant>();
const GUARDED = new WeakSet<object>();

/** Return the grant of a request that was decided; undefined on a public route. */
export function grantOf(request: IncomingMessage): Grant | undefined {
  return GRANTS.get(request);
}

/** Return a server for an application whose routes all have a tool or are public. */
export function guard(app: ExpressApplication, verifier: Verifier, options: GuardOptions): Server {
  const open = options.public ?? [];
  const routes = new RouteMap({ ...Object.fromEntries(open.map((route) => [route, PUBLIC])), ...options.tools });
  if (open.some((route) => Object.hasOwn(options.tools, route))) throw new SettingsError("a route is public and has a tool");
  holdDispatch(app);
  const most = options.maxBody ?? 1 << 20;
  const server = createServer((request, response) => {
    serve(app, verifier, routes, new Set(open), most, request, response).catch((error: unknown) => {
      const refuse = (code: Code): void => answer(response, verifier, { ...verifier.refuseUnproven(code, peerOf(request)) });
      refuse(error instanceof Refusal ? error.code : "closed");
    });
  });
  server.on("upgrade", (_request: IncomingMessage, socket: Duplex) => {
    socket.end("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"); // no route of Express sees it
  });
  return server;
}

async function serve(
  app: Listener, verifier: Verifier, routes: RouteMap, open: ReadonlySet<string>, most: number,
  request: IncomingMessage, response: ServerResponse,
): Promise<void> {
  const { method = "", url = "" } = request;
  const headers = headersOf(request);
  const body = await bodyOf(request, most);
  const meaning = routes.find(method, url);
  if (meaning === undefined) throw new Refusal("tool_not_allowed");
  const replayed = replay(request, body);
  ROUTES.set(replayed, meaning.route);
  REFUSERS.set(replayed, (code) => answer(response, verifier, verifier.refuseUnproven(code, peerOf(request))));
  if (open.has(meaning.route)) return app(replayed, response);
  const args = merge(meaning.args, readArguments(body, headers.get("content-type") ?? "", headers.get("content-encoding") ?? ""));
  const http = { method, target: url, bodyDigest: sha256(body) };
  const asked = { tool: meaning.tool, args, at: verifier.clock(), peer: peerOf(request), http };
  const decision = await verifier.authorize(tokenOf(headers.get("authorization")), asked);
  if (decision.grant === undefined) return answer(response, verifier, decision);
  GRANTS.set(replayed, decision.grant);
  watch(response, decision.grant, (code) => answer(response, verifier, { ...decision, code, failures: [] }));
  return app(replayed, response);
}

/** Let no byte leave once the grant has ended: checked at each write, and by a timer. */
function watch(response: ServerResponse, grant: Grant, refuse: (code: Code) => void): void {
  const { write, end, flushHeaders } = response;
  let [checked, over] = [Number.NEGATIVE_INFINITY, false];
  const stop = (code: Code): void => {
    if (over) return;
    over = true;
    clearInterval(timer);
    Object.assign(response, { write, end, flushHeaders });
    if (response.headersSent) response.destroy(); // not the end of a whole answer
    else refuse(code);
    Object.assign(response, { write: () => false, end: () => response, flushHeaders: () => undefined });
  };
  const timer = setInterval(() => {
    const code = grant.recheck();
    if (code !== undefined && (response.headersSent || grant.signal.aborted)) stop(code);
  }, LIMITS.recheck);
  response.once("close", () => clearInterval(timer));
  const checkedly = (run: (...words: never[]) => unknown) => (...words: never[]): unknown => {
    const now = performance.now();
    const code = response.headersSent && now - checked < CHECK_MS ? undefined : grant.recheck();
    if (code === undefined) {
      checked = now;
      return run.apply(response, words);
    }
    stop(code);
    return false;
  };
  Object.assign(response, { write: checkedly(write), end: checkedly(end), flushHeaders: checkedly(flushHeaders) });
}

/** Let Express dispatch a guarded request to no other route than the one that was decided. */
function holdDispatch(app: ExpressApplication): void {
  const probe = Object.getPrototypeOf(app.route("/arx-guard-probe")) as Dispatcher;
  if (GUARDED.has(probe)) return;
  GUARDED.add(probe);
  const { dispatch } = probe;
  probe.dispatch = function (request, response, done): void {
    const route = ROUTES.get(request);
    const { baseUrl = "" } = request as { baseUrl?: string };
    if (route === undefined || isRoute(route, baseUrl, this.path)) return dispatch.call(this, request, response, done);
    REFUSERS.get(request)?.("tool_not_allowed");
  };
}

function isRoute(route: string, baseUrl: string, path: unknown): boolean {
  if (typeof path !== "string") return false;
  const wanted = route.slice(route.indexOf(" ") + 1).replace(/\?.*$/, "").split("/").slice(1);
  const above = baseUrl.split("/").slice(1);
  const own = path === "/" && above.length > 0 ? [] : path.split("/").slice(1);
  const plain = wanted.slice(above.length).map((part) => part.replace(/^\{(\w+):path\}$/, "*$1").replace(/^\{(\w+)(?::\w+)?\}$/, ":$1"));
  return wanted.length === above.length + own.length && plain.every((part, at) => part === own[at]);
}

function answer(response: ServerResponse, { realm }: Verifier, { code, failures, id }: Decision): void {
  if (response.headersSent || response.destroyed || code === "ok") return void response.destroy();
  const { status, headers, body } = problemOf(code, realm, failures, id);
  response.writeHead(status, headers).end(response.req.method === "HEAD" ? undefined : body);
}

function headersOf({ rawHeaders }: IncomingMessage): Map<string, string> {
  const made = new Map<string, string>();
  for (let at = 0; at < rawHeaders.length; at += 2) {
    const name = (rawHeaders[at] as string).toLowerCase();
    if (ONCE.includes(name) && made.has(name)) throw new Refusal("malformed_request");
    made.set(name, rawHeaders[at + 1] as string);
  }
  return made;
}

function tokenOf(header: string | undefined): string | undefined {
  return header === undefined ? undefined : (/^bearer +(\S+)$/i.exec(header)?.[1] ?? "");
}

function peerOf({ socket }: IncomingMessage): string | undefined {
  return socket.remoteAddress;
}

async function bodyOf(request: IncomingMessage, most: number): Promise<Buffer> {
  const parts: Buffer[] = [];
  let size = 0;
  for await (const part of request) {
    size += (part as Buffer).length;
    if (size > most) throw new Refusal("malformed_request");
    parts.push(part as Buffer);
  }
  return Buffer.concat(parts);
}

/** Return the request with the body that was judged, for the application to read. */
function replay(request: IncomingMessage, body: Buffer): IncomingMessage {
  const made = new IncomingMessage(request.socket);
  const { method, url, httpVersion, httpVersionMajor, httpVersionMinor, rawHeaders, headers } = request;
  Object.assign(made, { method, url, httpVersion, httpVersionMajor, httpVersionMinor, rawHeaders, complete: true });
  made.headers = headers;
  if (body.length > 0) made.push(body);
  made.push(null);
  return made;
}

