// SPDX-License-Identifier: Apache-2.0
// JSON in one form only: canonical JSON of tokens (SPEC 3), bodies of requests (SPEC 8.4), arguments (SPEC 8.2).
//
// `JSON.parse` keeps the last of two equal names and rounds numbers: what it reads is checked, or written again and
// compared.

import { isUtf8 } from "node:buffer";
import { type Code, refuse } from "./errors.ts";
import { LIMITS } from "./limits.ts";

export type Json = null | boolean | number | string | Json[] | JsonObject;
export interface JsonObject { [name: string]: Json }

/** What a reader throws; each caller has its own reason code. */
export class JsonError extends Error {
  override readonly name = "JsonError";
}

// Each token of JSON; what else it matches, `JSON.parse` refuses.
const TOKENS = /[ \t\n\r:,]*(?:("[^"\\]*(?:\\.[^"\\]*)*")([ \t\n\r]*:)?|(-?[0-9][0-9.eE+-]*)|[a-z]+|[{}[\]])/gy;
const UNCHANGED = /^[ !#-[\]-~]*$/;
const PAIRS = /[\ud800-\udbff][\udc00-\udfff]/g;
const LONGEST_DECIMAL = 128;

/** Require what `JSON.parse` does not: each name once, exact numbers, whole surrogate pairs, and no deep nesting. */
function requireOneMeaning(text: string): void {
  const open: Set<string>[] = [];
  for (const [token, quoted, colon, number] of text.matchAll(TOKENS)) {
    if (number !== undefined) requireExact(number);
    if (quoted !== undefined) {
      const value: string = quoted.includes("\\") ? JSON.parse(quoted) : quoted.slice(1, -1);
      if (!value.isWellFormed()) noForm("half of a surrogate pair");
      if (colon === undefined) continue;
      if (open.at(-1)?.has(value)) noForm("a name twice");
      open.at(-1)?.add(value);
    } else if (token.endsWith("{") || token.endsWith("[")) {
      if (open.push(new Set()) > LIMITS.argument_nesting) noForm("too many nested containers");
    } else if (token.endsWith("}") || token.endsWith("]")) open.pop();
  }
}

function requireExact(text: string): void {
  if (text.length > LONGEST_DECIMAL && /[.eE]/.test(text)) noForm("a long decimal");
  const value = Number(text);
  const read = String(value);
  if (!(Math.abs(value) <= LIMITS.integer)) noForm("a number beyond 2^53-1");
  if (text !== read && decimalOf(text) !== decimalOf(read)) noForm("more digits than a double carries");
}

/** Return a copy whose objects inherit no names. */
function bare(value: Json): Json {
  if (Array.isArray(value)) return value.map(bare);
  if (value === null || typeof value !== "object") return value;
  const made: JsonObject = Object.create(null);
  for (const name of Object.keys(value)) made[name] = bare(value[name] as Json);
  return made;
}

/** Return a number's text in one form: sign, digits without zeros at the ends, and the exponent of the last digit. */
function decimalOf(text: string): string {
  const [mantissa = "", exponent = "0"] = text.toLowerCase().split("e");
  const [whole = "", fraction = ""] = mantissa.replace("-", "").split(".");
  const digits = (whole + fraction).replace(/^0+/, "");
  const short = digits.replace(/0+$/, "");
  if (short === "") return "0";
  const last = BigInt(exponent.replace("+", "")) - BigInt(fraction.length) + BigInt(digits.length - short.length);
  return `${mantissa.startsWith("-") ? "-" : ""}${short}e${last}`;
}

/** Decode UTF-8, and refuse each byte that is none; a byte-order mark is a character. */
export function decodeText(bytes: Buffer): string {
  if (!isUtf8(bytes)) throw new JsonError("no UTF-8");
  return bytes.toString();
}

/** Read canonical JSON (SPEC 3): one object, whose bytes are those that writing it again gives; or refuse it. */
export function readForm(bytes: Buffer, code: Code, place?: string): JsonObject {
  try {
    const text = decodeText(bytes);
    const value = JSON.parse(text);
    if (isObject(value) && writeCanonical(value) === text) return value;
  } catch (error) {
    if (!(error instanceof JsonError || error instanceof SyntaxError)) throw error;
  }
  return refuse(code, place, "form", "a form of SPEC 6.1", "another one");
}

/** Write canonical JSON, or throw if the value has no such form. */
export function writeCanonical(value: Json): string {
  return write(value, true, 1);
}

/** Return whether an argument or a member can have this name in canonical JSON. */
export function isPlainName(name: string): boolean {
  return name !== "" && !/[\ud800-\udfff]/.test(name);
}

/** Read a JSON body (SPEC 8.4): one object, or `malformed_request`. */
export function readBody(bytes: Buffer): JsonObject {
  try {
    const text = decodeText(bytes);
    requireOneMeaning(text);
    const value = JSON.parse(text);
    if (isObject(value)) return bare(value) as JsonObject;
  } catch (error) {
    if (!(error instanceof JsonError || error instanceof SyntaxError)) throw error;
  }
  return refuse("malformed_request", "request", "body", "one JSON object that can be read in one way", "another body");
}

/** Write arguments as RFC 8785 has them (SPEC 8.2), or refuse with `malformed_request` what has no such form. */
export function writeArguments(value: unknown): string {
  try {
    return write(value, false, 1);
  } catch (error) {
    if (!(error instanceof JsonError)) throw error;
    return refuse("malformed_request", "request", "arguments", "arguments that RFC 8785 can write", error.message);
  }
}

/** Names in the order of UTF-16: in canonical JSON, without characters beyond U+FFFF in names, that of code points. */
function write(value: unknown, isCanonical: boolean, depth: number): string {
  if (typeof value === "string") return quote(value);
  if (typeof value === "number") {
    const isNumber = isCanonical ? Number.isSafeInteger(value) : Math.abs(value) <= LIMITS.integer;
    return isNumber ? String(value) : noForm("a number that is no integer, or beyond 2^53-1");
  }
  if (typeof value === "boolean" || (value === null && !isCanonical)) return String(value);
  const deepest = isCanonical ? LIMITS.caveat_nesting : LIMITS.argument_nesting;
  if (depth > deepest) return noForm("too many nested containers");
  if (Array.isArray(value)) return `[${Array.from(value, (item) => write(item, isCanonical, depth + 1)).join(",")}]`;
  if (!isObject(value)) return noForm(typeof value === "object" ? "null, or an object of a class" : typeof value);
  let written = "";
  for (const name of Object.keys(value).sort()) {
    if (isCanonical && !isPlainName(name)) return noForm("a name that is empty, or beyond U+FFFF");
    written += `${written && ","}${quote(name)}:${write(value[name], isCanonical, depth + 1)}`;
  }
  return `{${written}}`;
}

function quote(text: string): string {
  if (UNCHANGED.test(text)) return `"${text}"`; // most texts, in a third of the time
  return text.isWellFormed() ? JSON.stringify(text) : noForm("half of a surrogate pair");
}

/** Return a plain copy of arguments, as their digest covers them, or refuse what has no such form. */
export function copyArguments(value: unknown): JsonObject {
  return readBody(Buffer.from(writeArguments(value)));
}

function noForm(came: string): never {
  throw new JsonError(came);
}

/** Return whether a value is a plain object: not null, no list, of no class. */
export function isObject(value: unknown): value is JsonObject {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return false;
  const prototype = Object.getPrototypeOf(value);
  return prototype === null || prototype === Object.prototype || Object.getPrototypeOf(prototype) === null;
}

/** Return a member that an object has itself; `constructor` and `__proto__` are names like any other. */
export function own<T>(object: { readonly [name: string]: T }, name: string): T | undefined {
  return Object.hasOwn(object, name) ? object[name] : undefined;
}

/** Return a text, or its begin, of at most so many code points. */
export function cut(text: string, most: number): string {
  const points = [...text];
  return points.length > most ? `${points.slice(0, most - 1).join("")}…` : text;
}

/** Return a text's length in code points. */
export function lengthOf(text: string): number {
  return text.length - (text.match(PAIRS)?.length ?? 0);
}
