import { codeOf, describe, RuntimeError } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { within } from "../base/scope.ts";
import type { Container, CreateContainerRequest, Sandbox } from "../sandbox/model.ts";

export interface LifeOptions {
  readonly sandbox: Sandbox;
  readonly log: Log;
  /** Called once when the daemon shall end. The sandbox is still open then. */
  readonly onEnd: () => void;
}

/** Longest wait for a killed init when a container is removed by force. */
const removeTimeoutMs = 1000;
/** Longest wait for containers in the making when the daemon ends. */
const abortTimeoutMs = 2000;

/**
 * Decides how long the daemon lives: as long as there are containers, being made, or announced by a `start` whose
 * container has not come yet. It ends only when asked to while there are none.
 */
export class Life {
  readonly #options: LifeOptions;
  readonly #announced = new Set<string>();
  readonly #creating = new Map<Promise<unknown>, AbortController>();
  #isEnding = false;

  constructor(options: LifeOptions) {
    this.#options = options;
  }

  /** Number of containers, those announced or being made included. */
  get containerCount(): number {
    const made = this.#options.sandbox.containers.map((container) => container.id);
    return new Set([...made, ...this.#announced]).size;
  }

  /** @throws unavailable  the daemon is ending */
  announce(containerId: string): void {
    if (this.#isEnding) throw ending(containerId);
    this.#announced.add(containerId);
  }

  /** Creates a container unless the daemon is ending; its end aborts the creation. */
  async create(request: CreateContainerRequest, signal: AbortSignal): Promise<Container> {
    this.announce(request.containerId);
    const controller = new AbortController();
    const onAbort = () => controller.abort(signal.reason);
    if (signal.aborted) onAbort();
    signal.addEventListener("abort", onAbort, { once: true });
    const work = this.#options.sandbox.createContainer(request, { signal: controller.signal });
    this.#creating.set(work, controller);
    try {
      const container = await work;
      this.#announced.delete(request.containerId);
      return container;
    } catch (error) {
      // The id belongs to another container, which is there already.
      if (codeOf(error) === "already_exists") this.#announced.delete(request.containerId);
      throw error;
    } finally {
      this.#creating.delete(work);
      signal.removeEventListener("abort", onAbort);
    }
  }

  /** The client is done with this container. Ends the daemon when it was the last one. */
  release(containerId: string): void {
    this.#announced.delete(containerId);
    if (this.containerCount === 0) this.end();
  }

  /**
   * Removes a container by force, whatever its state, and returns how many are left.
   *
   * @throws what the model throws when it cannot be deleted
   */
  async remove(containerId: string): Promise<number> {
    const container = this.#options.sandbox.containers.find(({ id }) => id === containerId);
    if (container !== undefined) await this.#removeContainer(container);
    this.release(containerId);
    return this.containerCount;
  }

  /** Ends the daemon, containers or not. Safe to call twice. */
  end(): void {
    if (this.#isEnding) return;
    this.#isEnding = true;
    // The answer to the call that ends it goes out first.
    setImmediate(this.#options.onEnd);
  }

  /** Gives up the containers that are being made and waits until they are rolled back, for a bounded time. */
  async abortCreations(): Promise<void> {
    const reason = new RuntimeError("canceled", "Cannot create the container: its sandbox is ending");
    for (const controller of this.#creating.values()) controller.abort(reason);
    await within(Promise.allSettled(this.#creating.keys()), abortTimeoutMs, undefined);
  }

  async #removeContainer(container: Container): Promise<void> {
    const { log } = this.#options;
    try {
      await container.init.kill(9, true);
      await within(container.init.wait(), removeTimeoutMs, undefined);
    } catch (error) {
      log.debug({ container: container.id, error: describe(error) }, "not killed, it has ended already");
    }
    try {
      await container.delete("");
    } catch (error) {
      if (codeOf(error) !== "not_found") throw error;
    }
  }
}

function ending(containerId: string): RuntimeError {
  return new RuntimeError("unavailable", `Cannot create "${containerId}": the sandbox is ending`);
}
