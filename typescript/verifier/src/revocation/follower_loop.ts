// SPDX-License-Identifier: Apache-2.0
/** Follows the store by the event loop that it is made in, and sends each change to the view of another thread. */

import { setTimeout as sleep } from "node:timers/promises";
import type { MessagePort } from "node:worker_threads";
import { FeedError } from "../errors.ts";
import type { ViewChange, Wait } from "./epoch.ts";
import type { EpochEntry } from "./history.ts";
import { Following, UnattestedError } from "./follower_core.ts";
import type { StoreAddress } from "./store_url.ts";
import { StoreLink } from "./store_link.ts";

const [BACKOFF_MS, BACKOFF_MOST_MS] = [20, 500];

export interface FollowerSettings {
  readonly address: StoreAddress;
  readonly realm: string;
  /** The name in the store's registry. */
  readonly name: string;
}

/** What the port of a view brings to the follower: a wait, or the end. */
export type FromView = Wait | { readonly stop: true };

/** A view whose changes go to the deciding thread, in their order. */
class Published extends Following {
  readonly #port: MessagePort;
  #fenced = ""; // why, as the last warning has it

  constructor(port: MessagePort) {
    super();
    this.#port = port;
  }

  protected override change(change: ViewChange): boolean {
    const inOrder = super.change(change);
    this.#port.postMessage(change);
    if (change.do === "renew") this.#fenced = "";
    if (change.do === "fence" && change.detail !== this.#fenced) {
      warn(`every call is refused: ${change.detail}`);
      this.#fenced = change.detail;
    }
    return inOrder;
  }

  isOpen(wait: Wait): boolean {
    return this.answer(wait) === undefined;
  }
}

export class FollowerLoop {
  readonly #settings: FollowerSettings;
  readonly #core: Published;
  #link: StoreLink | null = null;
  #fail: (error: unknown) => void = () => undefined;
  #timer: NodeJS.Timeout | undefined;
  #isCopying = false;
  #waits: Wait[] = [];
  readonly #stopping = new AbortController();
  #isDown = false;

  /** @param port Of the view; until a stop has closed it, it keeps a thread alive that does nothing else. */
  constructor(settings: FollowerSettings, port: MessagePort) {
    this.#settings = settings;
    this.#core = new Published(port);
    port.on("message", (message: FromView) => {
      if ("stop" in message) return this.#stop();
      this.#waits.push(message);
      this.#pump();
    });
    void this.#run().finally(() => port.close());
  }

  /** Ends the lease; then the loop takes leave of the store, and closes the port. */
  #stop(): void {
    this.#stopping.abort();
    this.#core.close();
    clearTimeout(this.#timer);
    this.#fail(null);
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopping;
    let pause = 0;
    let wasUnattested = false;
    while (!signal.aborted) {
      const before = this.#core.lastGrant;
      let [isNew, isUnattested] = [true, false];
      try {
        await this.#follow();
      } catch (error) {
        isUnattested = error instanceof UnattestedError;
        // A server that answers again is attested soon, if a mint runs: the pauses begin anew.
        isNew = pause === 0 || this.#core.lastGrant !== before || (isUnattested && !wasUnattested);
        if (isNew) warn(`connection to the revocation store dropped: ${textOf(error)}`);
        this.#isDown = true;
      }
      pause = isNew ? BACKOFF_MS : Math.min(2 * pause, BACKOFF_MOST_MS);
      wasUnattested = isUnattested;
      const ms = pause * (0.5 + Math.random() / 2); // spreads a herd
      await sleep(ms, undefined, { signal, ref: false }).catch(() => undefined);
    }
  }

  /** Follows by one connection until it is stopped; throws when the connection must be dropped. */
  async #follow(): Promise<void> {
    const { address, realm, name } = this.#settings;
    const { promise: ended, resolve, reject } = Promise.withResolvers<void>();
    ended.catch(() => undefined); // it may end before it is open
    this.#fail = (error) => (error === null ? resolve() : reject(error));
    let link: StoreLink | null = null;
    const push = (entry: EpochEntry): void => {
      if (link === null || this.#link !== link) return; // before the first probe, whose answer has it
      this.#core.takePush(entry);
      this.#pump();
    };
    link = await StoreLink.open(address, realm, this.#core.timeoutMs, { push, end: reject });
    try {
      this.#link = link;
      this.#isCopying = false;
      this.#core.begin();
      this.#pump();
      await ended;
    } finally {
      this.#link = null;
      clearTimeout(this.#timer);
      if (this.#stopping.signal.aborted) await link.leave(name).catch(() => undefined);
      link.close();
    }
  }

  #pump(): void {
    clearTimeout(this.#timer);
    const link = this.#link;
    if (link === null || this.#isCopying || this.#stopping.signal.aborted) return;
    this.#waits = this.#waits.filter((wait) => this.#core.isOpen(wait));
    const hurry = this.#waits.length > 0;
    try {
      const place = this.#core.ask(hurry);
      if (place !== null) {
        void link.probe(this.#settings.name, place).then(
          (answer) => this.#answer(link, answer),
          (error) => this.#drop(link, error),
        );
      }
    } catch (error) {
      return this.#drop(link, error);
    }
    const wait = Math.max(0, Math.ceil(this.#core.nextAt(hurry) - this.#core.bootMs()));
    // An answer may have come while the loop was blocked: it is read before the time is over.
    const look = (): unknown => (this.#core.isInFlight ? setImmediate(() => this.#pump()) : this.#pump());
    this.#timer = setTimeout(look, wait).unref();
  }

  async #answer(link: StoreLink, answer: Awaited<ReturnType<StoreLink["probe"]>>): Promise<void> {
    if (this.#link !== link) return;
    try {
      this.#isCopying = answer.status === "RESYNC" && !this.#core.isOver(answer.incarnation);
      const copy = this.#isCopying ? await link.copy() : null;
      this.#isCopying = false;
      if (this.#link !== link || this.#stopping.signal.aborted) return;
      this.#core.takeAnswer(answer, copy);
    } catch (error) {
      return this.#drop(link, error);
    }
    if (this.#isDown && this.#core.lastGrant === this.#core.lastAsked) {
      this.#isDown = false;
      warn("follows the revocation store again");
    }
    this.#pump();
  }

  #drop(link: StoreLink, error: unknown): void {
    if (this.#link !== link) return;
    this.#link = null;
    this.#fail(error);
  }
}

function warn(text: string): void {
  process.emitWarning(text, "ArxWarning");
}

function textOf(error: unknown): string {
  return error instanceof FeedError ? error.message : "an error of the program";
}
