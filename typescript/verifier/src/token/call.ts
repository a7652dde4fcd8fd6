// SPDX-License-Identifier: Apache-2.0
// The proof of a call.  SPEC 8.1, 8.2.

import { refuse } from "../errors.ts";
import { writeArguments } from "../json.ts";
import { bytesOf } from "../names.ts";
import type { AccessRequest } from "../request.ts";
import { type Packet, sha256 } from "./chain.ts";

const FORM = /^\{"call":\["([A-Za-z0-9_-]{43})",([1-9][0-9]{12}),"([A-Za-z0-9_-]{22})"(?:,"([A-Za-z0-9_-]{22}|[A-Za-z0-9_-]{86})")?\]\}$/;

/** The call that a one-shot token carries. */
export interface PresentedCall {
  readonly digest: string;
  readonly issuedAt: number;
  readonly nonce: string;
  /** The holder's proof, 16 or 64 bytes; undefined without one. */
  readonly proof: Buffer | undefined;
  /** The caveat without the holder's proof. */
  readonly plain: string;
}

/** Read the call that is a token's last caveat; undefined if that is no call of this form. */
export function readCall(packet: Packet | undefined): PresentedCall | undefined {
  if (packet === undefined || packet.verificationId !== undefined) return undefined;
  const found = FORM.exec(packet.raw.toString("latin1"));
  if (found === null) return undefined;
  const [, digest = "", issuedAt = "", nonce = "", proofText] = found;
  const proof = bytesOf(proofText);
  if (bytesOf(digest, 32) === undefined || bytesOf(nonce, 16) === undefined) return undefined;
  if (proofText !== undefined && proof === undefined) return undefined;
  const plain = `{"call":["${digest}",${issuedAt},"${nonce}"]}`;
  return { digest, issuedAt: Number(issuedAt), nonce, proof, plain };
}

/** Return the digest of a call, or refuse arguments without a form with `malformed_request`. */
export function callDigest(audience: string, issuedAt: number, nonce: string, request: AccessRequest): string {
  const { http } = request;
  if (!request.tool.isWellFormed()) refuse("malformed_request");
  const fields: (string | Uint8Array)[] = ["arx/1/call", audience, String(issuedAt), nonce];
  if (http === undefined) fields.push("tool", request.tool, writeArguments(request.args));
  else fields.push("http", http.method, withoutEmptyQuery(http.target), http.bodyDigest);
  return sha256(...fields.flatMap((field) => withLength(field))).toString("base64url");
}

function withoutEmptyQuery(target: string | Uint8Array): Buffer {
  const bytes = typeof target === "string" ? Buffer.from(target, "latin1") : Buffer.from(target);
  return bytes.indexOf("?") === bytes.length - 1 && bytes.length > 0 ? bytes.subarray(0, -1) : bytes;
}

function withLength(field: string | Uint8Array): Buffer[] {
  const bytes = Buffer.from(field as string);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(bytes.length);
  return [length, bytes];
}
