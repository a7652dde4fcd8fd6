// SPDX-License-Identifier: Apache-2.0
// What a verifier is asked about: the call of a tool.

/** The place of the body's SHA-256 for a body that is not covered (SPEC 8.5). */
export const UNSEEN_BODY: Uint8Array = new Uint8Array(32);

/** What a proof of kind `http` covers (SPEC 8.2). */
export interface HttpCall {
  readonly method: string;
  /** Raw path and query as sent. */
  readonly target: string | Uint8Array;
  /** SHA-256 of the body, or `UNSEEN_BODY`. */
  readonly bodyDigest: Uint8Array;
}

export interface AccessRequest {
  readonly tool: string;
  readonly args: { readonly [name: string]: unknown };
  /** The verifier's clock, ms since the Unix epoch. */
  readonly at: number;
  readonly peer?: string | null | undefined;
  readonly http?: HttpCall | undefined;
  readonly requestId?: string | undefined;
  readonly traceparent?: string | undefined;
}
