import { codeOf, describe } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { within } from "../base/scope.ts";
import { containerd, google } from "../gen/containerd.js";
import { TtrpcClient } from "../ttrpc/client.ts";
import { method } from "../ttrpc/method.ts";
import { toTimestamp } from "./convert.ts";
import type { TaskEvent } from "./events.ts";

const eventsServiceName = "containerd.services.events.ttrpc.v1.Events";
const forward = method("Forward", containerd.services.events.ttrpc.v1.ForwardRequest, google.protobuf.Empty);

const queueLimit = 2048;
const connectTimeoutMs = 5000;
const callTimeoutMs = 5000;
const maxBackoffMs = 5000;
/** Between attempts when the end is near. */
const closingBackoffMs = 100;

export interface PublisherOptions {
  /** containerd's ttrpc socket; empty: nobody wants events. */
  readonly address: string;
  readonly namespace: string;
  readonly log: Log;
  /** First pause after a failure; it doubles up to 5 s. */
  readonly backoffMs?: number;
}

/**
 * Sends events to containerd, one after the other, so that their order stays. While containerd is away they are kept
 * (at most 2048, the oldest go first) and sent when it is back. An event whose answer is lost is sent again.
 */
export class Publisher {
  readonly #options: PublisherOptions;
  readonly #queue: containerd.types.Envelope.$Properties[] = [];
  #sending: Promise<void> | undefined;
  #client: TtrpcClient | undefined;
  #sent = 0;
  #dropped = 0;
  #state: "open" | "closing" | "closed" = "open";
  #endPause = () => {};

  constructor(options: PublisherOptions) {
    this.#options = options;
  }

  /** Events that were given up: the queue was full, or containerd refused them. */
  get dropped(): number {
    return this.#dropped;
  }

  /** Events that containerd has taken. */
  get sent(): number {
    return this.#sent;
  }

  /** Events that containerd has not taken yet. */
  get queued(): number {
    return this.#queue.length;
  }

  /** Queues an event; never waits. */
  publish({ topic, typeUrl, value }: TaskEvent): void {
    const { address, namespace, log } = this.#options;
    if (address === "") return;
    if (this.#queue.length >= queueLimit) {
      const oldest = this.#queue.shift();
      this.#dropped++;
      log.error(
        { topic: oldest?.topic, dropped: this.#dropped },
        "event dropped: containerd is away for too long",
      );
    }
    this.#queue.push({
      timestamp: toTimestamp(new Date()),
      namespace,
      topic,
      event: { type_url: typeUrl, value },
    });
    this.#sending ??= this.#send().finally(() => {
      this.#sending = undefined;
    });
  }

  /** Tries at once to send what is queued, waits for at most `timeoutMs`, and ends. */
  async close(timeoutMs: number): Promise<void> {
    this.#state = "closing";
    this.#endPause();
    await within(this.#sending ?? Promise.resolve(), timeoutMs, undefined);
    this.#state = "closed";
    this.#endPause();
    if (this.#queue.length > 0) {
      this.#options.log.error(
        { dropped: this.#queue.length },
        "events dropped: containerd is away at the end",
      );
    }
    await this.#client?.[Symbol.asyncDispose]();
  }

  /** Sends until the queue is empty. Never rejects. */
  async #send(): Promise<void> {
    const firstPauseMs = this.#options.backoffMs ?? 1000;
    let pauseMs = firstPauseMs;
    for (let next = this.#queue[0]; next !== undefined; next = this.#queue[0]) {
      if (this.#state === "closed") return;
      if (await this.#forward(next)) {
        // It may have been pushed out of the full queue meanwhile.
        if (this.#queue[0] === next) this.#queue.shift();
        pauseMs = firstPauseMs;
      } else {
        await this.#pause(pauseMs);
        pauseMs = Math.min(2 * pauseMs, maxBackoffMs);
      }
    }
  }

  /** Sends one event; true when it is done with, false when it must be tried again. */
  async #forward(envelope: containerd.types.Envelope.$Properties): Promise<boolean> {
    const { log } = this.#options;
    try {
      const client = await this.#connect();
      await client.call(eventsServiceName, forward, { envelope }, { timeoutMs: callTimeoutMs });
      this.#sent++;
      return true;
    } catch (error) {
      const code = codeOf(error);
      if (code === "invalid_argument" || code === "unimplemented") {
        this.#dropped++;
        log.error({ topic: envelope.topic, error: describe(error) }, "event dropped: containerd refuses it");
        return true;
      }
      log.warn({ topic: envelope.topic, error: describe(error) }, "event not sent, will be tried again");
      // A connection that gives no answer is not better at the next attempt.
      await this.#client?.[Symbol.asyncDispose]();
      return false;
    }
  }

  async #connect(): Promise<TtrpcClient> {
    if (this.#client !== undefined) return this.#client;
    const client = await TtrpcClient.connect(this.#options.address, { timeoutMs: connectTimeoutMs });
    void client.closed.then(() => {
      if (this.#client === client) this.#client = undefined;
    });
    this.#client = client;
    return client;
  }

  /** Waits; `close` cuts it short. */
  async #pause(pauseMs: number): Promise<void> {
    const limitMs = this.#state === "open" ? pauseMs : Math.min(pauseMs, closingBackoffMs);
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, limitMs);
      this.#endPause = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}
