// SPDX-License-Identifier: Apache-2.0
// The forms of names (SPEC 4.4), and of texts of bytes (SPEC 2.2, 16.1).

import { LIMITS } from "./limits.ts";

const SEGMENT = "[a-z0-9][a-z0-9._-]*";

/** Returns whether a value has a form. */
export type Check<T> = (value: unknown) => value is T;
/** What an object has whose members have these forms. */
export type Checked<F> = { readonly [Name in keyof F]: F[Name] extends Check<infer T> ? T : never };

const matches = (pattern: RegExp, most = Number.POSITIVE_INFINITY): Check<string> => (value): value is string => {
  return typeof value === "string" && value.length <= most && pattern.test(value);
};

export const isRealm = matches(/^[a-z0-9][a-z0-9._-]{0,31}$/);
export const isAudience = matches(/^(?!arx)[a-z0-9][a-z0-9._-]{0,63}$/);
export const isKeyId = matches(/^[a-z0-9]{1,16}\.(?:0|[1-9][0-9]*)$/);
export const isPlain = matches(/^[A-Za-z0-9._-]{1,64}$/);
export const isOperator = matches(/^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$/);

export const isAgentPath = matches(new RegExp(`^${SEGMENT}(?:/${SEGMENT}){0,7}$`), LIMITS.agent_path);
export const isTool = matches(/^[A-Za-z0-9_/:-]+(?:\.[A-Za-z0-9_/:-]+)*$/, LIMITS.tool);
const isPattern = matches(new RegExp(`^(?:(?:${SEGMENT}|\\*)/)*(?:${SEGMENT}|\\*\\*?)$`), LIMITS.agent_path);

/** Return whether a value is a tool, `prefix.*` or `*`. */
export function isToolPattern(value: unknown): value is string {
  if (value === "*") return true;
  if (typeof value !== "string" || value.length > LIMITS.tool) return false;
  return isTool(value.endsWith(".*") ? value.slice(0, -2) : value);
}

/** Return whether a pattern of tools names this tool. */
export function matchesTool(pattern: string, tool: string): boolean {
  if (pattern === "*") return tool !== "";
  if (!pattern.endsWith(".*")) return pattern === tool;
  return tool.length > pattern.length - 1 && tool.startsWith(pattern.slice(0, -1));
}

export function isPathPattern(value: unknown): value is string {
  return isPattern(value) && value.split("/").length <= LIMITS.agent_path_segments;
}

/** Return whether a path pattern (SPEC 4.4) matches an agent's path. */
export function matchesPath(pattern: string, path: string): boolean {
  const wanted = pattern.split("/");
  const parts = path.split("/");
  const open = wanted.at(-1) === "**";
  if (open) wanted.pop();
  if (open ? parts.length < wanted.length : parts.length !== wanted.length) return false;
  return wanted.every((part, at) => part === "*" || part === parts[at]);
}

/** Decode base64url in canonical form; undefined for any other text, or another length. */
export function bytesOf(text: unknown, length?: number): Buffer | undefined {
  if (typeof text !== "string") return undefined;
  const bytes = Buffer.from(text, "base64url");
  if (bytes.toString("base64url") !== text) return undefined;
  return length === undefined || bytes.length === length ? bytes : undefined;
}
