// SPDX-License-Identifier: Apache-2.0
// Guard an MCP server by its transport: of the SDK 1.30 and later and 2.x, whose transports have one form.  SPEC 8.2, 11.

import { type Code, type Failure, REASONS, Refusal } from "../errors.ts";
import { isObject, type Json, type JsonObject, own, readBody, writeArguments } from "../json.ts";
import { LIMITS } from "../limits.ts";
import type { Grant } from "../verification/grant.ts";
import type { Verifier } from "../verification/verifier.ts";
import { refusalText } from "./texts.ts";

type Id = string | number;
/** A message of JSON-RPC, as the SDKs have it. */
export interface McpMessage { [name: string]: unknown }

/** The part of a transport of the SDKs that is used here. */
export interface McpTransport {
  onmessage?: ((message: never, extra?: never) => void) | undefined;
  onclose?: (() => void) | undefined;
  send(message: never, options?: never): Promise<void>;
}

const [CAP, REFUSAL] = ["dev.arx/cap", "dev.arx/refusal"];
const [REFUSED, NO_METHOD] = [-32010, -32601];
const SESSION = new Set(["initialize", "logging/setLevel", "ping", "server/discover"]);
const CALLS = new Set(["completion/complete", "prompts/get", "resources/read", "resources/subscribe", "resources/unsubscribe"]);
const NAMES = new Set([...CALLS].map((method) => method.replace("/", ".")));
const LISTS: Record<string, string> = {
  "tools/list": "tools", "prompts/list": "prompts", "resources/list": "resources",
  "resources/templates/list": "resourceTemplates",
};
const NOTIFICATIONS = new Set(["cancelled", "initialized", "message", "progress", "roots/list_changed"]);
const ENVELOPE = new Set(["_meta", "inputResponses", "requestState"]);
// Escapes of unreserved characters and of the slash: two spellings of one resource.
const ESCAPED = /%(?:2[DEF]|3\d|4[1-9A-F]|5[0-9AF]|6[1-9A-F]|7[0-9AE])/i;

/** Return the transport, through which an allowed call alone reaches the server, and no answer of an ended one leaves. */
export function guardTransport<T extends McpTransport>(transport: T, verifier: Verifier): T {
  const guarded = new GuardedMessages(transport, verifier);
  return new Proxy(transport, {
    get: (target, name) => {
      if (name === "send") return guarded.leave;
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === "function" && !String(name).startsWith("on") ? value.bind(target) : value;
    },
    set: (target, name, value) => {
      if (name !== "onmessage") return Reflect.set(target, name, value, target);
      guarded.receive = value as GuardedMessages["receive"];
      return Reflect.set(target, name, guarded.take, target);
    },
  });
}

interface Running {
  readonly grant: Grant;
  readonly method: string;
  readonly timer: NodeJS.Timeout;
}

class GuardedMessages {
  receive: ((message: McpMessage, extra?: unknown) => void) | undefined;
  readonly #transport: McpTransport;
  readonly #verifier: Verifier;
  readonly #running = new Map<Id, Running>();
  readonly #ended = new Set<Id>(); // whose answer does not leave any more
  readonly #screens = new Map<Id, { readonly member: string; readonly could: (tool: string) => boolean }>();

  constructor(transport: McpTransport, verifier: Verifier) {
    this.#transport = transport;
    this.#verifier = verifier;
  }

  /** Take a message of the client. */
  readonly take = (message: McpMessage, extra?: unknown): void => {
    const { method, id } = message as { method?: string; id?: Id };
    if (method === undefined) {
      if ("result" in message || "error" in message) this.receive?.(message, extra);
    } else if (id !== undefined && SESSION.has(method)) this.receive?.(message, extra);
    else if (id === undefined) {
      if (method === "notifications/cancelled") this.#cancel(message["params"]);
      if (NOTIFICATIONS.has(method.replace("notifications/", ""))) this.receive?.(message, extra);
    } else if (own(LISTS, method) !== undefined) this.#list(message, id, method, extra);
    else if (method === "tools/call" || CALLS.has(method)) void this.#call(message, id, method, extra);
    else this.#send(id, { error: { code: NO_METHOD, message: "Method not found" } });
  };

  /** Let a message of the server leave. */
  readonly leave = async (message: McpMessage, options?: unknown): Promise<void> => {
    const id = message["id"] as Id;
    const isAnswer = !("method" in message);
    const of = isAnswer ? id : (options as { relatedRequestId?: Id } | undefined)?.relatedRequestId;
    if (of !== undefined && this.#ended.has(of)) {
      if (isAnswer) this.#ended.delete(of);
      return;
    }
    const screen = isAnswer ? this.#screens.get(id) : undefined;
    if (screen !== undefined) filter(message, screen);
    if (isAnswer) this.#screens.delete(id);
    const work = of === undefined ? undefined : this.#running.get(of);
    const code = work?.grant.recheck();
    if (work !== undefined && isAnswer) this.#close(id);
    if (code === undefined) return this.#transport.send(message as never, options as never);
    if (work !== undefined && isAnswer) this.#answer(id, work.method, undefined, code, [], work.grant.id);
  };

  async #call(message: McpMessage, id: Id, method: string, extra: unknown): Promise<void> {
    const params = isObject(message["params"]) ? message["params"] : {};
    const name = typeof params["name"] === "string" ? params["name"] : undefined;
    try {
      if (this.#running.has(id) || this.#ended.has(id)) throw new Refusal("malformed_request");
      const { tool, args } = meaningOf(this.#verifier.audience, method, params);
      const asked = { tool, args, at: this.#verifier.clock() };
      const { code, failures, id: decision, grant } = await this.#verifier.authorize(tokenOf(params), asked);
      if (grant === undefined) return this.#answer(id, method, name, code as Code, failures, decision);
      if (this.#running.has(id)) throw new Refusal("malformed_request"); // another call got this id meanwhile
      const timer = setInterval(() => this.#look(id), LIMITS.recheck).unref();
      this.#running.set(id, { grant, method, timer });
      const judged = method === "tools/call" ? { ...params, arguments: args } : { ...params, ...args };
      this.receive?.({ ...message, params: withoutToken(judged) }, extra);
    } catch (error) {
      const refused = error instanceof Refusal ? error : new Refusal("closed");
      this.#verifier.refuseUnproven(refused.code, undefined);
      this.#answer(id, method, name, refused.code, refused.failures, "");
    }
  }

  /** A list has what the token could allow; without a token nothing: a client asks for it by itself. */
  #list(message: McpMessage, id: Id, method: string, extra: unknown): void {
    const params = isObject(message["params"]) ? message["params"] : {};
    const token = tokenOf(params);
    const member = LISTS[method] as string;
    if (token === undefined) return this.#send(id, { result: { [member]: [] } });
    const screened = this.#verifier.screen(token, { tool: "", args: { method }, at: this.#verifier.clock() });
    if ("code" in screened) return this.#answer(id, method, undefined, screened.code, [], "");
    const prefix = `${this.#verifier.audience}.`;
    this.#screens.set(id, { member, could: (tool) => screened.could(prefix + tool) });
    this.receive?.({ ...message, params: withoutToken(params) }, extra);
  }

  /** A server answers no cancelled call; if it does, the answer does not leave. */
  #cancel(params: unknown): void {
    const id = isObject(params) ? own(params, "requestId") : undefined;
    if ((typeof id !== "string" && typeof id !== "number") || !this.#running.has(id)) return;
    this.#close(id);
    this.#ended.add(id);
  }

  /** End a call whose token has ended, and tell the server that it is cancelled. */
  #look(id: Id): void {
    const work = this.#running.get(id);
    const code = work?.grant.recheck();
    if (work === undefined || code === undefined || !work.grant.signal.aborted) return;
    this.#close(id);
    this.#ended.add(id);
    this.#answer(id, work.method, undefined, code, [], work.grant.id);
    this.receive?.({ jsonrpc: "2.0", method: "notifications/cancelled", params: { requestId: id, reason: code } });
  }

  #answer(id: Id, method: string, tool: string | undefined, code: Code, failures: readonly Failure[], decision: string): void {
    const text = refusalText(code, failures, tool, decision);
    const data = { code, retry: REASONS[code].retry, ...(decision === "" ? {} : { decision }) };
    const result = { isError: true, content: [{ type: "text", text }], _meta: { [REFUSAL]: data } };
    this.#send(id, method === "tools/call" ? { result } : { error: { code: REFUSED, message: text, data } });
  }

  #send(id: Id, body: object): void {
    const message = { jsonrpc: "2.0", id, ...body };
    void this.#transport.send(message as never, { relatedRequestId: id } as never);
  }

  #close(id: Id): void {
    clearInterval(this.#running.get(id)?.timer);
    this.#running.delete(id);
  }
}

function tokenOf(params: JsonObject): string | undefined {
  const meta = own(params, "_meta");
  const token = isObject(meta) ? own(meta, CAP) : undefined;
  return token === undefined || typeof token === "string" ? token : "";
}

function withoutToken(params: JsonObject): JsonObject {
  const meta = own(params, "_meta");
  if (!isObject(meta)) return params;
  const { [CAP]: _, ...rest } = meta;
  return { ...params, _meta: rest };
}

/** Return the tool and the arguments of a message, as its proof covers them. */
function meaningOf(audience: string, method: string, params: JsonObject): { tool: string; args: JsonObject } {
  if (method === "tools/call") {
    const [name, args] = [own(params, "name"), own(params, "arguments") ?? {}];
    if (typeof name !== "string" || name === "" || NAMES.has(name) || !isObject(args)) throw new Refusal("malformed_request");
    return { tool: `${audience}.${name}`, args: copied(args) };
  }
  if (ESCAPED.test(String(own(params, "uri") ?? ""))) throw new Refusal("malformed_request");
  const args = Object.entries(params).filter(([name, value]) => {
    return !ENVELOPE.has(name) && !(method === "prompts/get" && name === "arguments" && isEmpty(value));
  });
  return { tool: `${audience}.${method.replace("/", ".")}`, args: copied(Object.fromEntries(args)) };
}

function isEmpty(value: Json): boolean {
  return isObject(value) && Object.keys(value).length === 0;
}

function copied(args: JsonObject): JsonObject {
  return readBody(Buffer.from(writeArguments(args)));
}

function filter(message: McpMessage, { member, could }: { member: string; could: (tool: string) => boolean }): void {
  const { result } = message as { result?: Record<string, unknown> };
  const items = result?.[member];
  if (!Array.isArray(items)) return;
  const tool = (item: { name?: string }): string => {
    return member === "tools" ? String(item.name) : member === "prompts" ? "prompts.get" : "resources.read";
  };
  (result as Record<string, unknown>)[member] = items.filter((item) => could(tool(item)));
}
