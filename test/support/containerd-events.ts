import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { start } from "./cli-run.ts";
import type { Containerd } from "./containerd.ts";
import { patient } from "./patience.ts";

/** An event as `ctr events` prints it: time, namespace, topic, content. */
export interface ContainerdEvent {
  readonly topic: string;
  readonly content: Record<string, unknown>;
  /** `performance.now()` when it reached us. */
  readonly receivedAtMs: number;
}

/** The event stream of a containerd, from a moment that is certain. */
export interface EventStream extends AsyncDisposable {
  readonly events: readonly ContainerdEvent[];
  /** Topics of one container's events, in the order they came. */
  topicsOf(containerId: string): string[];
  /** Resolves with the first event, past or future, that matches. */
  waitFor(matches: (event: ContainerdEvent) => boolean, timeoutMs?: number): Promise<ContainerdEvent>;
}

/** Subscribes, and resolves when events do arrive. */
export async function watchEvents(containerd: Containerd): Promise<EventStream> {
  const running = start(containerd.ctrArgv("events"), { timeoutMs: 600_000 });
  const events: ContainerdEvent[] = [];
  const listeners = new Set<() => void>();
  createInterface({ input: running.stdout }).on("line", (line) => {
    const match = /(\/[a-z/-]+) (\{.*\})$/.exec(line);
    if (match === null) return;
    const content = JSON.parse(match[2] ?? "{}") as Record<string, unknown>;
    events.push({ topic: match[1] ?? "", content, receivedAtMs: performance.now() });
    for (const listener of listeners) listener();
  });

  const stream: EventStream = {
    events,
    topicsOf: (containerId) =>
      events.filter((event) => event.content["container_id"] === containerId).map((event) => event.topic),
    waitFor: (matches, timeoutMs = 60_000) =>
      new Promise((resolve, reject) => {
        const check = () => {
          const found = events.find(matches);
          if (found === undefined) return;
          clearTimeout(timer);
          listeners.delete(check);
          resolve(found);
        };
        const timer = setTimeout(() => {
          listeners.delete(check);
          reject(new Error(`No such event within ${timeoutMs} ms; there were ${JSON.stringify(events)}`));
        }, patient(timeoutMs));
        listeners.add(check);
        check();
      }),
    [Symbol.asyncDispose]: () => running[Symbol.asyncDispose](),
  };
  // ctr does not say when it has subscribed: make events until one comes.
  for (let round = 0; events.length === 0; round++) {
    if (round > 100) throw new Error("`ctr events` shows no event");
    await containerd.ctrOk(["namespaces", "label", containerd.namespace, `round=${round}`]);
    await sleep(50);
  }
  return stream;
}
