/** What happens in a sandbox. */
export type SandboxEvent =
  | { readonly type: "exit"; readonly processId: string; readonly exitCode: number }
  /** The limit of memory was reached: the kernel has killed processes. At most one per second. */
  | { readonly type: "oom" }
  | { readonly type: "paused" }
  | { readonly type: "resumed" }
  /** The last one: it was closed, its time was over, or its VM has ended. */
  | { readonly type: "closed"; readonly reason: string };

/** What waits for a reader that is slow; the oldest go then. */
const maxWaiting = 1024;

interface Reader {
  readonly waiting: SandboxEvent[];
  wake: () => void;
}

/** Hands events to any number of readers, each from the time at which it begins. */
export class EventHub implements AsyncIterable<SandboxEvent> {
  readonly #readers = new Set<Reader>();
  #last: SandboxEvent | undefined;

  emit(event: SandboxEvent): void {
    if (this.#last !== undefined) return;
    if (event.type === "closed") this.#last = event;
    for (const reader of this.#readers) {
      reader.waiting.push(event);
      if (reader.waiting.length > maxWaiting) reader.waiting.shift();
      reader.wake();
    }
  }

  [Symbol.asyncIterator](): AsyncIterator<SandboxEvent, undefined> {
    const reader: Reader = { waiting: this.#last === undefined ? [] : [this.#last], wake: () => {} };
    this.#readers.add(reader);
    let isOver = false;
    const end = () => {
      isOver = true;
      this.#readers.delete(reader);
      return { done: true, value: undefined } as const;
    };
    return {
      next: async () => {
        for (;;) {
          if (isOver) return end();
          const event = reader.waiting.shift();
          if (event !== undefined) {
            isOver = event.type === "closed";
            return { done: false, value: event };
          }
          await new Promise<void>((resolve) => {
            reader.wake = resolve;
          });
        }
      },
      return: async () => {
        reader.wake();
        return end();
      },
    };
  }
}
