// SPDX-License-Identifier: Apache-2.0
// What messages of MCP mean, and what a client reads of a refusal.  SPEC 8.2, 19.

import { type Code, REASONS, refuse } from "../errors.ts";
import { copyArguments, isObject, type JsonObject, own } from "../json.ts";
import type { EffectResult } from "../journal/record.ts";
import type { Decision, Grant } from "../verification/grant.ts";
import { refusalText } from "./texts.ts";

export type Id = string | number;
/** A message of JSON-RPC, as the SDKs have it. */
export interface McpMessage { [name: string]: unknown }
/** The part of a transport of the SDKs that is used here. */
export interface McpTransport {
  onmessage?: ((message: never, extra?: never) => void) | undefined;
  onclose?: (() => void) | undefined;
  send(message: never, options?: never): Promise<void>;
}
/** What a request was about. */
export interface Subject { readonly method: string; readonly tool?: string | undefined }
/** Which items of a list a token could call, and the member that has them. */
export interface Screen { readonly member: string; readonly could: (tool: string) => boolean }

/** A request of the client that the server has not answered. */
export interface Asked extends Subject {
  readonly id: Id;
  /** Its id at the server: a late answer to a request that has ended can be for no later one. */
  readonly inner: number;
  grant?: Grant;
  timer?: NodeJS.Timeout;
  screen?: Screen;
}

const [CAP, REFUSAL] = ["dev.arx/cap", "dev.arx/refusal"];
const REFUSED = -32010;
/** A message in place of one that must not leave. */
export const WITHHELD = { jsonrpc: "2.0", method: "notifications/message", params: { level: "debug", data: "ended" } };
export const CALLS = new Set(
  ["completion/complete", "prompts/get", "resources/read", "resources/subscribe", "resources/unsubscribe"],
);
export const CANCELLED = "notifications/cancelled";
export const NO_METHOD = -32601;
export const SESSION = new Set(["initialize", "logging/setLevel", "ping", "server/discover"]);
export const LISTS: Record<string, string> = {
  "tools/list": "tools", "prompts/list": "prompts", "resources/list": "resources",
  "resources/templates/list": "resourceTemplates",
};
export const NOTIFICATIONS = new Set(
  ["initialized", "message", "progress", "roots/list_changed"].map((name) => `notifications/${name}`),
);
const NAMES = new Set([...CALLS].map((method) => method.replace("/", ".")));
const ENVELOPE = new Set(["_meta", "inputResponses", "requestState"]);
// Escapes of unreserved characters and of the slash: two spellings of one resource.
const ESCAPED = /%(?:2[DEF]|3\d|4[1-9A-F]|5[0-9AF]|6[1-9A-F]|7[0-9AE])/i;

export function tokenOf(params: JsonObject): string | undefined {
  const meta = own(params, "_meta");
  const token = isObject(meta) ? own(meta, CAP) : undefined;
  return token === undefined || typeof token === "string" ? token : "";
}

/** Return what a request names: a tool, or a prompt. */
export function nameOf(params: JsonObject): string | undefined {
  const name = own(params, "name");
  return typeof name === "string" ? name : undefined;
}

export function withoutToken(params: JsonObject): JsonObject {
  const meta = own(params, "_meta");
  if (!isObject(meta)) return params;
  const { [CAP]: _, ...rest } = meta;
  return { ...params, _meta: rest };
}

/** Return the tool and the arguments of a message, as its proof covers them. */
export function meaningOf(audience: string, method: string, params: JsonObject): { tool: string; args: JsonObject } {
  if (method === "tools/call") {
    const [name, args] = [nameOf(params) ?? "", own(params, "arguments") ?? {}];
    if (name === "" || NAMES.has(name) || !isObject(args)) refuse("malformed_request");
    return { tool: `${audience}.${name}`, args: argumentsOf(args) };
  }
  if (ESCAPED.test(String(own(params, "uri") ?? ""))) refuse("malformed_request");
  const args = Object.entries(params).filter(([name, value]) => {
    const isEmpty = isObject(value) && Object.keys(value).length === 0;
    return !ENVELOPE.has(name) && !(method === "prompts/get" && name === "arguments" && isEmpty);
  });
  return { tool: `${audience}.${method.replace("/", ".")}`, args: argumentsOf(Object.fromEntries(args)) };
}

/** Return a copy of arguments; the SDKs drop a member `__proto__`, so a tool would get others than were judged. */
function argumentsOf(given: object): JsonObject {
  const args = copyArguments(given);
  return JSON.stringify(args).includes('"__proto__":') ? refuse("malformed_request") : args;
}

export function filter(message: McpMessage, { member, could }: Screen): void {
  const { result } = message as { result?: Record<string, unknown> };
  const items = result?.[member];
  if (!Array.isArray(items)) return;
  const tool = (item: { name?: string }): string => {
    return member === "tools" ? String(item.name) : member === "prompts" ? "prompts.get" : "resources.read";
  };
  (result as Record<string, unknown>)[member] = items.filter((item) => could(tool(item)));
}

/** Return what an answer shows of the effect of its call (SPEC 12.8): a task goes on, as does a request for input. */
export function effectOf({ result }: McpMessage): EffectResult {
  if (!isObject(result)) return "failed";
  if (own(result, "task") !== undefined || (own(result, "resultType") ?? "complete") !== "complete") return "unknown";
  return own(result, "isError") ? "failed" : "done";
}

/** Return a message, or another one if the grant has ended, also when it is written: an `eventStore` may be slow. */
export function writtenUnder(grant: Grant | undefined, message: McpMessage, late: (code: Code) => object): object {
  const toJSON = (): object => {
    const code = grant?.recheck();
    return code === undefined ? message : late(code);
  };
  return Object.defineProperty({ ...toJSON() }, "toJSON", { value: toJSON });
}

/** Return the answer to a request whose token has ended. */
export function endOf(asked: Asked, code: Code): object {
  return { jsonrpc: "2.0", id: asked.id, ...refusalOf(asked, { code, failures: [], id: asked.grant?.id ?? "" }) };
}

export type Refused = Pick<Decision, "code" | "failures" | "id">;

export function refusalOf({ method, tool }: Subject, { code: given, failures, id }: Refused): object {
  const code = given as Code;
  const text = refusalText(code, failures, tool, id);
  const data = { code, retry: REASONS[code].retry, ...(id === "" ? {} : { decision: id }) };
  if (method !== "tools/call") return { error: { code: REFUSED, message: text, data } };
  return { result: { isError: true, content: [{ type: "text", text }], _meta: { [REFUSAL]: data } } };
}
