// SPDX-License-Identifier: Apache-2.0
// Guard an MCP server by its transport: of the SDK 1.30 and later and 2.x, whose transports have one form.  SPEC 8.2, 11.

import { AsyncLocalStorage } from "node:async_hooks";
import { Refusal } from "../errors.ts";
import type { EffectResult } from "../journal/record.ts";
import { isObject, type JsonObject, own } from "../json.ts";
import { LIMITS } from "../limits.ts";
import type { Grant } from "../verification/grant.ts";
import type { Verifier } from "../verification/verifier.ts";
import { type Carrier, type Carriers, carrying } from "./mcpHttp.ts";
import {
  CALLS, effectOf, filter, LISTS, type McpMessage, type McpTransport, meaningOf, NO_METHOD, NOTIFICATIONS, refusalOf, type Refused,
  type Screen, SESSION, type Subject, tokenOf, withoutToken,
} from "./messages.ts";

type Id = string | number;

/** Return the transport, through which an allowed call alone reaches the server, and no answer of an ended one leaves. */
export function guardTransport<T extends McpTransport>(transport: T, verifier: Verifier): T {
  const guarded = new GuardedMessages(transport, verifier);
  return new Proxy(transport, {
    get: (target, name) => {
      if (name === "send") return guarded.leave;
      if (name === "onmessage") return guarded.receive; // what the server gave: it may be given another one around it
      const value: unknown = Reflect.get(target, name);
      if (name === "handleRequest" && typeof value === "function") return carrying(value.bind(target), verifier, guarded.carriers);
      return typeof value === "function" && !String(name).startsWith("on") ? value.bind(target) : value;
    },
    set: (target, name, value) => {
      if (name === "onmessage") guarded.receive = value as GuardedMessages["receive"];
      if (name === "onclose") return Reflect.set(target, name, () => (guarded.close(), value?.()), target);
      return Reflect.set(target, name, name === "onmessage" ? guarded.take : value, target);
    },
  });
}

/** A request of the client that the server has not answered. */
interface Asked extends Subject {
  readonly id: Id;
  grant?: Grant;
  timer?: NodeJS.Timeout;
  screen?: Screen;
  /** Whether its answer does not leave any more. */
  isOver?: boolean;
}

class GuardedMessages {
  receive: ((message: McpMessage, extra?: unknown) => void) | undefined;
  readonly carriers: Carriers = new AsyncLocalStorage();
  readonly #transport: McpTransport;
  readonly #verifier: Verifier;
  readonly #asked = new Map<Id, Asked>();

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
      if (method === "notifications/cancelled") this.#end(own(params, "requestId") as Id);
      if (NOTIFICATIONS.has(method)) this.receive?.(message, extra);
    } else if (this.#asked.has(id)) {
      // An answer names its request by the id alone: that of another one would leave under this grant.
      this.#send(id, refusalOf({ method }, this.#verifier.refuseUnproven("malformed_request", undefined)));
    } else {
      const asked: Asked = { id, method, tool: typeof params["name"] === "string" ? params["name"] : undefined };
      this.#asked.set(id, asked);
      if (SESSION.has(method)) this.receive?.(message, extra);
      else if (own(LISTS, method) !== undefined) this.#list(message, params, asked, extra).catch(this.#fail(asked));
      else if (method === "tools/call" || CALLS.has(method)) this.#call(message, params, asked, extra).catch(this.#fail(asked));
      else this.#answer(id, { error: { code: NO_METHOD, message: "Method not found" } });
    }
  };

  /** Let a message of the server leave. */
  readonly leave = async (message: McpMessage, options?: unknown): Promise<void> => {
    const isAnswer = !("method" in message);
    const id = isAnswer ? message["id"] : (options as { relatedRequestId?: Id } | undefined)?.relatedRequestId;
    if (id === undefined || id === null) return this.#transport.send(message as never, options as never);
    const asked = this.#asked.get(id as Id);
    const kept = isAnswer ? this.#forget(id as Id, asked?.grant?.recheck() === undefined ? effectOf(message) : "unknown") : undefined;
    if (asked === undefined || asked.isOver) return;
    if (kept !== undefined) await kept;
    if (isAnswer && asked.screen !== undefined) filter(message, asked.screen);
    const code = asked.grant?.recheck();
    if (code === undefined) return this.#transport.send(message as never, options as never);
    if (isAnswer) this.#refuse(asked, { code, failures: [], id: asked.grant?.id ?? "" });
  };

  /** End what the client waits for no more. */
  close(): void {
    for (const id of [...this.#asked.keys()]) this.#forget(id);
  }

  async #call(message: McpMessage, params: JsonObject, asked: Asked, extra: unknown): Promise<void> {
    const { tool, args } = meaningOf(this.#verifier.audience, asked.method, params);
    const { token, ...carried } = this.#presented(params);
    const decision = await this.#verifier.authorize(token, { tool, args, at: this.#verifier.clock(), ...carried });
    if (this.#asked.get(asked.id) !== asked) return void decision.grant?.outcome?.settle("failed"); // cancelled meanwhile
    if (decision.grant === undefined) return this.#refuse(asked, decision);
    this.#watch(asked, decision.grant);
    const judged = asked.method === "tools/call" ? { ...params, arguments: args } : { ...params, ...args };
    this.receive?.({ ...message, params: withoutToken(judged) }, extra);
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
    if (token === undefined) return this.#answer(asked.id, { result: { [member]: [] } });
    const screened = await this.#verifier.screen(token, {
      tool: "", args: { method: asked.method }, at: this.#verifier.clock(), ...carried,
    });
    if (this.#asked.get(asked.id) !== asked) return; // cancelled, or closed, meanwhile
    if ("code" in screened) return this.#refuse(asked, { ...screened, failures: [], id: "" });
    this.#watch(asked, screened.grant);
    asked.screen = { member, could: (tool) => screened.could(`${this.#verifier.audience}.${tool}`) };
    this.receive?.({ ...message, params: withoutToken(params) }, extra);
  }

  #watch(asked: Asked, grant: Grant): void {
    asked.grant = grant;
    asked.timer = setInterval(() => this.#look(asked, grant), LIMITS.recheck).unref();
  }

  /** End a call whose token has ended, and tell the server that it is cancelled. */
  #look(asked: Asked, grant: Grant): void {
    const code = grant.recheck();
    if (code === undefined || !grant.signal.aborted) return;
    this.#end(asked.id);
    this.#send(asked.id, refusalOf(asked, { code, failures: [], id: grant.id }));
    this.receive?.({ jsonrpc: "2.0", method: "notifications/cancelled", params: { requestId: asked.id, reason: code } });
  }

  /** A server answers no cancelled call; if it does, the answer does not leave, nor does another call get its id. */
  #end(id: Id): void {
    if (!this.#asked.has(id)) return;
    this.#forget(id);
    this.#asked.set(id, { id, method: "", isOver: true });
  }

  #forget(id: Id, effect: EffectResult = "unknown"): Promise<void> | undefined {
    const asked = this.#asked.get(id);
    clearInterval(asked?.timer);
    this.#asked.delete(id);
    return asked?.grant?.outcome?.settle(effect);
  }

  #refuse(asked: Asked, decision: Refused): void {
    this.#answer(asked.id, refusalOf(asked, decision));
  }

  #answer(id: Id, body: object): void {
    this.#forget(id);
    this.#send(id, body);
  }

  #send(id: Id, body: object): void {
    const message = { jsonrpc: "2.0", id, ...body };
    // A client may be gone by now, which must not end the process.
    this.#transport.send(message as never, { relatedRequestId: id } as never).catch(() => undefined);
  }
}
