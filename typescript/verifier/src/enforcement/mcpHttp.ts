// SPDX-License-Identifier: Apache-2.0
// The HTTP request that carries a message of MCP: its peer, and the token of its header with a proof of the raw body.
// SPEC 8.2.

import type { AsyncLocalStorage } from "node:async_hooks";
import type { IncomingMessage, ServerResponse } from "node:http";
import { Refusal, refuse } from "../errors.ts";
import { readBody } from "../json.ts";
import type { HttpCall } from "../request.ts";
import { sha256 } from "../token/chain.ts";
import type { Verifier } from "../verification/verifier.ts";
import { answer, bodyOf, headerOf, replay, tokenOf } from "./http.ts";
import { problemOf } from "./problems.ts";

const MOST_BYTES = 4 << 20; // as the SDKs have it
const HEADER = "authorization";

/** The request of a message; its token if that is one of ARx. */
export interface Carrier { readonly peer?: string | undefined; readonly token?: string; readonly http?: HttpCall }
/** A request as Node or as the web has it, and as a router of Express has changed it. */
type Carried = (IncomingMessage & { readonly originalUrl?: string; readonly auth?: unknown }) | Request;
/** The `handleRequest` of a transport: of Node with response and parsed body, or of the web with options. */
type Handle = (request: Carried, ...rest: unknown[]) => Promise<unknown>;

/** The request that carries the message which is taken here, for one transport: no other one may use its token. */
export type Carriers = AsyncLocalStorage<Carrier>;

/** Return what takes requests for a transport; the server behind it sees no token of a header. */
export function carrying(handle: Handle, verifier: Verifier, carriers: Carriers): Handle {
  return async (request, ...rest) => {
    const peer = request instanceof Request ? undefined : request.socket.remoteAddress;
    try {
      // Stored messages pass by the guard: the call of one may have been killed since.
      if (valueOf(request, "last-event-id") !== undefined) refuse("malformed_request");
      const token = tokenOf(valueOf(request, HEADER));
      if (!token?.startsWith("arx1_")) return await carriers.run({ peer }, handle, request, ...rest);
      const bytes = await bodyOf(request, MOST_BYTES);
      const parsed = request.method === "POST" ? readBody(bytes) : undefined; // nothing else reads what was signed
      const http = { method: request.method ?? "", target: targetOf(request), bodyDigest: sha256(bytes) };
      const carrier = { peer, token, http };
      if (request instanceof Request) return await carriers.run(carrier, handle, ...webOf(request, parsed, rest));
      return await carriers.run(carrier, handle, nodeOf(request, bytes), rest[0], parsed);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      const decision = verifier.refuseUnproven(error.code, peer);
      if (!(request instanceof Request)) return answer(rest[0] as ServerResponse, verifier.realm, decision);
      const { status, headers, body } = problemOf(error.code, verifier.realm);
      return new Response(body, { status, headers });
    }
  };
}

function valueOf(request: Carried, name: string): string | undefined {
  return request instanceof Request ? (request.headers.get(name) ?? undefined) : headerOf(request, name);
}

function targetOf(request: Carried): string {
  if (!(request instanceof Request)) return request.originalUrl ?? request.url ?? "";
  const { pathname, search } = new URL(request.url); // as sent, or the proof is refused
  return pathname + search;
}

function webOf(request: Request, parsedBody: unknown, [options]: unknown[]): [Request, object] {
  const { url, method, signal } = request;
  const headers = new Headers(request.headers);
  headers.delete(HEADER);
  return [new Request(url, { method, headers, signal }), { ...(options as object), parsedBody }];
}

function nodeOf(request: Exclude<Carried, Request>, body: Buffer): IncomingMessage {
  const made = replay(request, body);
  const { [HEADER]: _, ...headers } = request.headers;
  const rawHeaders = request.rawHeaders.filter((_, at, raw) => raw[at - (at % 2)]?.toLowerCase() !== HEADER);
  return Object.assign(made, { headers, rawHeaders, auth: request.auth });
}
