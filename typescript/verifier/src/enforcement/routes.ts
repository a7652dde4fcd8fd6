// SPDX-License-Identifier: Apache-2.0
// The arguments of an HTTP request, and the tool that it means.  SPEC 8.4.
// A request that two parsers could read differently is refused.

import { refuse, SettingsError } from "../errors.ts";
import { decodeText, JsonError, type Json, type JsonObject, readBody } from "../json.ts";
import { LIMITS } from "../limits.ts";
import { isTool } from "../names.ts";

type Kind = "" | "int" | "number" | "list" | "path";

/** A parsed line of a route map: `POST /orders/{id}/refund?{dry_run}&{limit:int}`. */
interface Route {
  readonly text: string;
  readonly tool: string;
  readonly method: string;
  readonly segments: readonly (string | { readonly name: string; readonly kind: Kind })[];
  /** The declared names of the query; undefined if each name is allowed. */
  readonly query: ReadonlyMap<string, Kind> | undefined;
}

const METHOD = /^[A-Z]{1,16}$/;
const BODILESS = /^(?:GET|HEAD) /;
const PARAMETER = /^\{([A-Za-z_][A-Za-z0-9_]*)(?::(int|number|path))?\}$/;
const FIELD = /^\{([A-Za-z0-9_.[\]-]+)(?::(int|number|list))?\}$/;
const PLAIN = /^[^{}?#%; ]*$/;
const LONG_INTEGER = /^-?[1-9][0-9]{15,}$/;
// biome-ignore lint: these are what is searched for
const UNCLEAN = /[\u0000-\u001f\u007f\\]|\/\/|(?:^|\/)\.{1,2}(?:\/|$)/;
const UNCLEAN_RAW = /%(?:2[ef5]|5c|00)|;/i;
const BROKEN = /%(?![0-9A-Fa-f]{2})/;
const MOST_FIELDS = 256;
const JSON_TYPE = /^application\/(?:json|[a-z0-9.!#$&^_-]+\+json)$/i;
const UTF_8 = /^[ \t]*charset=("?)utf-?8\1[ \t]*$/i;

/** What a request means: a tool, and its arguments. */
export interface Meaning {
  readonly tool: string;
  readonly args: JsonObject;
  /** The arguments that the query has. */
  readonly query: JsonObject;
  /** The names that the query alone may have. */
  readonly declared: readonly string[];
  /** The line of the map, such as `GET /orders/{id}`. */
  readonly route: string;
}

function unreadable(expected: string): never {
  return refuse("malformed_request", "request", "target", expected, "another one");
}

/** The tools of a service's routes.  Two routes that could mean one request are an error at start. */
export class RouteMap {
  readonly #routes: readonly Route[];

  constructor(tools: { readonly [route: string]: string }) {
    this.#routes = Object.entries(tools).map(([text, tool]) => readRoute(text, tool));
    const odd = this.#routes.find((route, at) => this.#routes.slice(0, at).some((other) => overlap(route, other)));
    if (odd !== undefined) throw new SettingsError(`two routes can mean one request: ${odd.text}`);
  }

  /** Return the tool and the arguments of a raw target; undefined if no route is for it, or refuse it. */
  find(method: string, target: string): Meaning | undefined {
    const { path, query } = readTarget(target);
    for (const route of this.#routes) {
      const found = route.method === method ? match(route, path) : undefined;
      if (found === undefined) continue;
      const read = readQuery(query, route.query ?? (BODILESS.test(route.text) ? undefined : new Map()));
      const declared = [...(route.query?.keys() ?? [])];
      return { tool: route.tool, route: route.text, args: merge(found, read), query: read, declared };
    }
    return undefined;
  }
}

/** Split a raw target into the segments of its path, decoded once, and its query. */
export function readTarget(target: string): { path: string[]; query: string } {
  const at = target.indexOf("?");
  const raw = at < 0 ? target : target.slice(0, at);
  if (!raw.startsWith("/") || UNCLEAN_RAW.test(raw) || BROKEN.test(raw)) unreadable("a path of one meaning");
  const path = decoded(raw);
  if (UNCLEAN.test(path)) unreadable("a path of one meaning");
  return { path: path.slice(1).split("/"), query: at < 0 ? "" : target.slice(at + 1) };
}

/** Read a query; each name occurs once, but for declared lists. */
export function readQuery(raw: string, declared?: ReadonlyMap<string, Kind>): JsonObject {
  const fields = raw.split("&").filter((field) => field !== "");
  if (fields.length > MOST_FIELDS) unreadable("a query of at most 256 fields");
  const made: JsonObject = Object.create(null);
  for (const field of fields) {
    const at = field.indexOf("=");
    const name = unescape(at < 0 ? field : field.slice(0, at));
    const value = at < 0 ? "" : unescape(field.slice(at + 1));
    const kind = declared?.get(name);
    if (declared !== undefined && kind === undefined) unreadable("a query with declared names");
    if (kind === "list") (made[name] = (made[name] as Json[] | undefined) ?? []).push(value);
    else if (Object.hasOwn(made, name)) unreadable("a query with each name once");
    else made[name] = kind === "int" || kind === "number" ? numberOf(value, kind) : value;
  }
  return made;
}

/** Join the arguments of several places; a name in two of them is refused. */
function merge(...places: readonly JsonObject[]): JsonObject {
  const made: JsonObject = Object.create(null);
  for (const place of places) {
    for (const name of Object.keys(place)) {
      if (Object.hasOwn(made, name)) unreadable("an argument in one place");
      made[name] = place[name] as Json;
    }
  }
  return made;
}

/** Return all arguments of a request.  A tool that does not find one in its place takes a default that no rule saw. */
export function withBody(meaning: Meaning, body: Buffer, type?: string, encoding?: string): JsonObject {
  const { route, args, declared } = meaning;
  if (body.length > 0 && BODILESS.test(route)) unreadable("no body");
  const members = readArguments(body, type, encoding);
  if (declared.some((name) => Object.hasOwn(members, name))) unreadable("an argument in its own place");
  return merge(args, members);
}

/** Read the body's arguments, by its headers: one JSON object in UTF-8; no body has none. */
function readArguments(body: Buffer, type = "", encoding = ""): JsonObject {
  const [media = "", ...parameters] = type.split(";");
  const isOdd = parameters.some((part) => part.toLowerCase().includes("charset") && !UTF_8.test(part));
  if (isOdd) unreadable("a body in UTF-8");
  if (body.length === 0) return Object.create(null) as JsonObject;
  if (!["", "identity"].includes(encoding.trim().toLowerCase())) unreadable("a body without a content encoding");
  if (!JSON_TYPE.test(media.trim())) unreadable("a body of a JSON type");
  return readBody(body);
}

/** Return the argument of a parameter in the path. */
export function pathArgument(text: string, kind: Kind): Json {
  if (text.startsWith(";")) unreadable("a path of one meaning");
  if (kind !== "int" && kind !== "number") return text;
  if (LONG_INTEGER.test(text) && Math.abs(Number(text)) > LIMITS.integer) return text;
  return numberOf(text, kind);
}

function numberOf(text: string, kind: Kind): number {
  const value = Number(text);
  if (!(Math.abs(value) <= LIMITS.integer) || String(value) !== text) return unreadable("a number");
  return kind === "number" || Number.isInteger(value) ? value : unreadable("an integer");
}

/** Return whether the last parameter of a route takes the rest of a path. */
function isOpen({ segments }: Route): boolean {
  const last = segments.at(-1);
  return typeof last === "object" && last.kind === "path";
}

function match(route: Route, path: readonly string[]): JsonObject | undefined {
  const made: JsonObject = Object.create(null);
  const { segments } = route;
  const open = isOpen(route);
  if (open ? path.length < segments.length : path.length !== segments.length) return undefined;
  for (const [at, segment] of segments.entries()) {
    const isRest = open && at === segments.length - 1;
    const text = isRest ? path.slice(at).join("/") : (path[at] as string);
    if (typeof segment === "string") {
      if (segment !== text) return undefined;
    } else if (text === "") return undefined;
    else made[segment.name] = pathArgument(text, segment.kind);
  }
  return made;
}

function decoded(raw: string): string {
  try {
    const bytes = raw.replace(/%([0-9A-Fa-f]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)));
    return decodeText(Buffer.from(bytes, "latin1"));
  } catch (error) {
    if (error instanceof JsonError) unreadable("UTF-8");
    throw error;
  }
}

function unescape(raw: string): string {
  if (BROKEN.test(raw)) unreadable("whole escapes");
  return decoded(raw.replaceAll("+", " "));
}

function readRoute(text: string, tool: string): Route {
  const at = text.indexOf(" ");
  const [method, target] = [text.slice(0, at), text.slice(at + 1)];
  const mark = target.indexOf("?");
  const path = mark < 0 ? target : target.slice(0, mark);
  const wrong = (): never => {
    throw new SettingsError(`${JSON.stringify(text.slice(0, 100))} is no route such as 'GET /orders/{id}'`);
  };
  if (!METHOD.test(method) || !path.startsWith("/") || UNCLEAN.test(path)) wrong();
  if (!isTool(tool)) throw new SettingsError(`route ${JSON.stringify(text)}: ${JSON.stringify(tool)} is no tool`);
  const names = new Set<string>();
  const named = (name: string): string => {
    if (names.has(name)) wrong();
    names.add(name);
    return name;
  };
  const parts = path.slice(1).split("/");
  const segments = parts.map((part, index) => {
    if (PLAIN.test(part)) return part;
    const [, name = "", kind = ""] = PARAMETER.exec(part) ?? wrong();
    if (kind === "path" && index < parts.length - 1) wrong();
    return { name: named(name), kind: kind as Kind };
  });
  if (mark < 0) return { text, tool, method, segments, query: undefined };
  const query = target.slice(mark + 1).split("&").map((field): [string, Kind] => {
    const [, name = "", kind = ""] = FIELD.exec(field) ?? wrong();
    return [named(name), kind as Kind];
  });
  return { text, tool, method, segments, query: new Map(query) };
}

/** Return whether one request could match both routes. */
function overlap(one: Route, other: Route): boolean {
  if (one.method !== other.method) return false;
  const [short, long] = one.segments.length < other.segments.length ? [one, other] : [other, one];
  if (short.segments.length !== long.segments.length && !isOpen(short)) return false;
  return short.segments.every((segment, at) => {
    const opposite = long.segments[at];
    return typeof segment === "object" || typeof opposite === "object" || segment === opposite;
  });
}
