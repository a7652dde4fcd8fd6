// SPDX-License-Identifier: Apache-2.0
// A guard of Express 5: each request is decided before the application sees it, as it was sent.  SPEC 8.4.

import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { Duplex } from "node:stream";
import { type Code, Refusal, refuse as fail, SettingsError } from "../errors.ts";
import { sha256 } from "../token/chain.ts";
import type { Grant } from "../verification/grant.ts";
import type { Verifier } from "../verification/verifier.ts";
import { answer, bodyOf, headerOf, replay, tokenOf, watch } from "./http.ts";
import { RouteMap, withBody } from "./routes.ts";

interface Listener { (request: IncomingMessage, response: ServerResponse): void }
interface Application { readonly parent?: Application }
/** A request as a router of Express has changed it. */
type Routed = IncomingMessage & { readonly app?: Application; readonly baseUrl?: string };
interface Dispatcher { path: unknown; dispatch(request: Routed, response: ServerResponse, done: unknown): void }
type Next = (...words: unknown[]) => void;
/** What a router of Express runs: a route, or with a path before that of its routes another router. */
interface Layer {
  readonly route?: unknown;
  readonly slash: boolean;
  readonly rawPath?: unknown;
  handleRequest(request: Routed, response: ServerResponse, next: Next): unknown;
}
/** The part of an application of Express that is used here. */
export interface ExpressApplication extends Listener {
  route(path: string): unknown;
  readonly router: { readonly stack: object[] };
}

export interface GuardOptions {
  /** The tool of each route, such as `{ "GET /orders/{id}": "orders.get" }`; any other route is refused. */
  readonly tools: { readonly [route: string]: string };
  /** Routes that need no token. */
  readonly public?: readonly string[];
  /** The longest body, bytes. */
  readonly maxBody?: number;
}

/** What was decided of a request. */
interface Decided {
  readonly route: string;
  readonly target: string;
  readonly refuse: (code: Code) => void;
  /** The paths of the routers around the next one; undefined if they have no plain form. */
  prefix: string | undefined;
  grant?: Grant;
}

type Serve = (request: IncomingMessage, response: ServerResponse, refuse: Decided["refuse"]) => Promise<void>;

const OPTIONS = ["tools", "public", "maxBody"];
const PUBLIC = "public";
const JUDGED = ["authorization", "content-type", "content-encoding"];
const DECIDED = new WeakMap<IncomingMessage, Decided>();
const APPLICATIONS = new WeakSet<object>();
const GUARDED = new WeakSet<object>();
const PATTERN = /[:*()[\]+!\\]/; // what a path of Express does not mean as it is

/** Return the grant of a request that was decided; undefined on a public route. */
export function grantOf(request: IncomingMessage): Grant | undefined {
  return DECIDED.get(request)?.grant;
}

/** Return a server for an application whose routes all have a tool or are public. */
export function guard(app: ExpressApplication, verifier: Verifier, options: GuardOptions): Server {
  const unknown = Object.keys(options).find((name) => !OPTIONS.includes(name));
  if (unknown !== undefined) throw new SettingsError(`guard has no option ${unknown}`);
  const { maxBody = 1 << 20 } = options;
  if (!Number.isSafeInteger(maxBody)) throw new SettingsError(`expected \`maxBody\` as bytes, got ${maxBody}`);
  const open = new Set(options.public);
  const routes = new RouteMap({ ...Object.fromEntries([...open].map((route) => [route, PUBLIC])), ...options.tools });
  const twice = [...open].find((route) => Object.hasOwn(options.tools, route));
  if (twice !== undefined) throw new SettingsError(`a route is public and has a tool: ${twice}`);
  const odd = [...open, ...Object.keys(options.tools)].find((route) => PATTERN.test(route.replace(/\{[^}]*\}/g, "")));
  if (odd !== undefined) throw new SettingsError(`expected routes as 'GET /orders/{id}', got a pattern: ${odd}`);
  APPLICATIONS.add(app);
  holdDispatch(app);
  const serve: Serve = async (request, response, refuse) => {
    const { method = "", url = "" } = request;
    const [token, type, encoding] = JUDGED.map((name) => headerOf(request, name));
    if (url.includes("#")) throw new Refusal("malformed_request"); // Express ends the target there
    const meaning = routes.find(method, url) ?? fail("tool_not_allowed");
    const { remoteAddress: peer } = request.socket;
    // Nothing of a stranger's body is kept or read.
    const stranger = open.has(meaning.route) ? undefined : verifier.refuseStranger(tokenOf(token), peer);
    if (stranger !== undefined) return answer(response, verifier.realm, stranger);
    const body = await bodyOf(request, maxBody);
    const replayed = replay(request, body);
    // What was judged: a parser of the application may read `a[b]` as a member of `a`.
    Object.defineProperty(replayed, "query", { value: meaning.query, enumerable: true });
    const decided: Decided = { route: meaning.route, target: url, refuse, prefix: "" };
    DECIDED.set(replayed, decided);
    if (open.has(meaning.route)) return app(replayed, response);
    const args = withBody(meaning, body, type, encoding);
    const http = { method, target: url, bodyDigest: sha256(body) };
    const asked = { tool: meaning.tool, args, at: verifier.clock(), peer, http };
    const decision = await verifier.authorize(tokenOf(token), asked);
    if (decision.grant === undefined) return answer(response, verifier.realm, decision);
    decided.grant = decision.grant;
    // What was judged, also if no parser of the application takes its type.
    if (body.length > 0) Object.assign(replayed, { body: JSON.parse(body.toString()) });
    watch(response, decision.grant, (code) => answer(response, verifier.realm, { ...decision, code, failures: [] }));
    return app(replayed, response);
  };
  const server = createServer((request, response) => {
    const peer = request.socket.remoteAddress;
    const refuse = (code: Code): void => answer(response, verifier.realm, verifier.refuseUnproven(code, peer));
    serve(request, response, refuse).catch((error) => refuse(error instanceof Refusal ? error.code : "closed"));
  });
  server.on("upgrade", (_request: IncomingMessage, socket: Duplex) => {
    socket.on("error", () => undefined); // a client that is gone by now must not end the process
    // No route of Express sees it.
    socket.end("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
  });
  return server;
}

/** Let Express dispatch a request of a guarded application to no other route than the one that was decided. */
function holdDispatch(app: ExpressApplication): void {
  const [route, layer] = [app.route("/arx-guard-probe"), app.router.stack.pop()];
  const [routes, layers] = [Object.getPrototypeOf(route) as Dispatcher, Object.getPrototypeOf(layer) as Layer];
  if (GUARDED.has(routes)) return;
  GUARDED.add(routes);
  const { dispatch } = routes;
  routes.dispatch = function (request, response, done): void {
    const decided = DECIDED.get(request);
    if (decided === undefined) {
      if (!isGuarded(request.app)) return dispatch.call(this, request, response, done);
      response.writeHead(403).end(); // another server has the application, or a handler made this request
    } else if (isChanged(request, decided)) decided.refuse("malformed_request");
    else if (isRoute(decided, this.path)) dispatch.call(this, request, response, done);
    else decided.refuse("tool_not_allowed");
  };
  const { handleRequest } = layers;
  layers.handleRequest = function (request, response, next): unknown {
    const decided = DECIDED.get(request);
    if (decided === undefined || this.slash) return handleRequest.call(this, request, response, next);
    const { prefix } = decided;
    if (this.route === undefined) {
      const isPlain = prefix !== undefined && typeof this.rawPath === "string";
      decided.prefix = isPlain ? `${prefix}${this.rawPath}`.replace(/\/+$/, "") : undefined;
    }
    return handleRequest.call(this, request, response, (...words) => {
      decided.prefix = prefix;
      next(...words);
    });
  };
}

function isGuarded(app: Application | undefined): boolean {
  return app !== undefined && (APPLICATIONS.has(app) || isGuarded(app.parent));
}

/** Return whether something between has changed method, path or query, such as for a header that names a method. */
function isChanged({ method, url = "", baseUrl = "" }: Routed, { route, target }: Decided): boolean {
  const rest = target.slice(baseUrl.length).replace(/^(?!\/)/, "/");
  return !route.startsWith(`${method} `) || !target.startsWith(baseUrl) || url !== rest;
}

/** Return whether a path of Express, behind those of the routers around it, is that of the route which was decided. */
function isRoute({ route, prefix }: Decided, path: unknown): boolean {
  if (typeof path !== "string" || prefix === undefined) return false;
  const wanted = route.slice(route.indexOf(" ") + 1).replace(/\?.*$/, "");
  const pattern = wanted.replace(/\{(\w+):path\}/g, "*$1").replace(/\{(\w+)(?::\w+)?\}/g, ":$1");
  return pattern === (path === "/" && prefix !== "" ? prefix : prefix + path);
}
