// SPDX-License-Identifier: Apache-2.0
// A request as it was sent, and a response that ends with its grant.  SPEC 8.4, 11.

import { IncomingMessage, type ServerResponse, STATUS_CODES } from "node:http";
import { type Code, Refusal } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import type { CallEffect } from "../verification/effect.ts";
import type { Decision, Grant } from "../verification/grant.ts";
import { problemOf } from "./problems.ts";

const CHECK_MS = 50; // least time between two checks of an open response at its writes

/** Return a header, which a request has at most once. */
export function headerOf({ headersDistinct }: IncomingMessage, name: string): string | undefined {
  const [value, ...more] = headersDistinct[name] ?? [];
  if (more.length > 0) throw new Refusal("malformed_request");
  return value;
}

/** Return what a header of the scheme `Bearer` has; another scheme has no token. */
export function tokenOf(header: string | undefined): string | undefined {
  return /^bearer +(.+)$/i.exec(header ?? "")?.[1];
}

export async function bodyOf(request: IncomingMessage | Request, most: number): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  let size = 0;
  // A request of Node stays open, to be answered.
  const body = request instanceof Request ? (request.body ?? []) : request.iterator({ destroyOnReturn: false });
  for await (const part of body as AsyncIterable<Uint8Array>) {
    size += part.length;
    if (size > most) throw new Refusal("malformed_request");
    parts.push(part);
  }
  return Buffer.concat(parts);
}

/** Return the request with the body that was judged, for the application to read. */
export function replay(request: IncomingMessage, body: Buffer): IncomingMessage {
  const made = new IncomingMessage(request.socket);
  const { method, url, httpVersion, httpVersionMajor, httpVersionMinor, rawHeaders, headers } = request;
  Object.assign(made, { method, url, httpVersion, httpVersionMajor, httpVersionMinor, rawHeaders, complete: true });
  made.headers = headers;
  if (body.length > 0) made.push(body);
  made.push(null);
  return made;
}

/** Answer a refusal, with nothing that a handler has put into the response. */
export function answer(response: ServerResponse, realm: string, { code, failures, id }: Decision): void {
  if (response.headersSent || response.destroyed || code === "ok") return void response.destroy();
  for (const name of response.getHeaderNames()) response.removeHeader(name);
  const { status, headers, body } = problemOf(code, realm, failures, id);
  const close = response.req.complete ? {} : { connection: "close" };
  response.writeHead(status, STATUS_CODES[status], { ...headers, ...close });
  response.end(response.req.method === "HEAD" ? undefined : body);
}

/** Let no byte leave once the grant has ended, by a check at each write and a timer; the effect is recorded before. */
export function watch(response: ServerResponse, grant: Grant, refuse: (code: Code) => void): void {
  const { write, end, flushHeaders, writeEarlyHints } = response;
  let [checked, over] = [Number.NEGATIVE_INFINITY, false];
  let kept: Promise<unknown> | undefined;
  const note = grant.outcome === undefined ? undefined : noteOf(response, grant.outcome);
  const stop = (code: Code): false => {
    if (over) return false;
    over = true;
    clearInterval(timer);
    grant.outcome?.settle("unknown");
    Object.assign(response, { write, end, flushHeaders, writeEarlyHints });
    if (response.headersSent) response.destroy(); // not the end of a whole answer
    else refuse(code);
    const mute = (): void => undefined;
    Object.assign(response, { write: () => false, end: () => response, flushHeaders: mute, writeEarlyHints: mute });
    return false;
  };
  const timer = setInterval(() => {
    const code = grant.recheck();
    if (code !== undefined && (response.headersSent || grant.signal.aborted)) stop(code);
  }, LIMITS.recheck);
  response.once("close", () => {
    clearInterval(timer);
    grant.outcome?.settle("unknown"); // unless it was whole
  });
  const checkedly = (run: (...words: never[]) => unknown) => (...words: never[]): unknown => {
    const now = performance.now();
    const code = response.headersSent && now - checked < CHECK_MS ? undefined : grant.recheck();
    if (code !== undefined) return stop(code);
    checked = now;
    kept = note?.(words, run === end) ?? kept;
    if (kept === undefined) return run.apply(response, words);
    kept = kept.then(() => { // the record had to be on disk, and the disk may have taken long
      const late = grant.recheck();
      if (late !== undefined) stop(late);
      else if (!over) run.apply(response, words);
    });
    return run === end ? response : true;
  };
  Object.assign(response, { write: checkedly(write), end: checkedly(end) });
  Object.assign(response, { flushHeaders: checkedly(flushHeaders), writeEarlyHints: checkedly(writeEarlyHints) });
}

/** Return what takes each part of an answer, and records the effect before its last byte leaves.  SPEC 12.8. */
function noteOf(response: ServerResponse, outcome: CallEffect) {
  const { writeHead } = response;
  let length: unknown;
  response.writeHead = (...words: unknown[]): ServerResponse => {
    const given = words.at(-1) as object;
    const flat = (Array.isArray(given) ? given : Object.entries(given ?? {})).flat() as unknown[];
    length = flat.find((_, at) => at % 2 === 1 && String(flat[at - 1]).toLowerCase() === "content-length") ?? length;
    return writeHead.apply(response, words as never);
  };
  return ([part, encoding]: unknown[], isEnd: boolean): Promise<void> | undefined => {
    const isEmpty = response.req.method === "HEAD" || [204, 304].includes(response.statusCode);
    const written = typeof encoding === "string" ? (encoding as "utf8") : "utf8";
    const bytes = typeof part === "string" ? Buffer.from(part, written) : part;
    const size = outcome.take(bytes instanceof Uint8Array && !isEmpty ? bytes : new Uint8Array(0));
    const most = isEmpty ? 0 : Number(length ?? response.getHeader("content-length") ?? Number.NaN);
    return isEnd || size >= most ? outcome.settle(undefined, response.statusCode) : undefined;
  };
}
