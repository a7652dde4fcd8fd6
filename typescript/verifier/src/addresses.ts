// SPDX-License-Identifier: Apache-2.0
// IP addresses and networks in their one form.  SPEC 6.1, 7.3.

import { isIPv4, isIPv6 } from "node:net";

/** An IP address as a number, with its version; IPv4 inside IPv6 is unwrapped. */
export interface Address {
  readonly version: 4 | 6;
  readonly bits: bigint;
}

export interface Network extends Address {
  readonly prefix: number;
}

const PREFIX = /^(?:0|[1-9][0-9]{0,2})$/;
const LONGEST = 45;
const MAPPED = 0xffffn << 32n;

/** Read an address without a zone; undefined for any other text. */
export function readAddress(text: string): Address | undefined {
  if (text.length > LONGEST) return undefined;
  if (isIPv4(text)) return { version: 4, bits: bitsOfFour(text) };
  if (!isIPv6(text) || text.includes("%")) return undefined;
  const six = bitsOfSix(text);
  if (six >> 32n === 0xffffn) return { version: 4, bits: six - MAPPED };
  return { version: 6, bits: six };
}

/** Read a peer's address, whose zone is ignored. */
export function readPeer(text: string | null | undefined): Address | undefined {
  if (typeof text !== "string") return undefined;
  const zone = text.indexOf("%");
  const address = readAddress(zone < 0 ? text : text.slice(0, zone));
  return zone >= 0 && address !== undefined && !text.includes(":") ? undefined : address;
}

function bitsOfFour(text: string): bigint {
  return text.split(".").reduce((bits, part) => (bits << 8n) | BigInt(part), 0n);
}

function bitsOfSix(text: string): bigint {
  const plain = text.replace(/[^:]*\.[^:]*$/, (four) => {
    const bits = bitsOfFour(four);
    return `${(bits >> 16n).toString(16)}:${(bits & 0xffffn).toString(16)}`;
  });
  const [before = [], after = []] = plain.split("::").map((half) => half.split(":").filter((group) => group !== ""));
  const groups = [...before, ...new Array<string>(8 - before.length - after.length).fill("0"), ...after];
  return groups.reduce((all, group) => (all << 16n) | BigInt(`0x${group}`), 0n);
}

/** Write an address: RFC 5952 4, and never with IPv4 in its end. */
export function writeAddress({ version, bits }: Address): string {
  if (version === 4) return [24n, 16n, 8n, 0n].map((shift) => (bits >> shift) & 0xffn).join(".");
  const groups = Array.from({ length: 8 }, (_, at) => ((bits >> BigInt(112 - 16 * at)) & 0xffffn).toString(16));
  return new URL(`http://[${groups.join(":")}]`).hostname.slice(1, -1); // in the form of RFC 5952
}

/** Read a network in its one form; undefined for any other text, and for a network of IPv4 inside IPv6. */
export function readNetwork(text: unknown): Network | undefined {
  if (typeof text !== "string") return undefined;
  const [written = "", length = "", ...more] = text.split("/");
  const address = readAddress(written);
  if (address === undefined || more.length > 0 || !PREFIX.test(length)) return undefined;
  if (written !== writeAddress(address)) return undefined; // IPv4 inside IPv6 was unwrapped, so it differs as well
  const size = address.version === 4 ? 32 : 128;
  const prefix = Number(length);
  if (prefix > size) return undefined;
  const mask = (1n << BigInt(size - prefix)) - 1n;
  return (address.bits & mask) === 0n ? { ...address, prefix } : undefined;
}

/** Return whether a network has an address. */
export function contains(network: Network, address: Address): boolean {
  const rest = BigInt((network.version === 4 ? 32 : 128) - network.prefix);
  return network.version === address.version && network.bits >> rest === address.bits >> rest;
}

export function isInside(networks: readonly Network[], address: Address | undefined): boolean {
  return address !== undefined && networks.some((network) => contains(network, address));
}
