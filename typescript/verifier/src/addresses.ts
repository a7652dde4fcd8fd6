// SPDX-License-Identifier: Apache-2.0
// IP addresses and networks in their one form.  SPEC 6.1, 7.3.

/** An IP address as a number, with its version; IPv4 inside IPv6 is unwrapped. */
export interface Address {
  readonly version: 4 | 6;
  readonly bits: bigint;
}

export interface Network extends Address {
  readonly prefix: number;
}

const BYTE = /^(?:0|[1-9][0-9]{0,2})$/;
const GROUP = /^[0-9a-fA-F]{1,4}$/;
const PREFIX = /^(?:0|[1-9][0-9]{0,2})$/;
const LONGEST = 45;
const MAPPED = 0xffffn << 32n;

/** Read an address without a zone; undefined for any other text. */
export function readAddress(text: string): Address | undefined {
  if (text.length > LONGEST) return undefined;
  const four = readFour(text);
  if (four !== undefined) return { version: 4, bits: four };
  const six = readSix(text);
  if (six === undefined) return undefined;
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

function readFour(text: string): bigint | undefined {
  const parts = text.split(".");
  if (parts.length !== 4 || !parts.every((part) => BYTE.test(part) && Number(part) < 256)) return undefined;
  return parts.reduce((bits, part) => (bits << 8n) | BigInt(part), 0n);
}

function readSix(text: string): bigint | undefined {
  const halves = text.split("::");
  if (halves.length > 2 || !text.includes(":")) return undefined;
  const [before, after] = halves.map((half, at) => groupsOf(half, at === halves.length - 1));
  if (before === undefined || (halves.length === 2 && after === undefined)) return undefined;
  const known = before.length + (after?.length ?? 0);
  if (halves.length === 1 ? known !== 8 : known > 7) return undefined;
  const groups = [...before, ...new Array<number>(8 - known).fill(0), ...(after ?? [])];
  return groups.reduce((bits, group) => (bits << 16n) | BigInt(group), 0n);
}

function groupsOf(half: string, last: boolean): number[] | undefined {
  if (half === "") return [];
  const groups: number[] = [];
  const parts = half.split(":");
  for (const [at, part] of parts.entries()) {
    const four = last && at === parts.length - 1 ? readFour(part) : undefined;
    if (four !== undefined) groups.push(Number(four >> 16n), Number(four & 0xffffn));
    else if (GROUP.test(part)) groups.push(Number.parseInt(part, 16));
    else return undefined;
  }
  return groups;
}

/** Write an address: RFC 5952 4, and never with IPv4 in its end. */
export function writeAddress({ version, bits }: Address): string {
  if (version === 4) return [24n, 16n, 8n, 0n].map((shift) => (bits >> shift) & 0xffn).join(".");
  const groups = Array.from({ length: 8 }, (_, at) => ((bits >> BigInt(112 - 16 * at)) & 0xffffn).toString(16));
  let best = 0;
  let longest = 1; // one group of zeros is not shortened
  for (let at = 0; at < 8; at += 1) {
    let end = at;
    while (groups[end] === "0") end += 1;
    if (end - at > longest) [best, longest] = [at, end - at];
  }
  if (longest === 1) return groups.join(":");
  return `${groups.slice(0, best).join(":")}::${groups.slice(best + longest).join(":")}`;
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
