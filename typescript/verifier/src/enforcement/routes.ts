// SPDX-License-Identifier: Apache-2.0
// The arguments of an HTTP request, and the tool that it means.  SPEC 8.4.
// A request that two parsers could read differently is refused.

import { SettingsError } from "../errors.ts";
import { type Json, type JsonObject, readBody } from "../json.ts";
import { isTool } from "../names.ts";
import { type Kind, pathArgument, readQuery, readTarget, splitAt, UNCLEAN, unreadable } from "./target.ts";

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

function readRoute(text: string, tool: string): Route {
  const [method, target = ""] = splitAt(text, " ");
  const [path, fields] = splitAt(target, "?");
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
  if (fields === undefined) return { text, tool, method, segments, query: undefined };
  const query = fields.split("&").map((field): [string, Kind] => {
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
