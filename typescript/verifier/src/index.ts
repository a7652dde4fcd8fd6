// SPDX-License-Identifier: Apache-2.0
/** Verify ARx tokens: a second implementation of SPEC 1, at the levels bearer, bound and limits. */

export { type ExpressApplication, grantOf, guard, type GuardOptions } from "./enforcement/express.ts";
export { guardTransport } from "./enforcement/mcp.ts";
export type { McpTransport } from "./enforcement/messages.ts";
export { type CallOptions, currentGrant, protect } from "./enforcement/protect.ts";
export { type Code, type Failure, Refusal, SettingsError } from "./errors.ts";
export type { AccessRequest } from "./request.ts";
export { type OpenOptions, openVerifier } from "./service.ts";
export type { Decision, Grant } from "./verification/grant.ts";
export type { LimitsInput } from "./verification/serviceLimits.ts";
export type { Verifier } from "./verification/verifier.ts";
