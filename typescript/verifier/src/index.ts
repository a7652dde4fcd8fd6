// SPDX-License-Identifier: Apache-2.0
/** Verify ARx tokens: a second implementation of SPEC 1, at the levels bearer, bound and limits. */

export { problemOf, type Problem } from "./enforcement/problems.ts";
export { type Meaning, RouteMap } from "./enforcement/routes.ts";
export { AuditError, type Code, type Failure, type Reason, REASONS, Refusal, SettingsError } from "./errors.ts";
export { Journal, type JournalMode, type JournalOptions } from "./journal/writer.ts";
export { LIMITS } from "./limits.ts";
export { type AccessRequest, type HttpCall, UNSEEN_BODY } from "./request.ts";
export { EpochTable } from "./revocation/epoch.ts";
export { FollowedView, Follower, type FollowerOptions } from "./revocation/follower.ts";
export { KeyRing } from "./token/keyring.ts";
export { type Decision, Grant } from "./verification/grant.ts";
export { MemoryNonces, type Nonces, type Spent } from "./verification/nonces.ts";
export { SharedNonces } from "./verification/sharedNonces.ts";
export { type LimitsInput, ServiceLimits } from "./verification/serviceLimits.ts";
export { type Recorder, Verifier, type VerifierOptions } from "./verification/verifier.ts";
export { type OpenOptions, openVerifier } from "./service.ts";
export { type CallOptions, currentGrant, protect } from "./enforcement/protect.ts";
export { guardTransport } from "./enforcement/mcp.ts";
export type { McpTransport } from "./enforcement/messages.ts";
export { type ExpressApplication, grantOf, guard, type GuardOptions } from "./enforcement/express.ts";
