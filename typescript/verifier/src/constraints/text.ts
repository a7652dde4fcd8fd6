// SPDX-License-Identifier: Apache-2.0
// Tests of text: glob, path, URL, network.  SPEC 7.3.  Nothing is resolved, decoded or normalised; nothing backtracks.

import { type Address, contains, readAddress, readNetwork, writeAddress } from "../addresses.ts";
import { isObject, type Json, own } from "../json.ts";
import { LIMITS } from "../limits.ts";
import { FAILS, HOLDS, OperandError, outcome, type Test, UNSPOKEN } from "./scalars.ts";

// biome-ignore lint: these are what is searched for
const CONTROL = /[\u0000-\u001f\u007f-\u009f\u2028\u2029]/;
const ESCAPED = /%(?:2[ef5]|5c|00)/i;
const PART = "(?![. ]+(?:[;/]|$))[^/\\\\]+";
const PATH = new RegExp(`^/?${PART}(?:/${PART})*/?$`);
const NOT_VISIBLE = /[^\u0021-\u007e]|["<>\\^`{|}]/;
const SCHEME = /^[a-z][a-z0-9+.-]*$/;
const AUTHORITY = "(\\[[0-9A-Fa-f:.]+\\]|[A-Za-z0-9._-]+)(?::([1-9][0-9]{0,4}))?";
const URL_FORM = new RegExp(`^([A-Za-z][A-Za-z0-9+.-]*)://${AUTHORITY}(/[^?#]*)?(?:[?#]|$)`);
const LABEL = /^[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?$/;
const NUMBER = /^(?:[0-9]+|0x[0-9a-f]*)$/;
const LONGEST_HOST = 253;
const PORTS: Record<string, number> = { http: 80, https: 443, ws: 80, wss: 443 };

const isLine = (value: unknown): value is string => typeof value === "string" && !CONTROL.test(value);

export function glob(operand: Json): Test {
  if (!isLine(operand) || operand === "" || operand.includes("**")) {
    throw new OperandError("expected a pattern without control characters and without '**'");
  }
  const segments = operand.split("/").map((part) => part.split("*"));
  return (value) => {
    if (!isLine(value)) return UNSPOKEN;
    const parts = value.split("/");
    return outcome(parts.length === segments.length && parts.every((part, at) => fits(segments[at] as string[], part)));
  };
}

/** Return whether text is these literals with any runs of characters between: the leftmost place leaves the most. */
function fits(literals: string[], text: string): boolean {
  const [first = "", ...rest] = literals;
  const last = rest.pop();
  if (last === undefined) return text === first;
  if (text.length < first.length + last.length || !text.startsWith(first) || !text.endsWith(last)) return false;
  let at = first.length;
  const end = text.length - last.length;
  for (const literal of rest) {
    at = text.indexOf(literal, at);
    if (at < 0 || at + literal.length > end) return false;
    at += literal.length;
  }
  return true;
}

/** Return whether text is a `path` of SPEC 7.3, which can mean only itself. */
export function isPath(value: unknown): value is string {
  return isLine(value) && (value === "/" || (PATH.test(value) && !ESCAPED.test(value)));
}

export function subpath(operand: Json): Test {
  if (!isPath(operand) || (operand !== "/" && operand.endsWith("/"))) throw new OperandError("expected a path");
  const below = operand === "/" ? "/" : `${operand}/`;
  return (value) => (isPath(value) ? outcome(value === operand || value.startsWith(below)) : UNSPOKEN);
}

export function cidr(operand: Json): Test {
  const network = readNetwork(operand);
  if (network === undefined) throw new OperandError("expected a network in its one form");
  return (value) => {
    const address = typeof value === "string" ? readAddress(value) : undefined;
    return address?.version === network.version ? outcome(contains(network, address as Address)) : UNSPOKEN;
  };
}

export function url(operand: Json): Test {
  if (!isObject(operand)) throw new OperandError("expected scheme and host");
  for (const name of Object.keys(operand)) {
    if (!["scheme", "host", "port", "path"].includes(name)) throw new OperandError("a member that a URL does not have");
  }
  const [scheme, host, port, path] = ["scheme", "host", "port", "path"].map((name) => own(operand, name));
  if (typeof scheme !== "string" || !SCHEME.test(scheme)) {
    throw new OperandError("expected a scheme in lower case");
  }
  if (port !== undefined && !(Number.isSafeInteger(port) && (port as number) >= 1 && (port as number) <= 65535)) {
    throw new OperandError("expected a port");
  }
  if (!String(path ?? "/").startsWith("/")) throw new OperandError("expected a path");
  const hosts = hostTest(host);
  const paths = path === undefined ? undefined : subpath(path);
  return (value) => {
    const found = typeof value === "string" ? readUrl(value) : undefined;
    if (found === undefined) return UNSPOKEN;
    const parts = [hosts(found.host), paths?.(found.path) ?? HOLDS];
    if (parts.includes(UNSPOKEN)) return UNSPOKEN;
    return outcome(found.scheme === scheme && (port ?? found.port) === found.port && !parts.includes(FAILS));
  };
}

function hostTest(operand: unknown): (host: string) => ReturnType<Test> {
  const wild = typeof operand === "string" && operand.startsWith("*.");
  const name = wild ? operand.slice(2) : operand;
  if (typeof name !== "string" || hostOf(name) !== name || (wild && isLiteral(name))) {
    throw new OperandError("expected a host in its one form");
  }
  const suffix = `.${name}`;
  return (host) => {
    if (isLiteral(host) && host !== operand) return UNSPOKEN;
    return outcome(wild ? host.endsWith(suffix) : host === name);
  };
}

/** Return whether a host is an address or a name of this machine: only the operand that is that host speaks of it. */
function isLiteral(host: string): boolean {
  if (host.startsWith("[") || host === "localhost" || host.endsWith(".localhost")) return true;
  return NUMBER.test(host.slice(host.lastIndexOf(".") + 1));
}

function hostOf(text: string): string | undefined {
  if (text.startsWith("[")) {
    const address = text.endsWith("]") ? readAddress(text.slice(1, -1)) : undefined;
    return address?.version === 6 ? `[${writeAddress(address)}]` : undefined;
  }
  const host = text.toLowerCase();
  const labels = host.split(".");
  if (NUMBER.test(labels.at(-1) as string)) return readAddress(host) === undefined ? undefined : host;
  return host.length <= LONGEST_HOST && labels.every((label) => LABEL.test(label)) ? host : undefined;
}

function readUrl(value: string) {
  if (value.length > LIMITS.url || NOT_VISIBLE.test(value)) return undefined;
  const [, written = "", name = "", digits, path = "/"] = URL_FORM.exec(value) ?? [];
  const [scheme, host] = [written.toLowerCase(), hostOf(name)];
  const port = digits === undefined ? own(PORTS, scheme) : Number(digits);
  return host === undefined || (port ?? 0) > 65535 ? undefined : { scheme, host, port, path };
}
