// SPDX-License-Identifier: Apache-2.0
// The raw target of an HTTP request: the segments of its path, and the arguments of its query.  SPEC 8.4.

import { refuse } from "../errors.ts";
import { decodeText, JsonError, type Json, type JsonObject } from "../json.ts";
import { LIMITS } from "../limits.ts";

export type Kind = "" | "int" | "number" | "list" | "path";

const LONG_INTEGER = /^-?[1-9][0-9]{15,}$/;
// biome-ignore lint: these are what is searched for
export const UNCLEAN = /[\u0000-\u001f\u007f\\]|\/\/|(?:^|\/)\.{1,2}(?:\/|$)/;
const UNCLEAN_RAW = /%(?:2[ef5]|5c|00)|;/i;
const BROKEN = /%(?![0-9A-Fa-f]{2})/;
const MOST_FIELDS = 256;

export function unreadable(expected: string): never {
  return refuse("malformed_request", "request", "target", expected, "another one");
}

/** Split a text at the first mark; without one there is no second part. */
export function splitAt(text: string, mark: string): readonly [string, string | undefined] {
  const at = text.indexOf(mark);
  return at < 0 ? [text, undefined] : [text.slice(0, at), text.slice(at + 1)];
}

/** Split a raw target into the segments of its path, decoded once, and its query. */
export function readTarget(target: string): { path: string[]; query: string } {
  const [raw, query = ""] = splitAt(target, "?");
  if (!raw.startsWith("/") || UNCLEAN_RAW.test(raw) || BROKEN.test(raw)) unreadable("a path of one meaning");
  const path = decoded(raw);
  if (UNCLEAN.test(path)) unreadable("a path of one meaning");
  return { path: path.slice(1).split("/"), query };
}

/** Read a query; each name occurs once, but for declared lists. */
export function readQuery(raw: string, declared?: ReadonlyMap<string, Kind>): JsonObject {
  const fields = raw.split("&").filter((field) => field !== "");
  if (fields.length > MOST_FIELDS) unreadable("a query of at most 256 fields");
  const made: JsonObject = Object.create(null);
  for (const field of fields) {
    const [name, value] = splitAt(field, "=").map((part = "") => unescape(part)) as [string, string];
    const kind = declared?.get(name);
    if (declared !== undefined && kind === undefined) unreadable("a query with declared names");
    if (kind === "list") (made[name] = (made[name] as Json[] | undefined) ?? []).push(value);
    else if (Object.hasOwn(made, name)) unreadable("a query with each name once");
    else made[name] = kind === "int" || kind === "number" ? numberOf(value, kind) : value;
  }
  return made;
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
