import type { QmpEvent } from "./qmp.ts";

type Listener = (event: QmpEvent) => void;

/** Tells QEMU's events to whoever listens at the moment. Listeners must not throw. */
export class QmpEvents {
  readonly #listeners = new Set<Listener>();

  readonly deliver: Listener = (event) => {
    for (const listener of this.#listeners) listener(event);
  };

  /** Until the returned function is called. */
  listen(listener: Listener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}
