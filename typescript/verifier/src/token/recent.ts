// SPDX-License-Identifier: Apache-2.0
// What was proven before, in bounded memory.

/** Values by name; those that were not asked for the longest make room, so that no caller can push out all at once. */
export class Recent<V> {
  readonly #kept = new Map<string, readonly [value: V, weight: number]>();
  #room: number;

  /** @param room The weight of all values together. */
  constructor(room: number) {
    this.#room = room;
  }

  get(name: string): V | undefined {
    const known = this.#kept.get(name);
    if (known === undefined) return undefined;
    this.#kept.delete(name);
    this.#kept.set(name, known);
    return known[0];
  }

  keep(name: string, value: V, weight = 1): void {
    this.#drop(name);
    for (const oldest of this.#kept.keys()) {
      if (this.#room >= weight) break;
      this.#drop(oldest);
    }
    this.#kept.set(name, [value, weight]);
    this.#room -= weight;
  }

  #drop(name: string): void {
    this.#room += this.#kept.get(name)?.[1] ?? 0;
    this.#kept.delete(name);
  }
}
