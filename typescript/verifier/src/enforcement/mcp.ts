// SPDX-License-Identifier: Apache-2.0
// Guard an MCP server by its transport, which has one form in the SDK 1.30 and later and in 2.x.  SPEC 8.2, 11.

import { AsyncLocalStorage } from "node:async_hooks";
import { Refusal } from "../errors.ts";
import { isObject, type JsonObject, own } from "../json.ts";
import { LIMITS } from "../limits.ts";
import type { Grant } from "../verification/grant.ts";
import type { Verifier } from "../verification/verifier.ts";
import { type Carrier, type Carriers, carrying } from "./mcpHttp.ts";
import {
  type Asked, CALLS, CANCELLED, effectOf, endOf, filter, type Id, LISTS, type McpMessage, type McpTransport, meaningOf,
  nameOf, NO_METHOD, NOTIFICATIONS, refusalOf, type Refused, SESSION, tokenOf, WITHHELD, withoutToken, writtenUnder,
} from "./messages.ts";

/** Return the transport: an allowed call alone reaches the server through it, and no answer of an ended one leaves. */
export function guardTransport<T extends McpTransport>(transport: T, verifier: Verifier): T {
  const guarded = new GuardedMessages(transport, verifier);
  return new Proxy(transport, {
    get: (target, name) => {
      if (name === "send") return guarded.leave;
      if (name === "onmessage") return guarded.receive; // what the server gave: it may be given another one around it
      const value: unknown = Reflect.get(target, name);
      if (typeof value !== "function" || String(name).startsWith("on")) return value;
      const bound = value.bind(target);
      return name === "handleRequest" ? carrying(bound, verifier, guarded.carriers) : bound;
    },
    set: (target, name, value) => {
      if (name === "onmessage") guarded.receive = value as GuardedMessages["receive"];
      if (name === "onclose") return Reflect.set(target, name, () => (guarded.close(), value?.()), target);
      return Reflect.set(target, name, name === "onmessage" ? guarded.take : value, target);
    },
  });
}

class GuardedMessages {
  receive: ((message: McpMessage, extra?: unknown) => void) | undefined;
  readonly carriers: Carriers = new AsyncLocalStorage();
  readonly #transport: McpTransport;
  readonly #verifier: Verifier;
  readonly #asked = new Map<Id, Asked>();
  readonly #inner = new Map<unknown, Asked>();
  readonly #running = new AsyncLocalStorage<Asked>();
  #count = 0;

  constructor(transport: McpTransport, verifier: Verifier) {
    this.#transport = transport;
    this.#verifier = verifier;
  }

  /** Take a message of the client. */
  readonly take = (message: McpMessage, extra?: unknown): void => {
    const { method, id } = message as { method?: string; id?: Id };
    const params = isObject(message["params"]) ? message["params"] : {};
    if (method === undefined) {
      if ("result" in message || "error" in message) this.receive?.(message, extra);
    } else if (id === undefined) {
      if (method === CANCELLED) this.#cancel(this.#asked.get(own(params, "requestId") as Id), params);
      else if (NOTIFICATIONS.has(method)) this.receive?.(message, extra);
    } else if (this.#asked.has(id)) {
      // The client could not tell the two answers apart.
      this.#send(id, refusalOf({ method }, this.#verifier.refuseUnproven("malformed_request", undefined)));
    } else {
      const asked: Asked = { id, inner: this.#count++, method, tool: nameOf(params) };
      this.#asked.set(id, asked);
      this.#inner.set(asked.inner, asked);
      const fail = this.#fail(asked);
      if (SESSION.has(method)) this.#pass(asked, message, params, extra);
      else if (own(LISTS, method) !== undefined) this.#list(message, params, asked, extra).catch(fail);
      else if (method === "tools/call" || CALLS.has(method)) this.#call(message, params, asked, extra).catch(fail);
      else this.#answer(asked, { error: { code: NO_METHOD, message: "Method not found" } });
    }
  };

  /** Let a message of the server leave. */
  readonly leave = async (message: McpMessage, options?: { readonly relatedRequestId?: unknown }): Promise<void> => {
    const isAnswer = !("method" in message);
    const id = isAnswer ? message["id"] : options?.relatedRequestId;
    // What a call sends for no request ends with its token, too.
    if (id === undefined || id === null) return this.#sendUnder(this.#running.getStore(), message, options);
    const asked = this.#inner.get(id);
    if (asked === undefined) return;
    if (!isAnswer) return this.#sendUnder(asked, message, { ...options, relatedRequestId: asked.id });
    await this.#forget(asked, asked.grant?.recheck() === undefined ? effectOf(message) : "unknown");
    if (asked.screen !== undefined) filter(message, asked.screen);
    const answer = writtenUnder(asked.grant, { ...message, id: asked.id }, (code) => endOf(asked, code));
    return this.#transport.send(answer as never, options as never);
  };

  async #sendUnder(asked: Asked | undefined, message: McpMessage, options: unknown): Promise<void> {
    if (asked?.grant?.recheck() !== undefined) return;
    await this.#transport.send(writtenUnder(asked?.grant, message, () => WITHHELD) as never, options as never);
  }

  /** End what the client waits for no more. */
  close(): void {
    for (const asked of [...this.#asked.values()]) this.#forget(asked);
  }

  async #call(message: McpMessage, params: JsonObject, asked: Asked, extra: unknown): Promise<void> {
    const { tool, args } = meaningOf(this.#verifier.audience, asked.method, params);
    const { token, ...carried } = this.#presented(params);
    const decision = await this.#verifier.authorize(token, { tool, args, at: this.#verifier.clock(), ...carried });
    if (this.#asked.get(asked.id) !== asked) return void decision.grant?.outcome?.settle("failed"); // cancelled
    if (decision.grant === undefined) return this.#refuse(asked, decision);
    this.#watch(asked, decision.grant);
    const judged = asked.method === "tools/call" ? { ...params, arguments: args } : { ...params, ...args };
    this.#pass(asked, message, judged, extra);
  }

  /** Let a request reach the server. */
  #pass(asked: Asked, message: McpMessage, params: JsonObject, extra: unknown): void {
    const passed = { ...message, id: asked.inner, ...("params" in message ? { params: withoutToken(params) } : {}) };
    this.#running.run(asked, () => this.receive?.(passed, extra));
  }

  /** Return the token of a message, or that of the request's header with what its proof covers. */
  #presented(params: JsonObject): Carrier {
    const [token, carrier] = [tokenOf(params), this.carriers.getStore() ?? {}];
    return token === undefined ? carrier : { token, peer: carrier.peer };
  }

  #fail(asked: Asked): (error: unknown) => void {
    return (error) => {
      const { code, failures } = error instanceof Refusal ? error : new Refusal("closed");
      this.#refuse(asked, { ...this.#verifier.refuseUnproven(code, undefined), failures });
    };
  }

  /** A list has what the token could allow; without a token nothing: a client asks for it by itself. */
  async #list(message: McpMessage, params: JsonObject, asked: Asked, extra: unknown): Promise<void> {
    const member = LISTS[asked.method] as string;
    const { token, ...carried } = this.#presented(params);
    if (token === undefined) return this.#answer(asked, { result: { [member]: [] } });
    const call = { tool: "", args: { method: asked.method }, at: this.#verifier.clock(), ...carried };
    const screened = await this.#verifier.screen(token, call);
    if (this.#asked.get(asked.id) !== asked) return; // cancelled, or closed, meanwhile
    if ("code" in screened) return this.#refuse(asked, { ...screened, failures: [], id: "" });
    this.#watch(asked, screened.grant);
    asked.screen = { member, could: (tool) => screened.could(`${this.#verifier.audience}.${tool}`) };
    this.#pass(asked, message, params, extra);
  }

  /** Keep a request until its token has ended, which the client and the server learn. */
  #watch(asked: Asked, grant: Grant): void {
    asked.grant = grant;
    asked.timer = setInterval(() => {
      const code = grant.recheck();
      if (code === undefined || !grant.signal.aborted) return;
      this.#answer(asked, endOf(asked, code));
      this.#cancel(asked, { reason: code });
    }, LIMITS.recheck).unref();
  }

  /** End a request, and tell the server so; a late answer to it does not leave. */
  #cancel(asked: Asked | undefined, params: JsonObject): void {
    if (asked === undefined) return; // it is answered
    this.#forget(asked);
    this.receive?.({ jsonrpc: "2.0", method: CANCELLED, params: { ...params, requestId: asked.inner } });
  }

  #forget(asked: Asked, effect: ReturnType<typeof effectOf> = "unknown"): Promise<void> | undefined {
    clearInterval(asked.timer);
    this.#asked.delete(asked.id);
    this.#inner.delete(asked.inner);
    return asked.grant?.outcome?.settle(effect);
  }

  #refuse(asked: Asked, decision: Refused): void {
    this.#answer(asked, refusalOf(asked, decision));
  }

  #answer(asked: Asked, body: object): void {
    void this.#forget(asked);
    this.#send(asked.id, body);
  }

  #send(id: Id, body: object): void {
    const message = { jsonrpc: "2.0", id, ...body };
    // A client may be gone by now, which must not end the process.
    this.#transport.send(message as never, { relatedRequestId: id } as never).catch(() => undefined);
  }
}
