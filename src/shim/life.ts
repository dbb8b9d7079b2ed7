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

/** A container that is being made. */
interface Creation {
  readonly work: Promise<Container>;
  readonly controller: AbortController;
  /** The client has given it up: it keeps the daemon no longer. */
  isReleased: boolean;
}

/** Longest wait for the removal of one container of several; `delete` has 5 s for everything. */
const removeTimeoutMs = 1200;
/** Longest wait for containers in the making when the daemon ends. */
const abortTimeoutMs = 2000;

/**
 * How long an announced container may take to come. containerd creates it as soon as `start` has answered; a caller
 * that died in between would keep the daemon for ever.
 */
const announcementTimeoutMs = 120_000;

/**
 * Decides how long the daemon lives: as long as there are containers, being made, or announced by a `start` whose
 * container has not come yet. It ends when it is asked to while there are none, with the last one when it was asked to
 * before, or when the last one announced never comes. A daemon that is held ends only when it is told to.
 */
export class Life {
  readonly #options: LifeOptions;
  /** Ids without a container yet, and until when we wait for it. */
  readonly #announced = new Map<string, NodeJS.Timeout>();
  readonly #creations = new Map<string, Creation>();
  /** Containers that are being removed by force: they keep the daemon no longer. */
  readonly #removing = new Set<string>();
  /** Id of a sandbox that exists without containers. */
  #held: string | undefined;
  #endsWithLast = false;
  #isEnding = false;

  constructor(options: LifeOptions) {
    this.#options = options;
  }

  /** Number of containers, those announced or being made included, and the sandbox that is held. */
  get containerCount(): number {
    return this.#containerIds().length;
  }

  /** Whether the daemon ends; containers can be left then. */
  get isEnding(): boolean {
    return this.#isEnding;
  }

  /** @throws unavailable  the daemon is ending */
  announce(containerId: string): void {
    if (this.#isEnding) throw ending(containerId);
    this.#forget(containerId);
    const timer = setTimeout(() => this.#expire(containerId), announcementTimeoutMs);
    this.#announced.set(containerId, timer);
  }

  /** Keeps the daemon for a sandbox, whatever becomes of its containers. */
  hold(sandboxId: string): void {
    this.#forget(sandboxId);
    this.#held = sandboxId;
  }

  /** Creates a container unless the daemon is ending; its end aborts the creation. */
  async create(request: CreateContainerRequest, signal: AbortSignal): Promise<Container> {
    const { containerId } = request;
    if (this.#isEnding) throw ending(containerId);
    if (this.#creations.has(containerId)) {
      throw new RuntimeError("already_exists", `Cannot create "${containerId}": it is being created`);
    }
    const controller = new AbortController();
    const onAbort = () => controller.abort(signal.reason);
    if (signal.aborted) onAbort();
    signal.addEventListener("abort", onAbort, { once: true });
    const work = this.#options.sandbox.createContainer(request, { signal: controller.signal });
    const creation: Creation = { work, controller, isReleased: false };
    this.#forget(containerId);
    this.#creations.set(containerId, creation);
    try {
      return await work;
    } catch (error) {
      // The caller may try again, or releases it. In a pod, where others keep the daemon, containerd does neither.
      const isAlone = this.#containerIds().every((id) => id === containerId);
      const isWanted = !creation.isReleased && !this.#isEnding && codeOf(error) !== "already_exists";
      if (isAlone && isWanted) this.announce(containerId);
      throw error;
    } finally {
      this.#creations.delete(containerId);
      signal.removeEventListener("abort", onAbort);
    }
  }

  /** The client asks for the daemon's end, on behalf of a container: it comes with that of the last one. */
  shutdown(containerId: string): void {
    this.#endsWithLast = true;
    this.release(containerId);
  }

  /** A container was deleted in order: of a pod whose pause container is gone nobody asks for the daemon's end again. */
  onDelete(): void {
    if (this.#endsWithLast && this.containerCount === 0) this.end();
  }

  /** The client is done with this container. Ends the daemon when it was the last one. */
  release(containerId: string): void {
    this.#forget(containerId);
    const creation = this.#creations.get(containerId);
    if (creation !== undefined) creation.isReleased = true;
    if (this.containerCount === 0) this.end();
  }

  /**
   * Removes a container by force, whatever its state, and returns how many are left. The last one is not waited for: the
   * daemon ends, and what it does not get done in time its caller does. Of several, one that takes long (its guest
   * hangs) is removed in the background.
   */
  async remove(containerId: string): Promise<number> {
    if (containerId === this.#held) {
      this.end();
      return 0;
    }
    const container = this.#options.sandbox.containers.find(({ id }) => id === containerId);
    const isLast = this.#containerIds().every((id) => id === containerId);
    if (container !== undefined && isLast) {
      void this.#kill(container);
      this.#forget(containerId);
      this.end();
      return 0;
    }
    if (container === undefined) {
      this.release(containerId);
      return this.containerCount;
    }
    this.#removing.add(containerId);
    const removed = this.#removeContainer(container)
      .catch((error: unknown) =>
        this.#options.log.error(
          { container: containerId, error: describe(error) },
          "cannot remove a container",
        ),
      )
      .finally(() => {
        this.#removing.delete(containerId);
        this.release(containerId);
      });
    await within(removed, removeTimeoutMs, undefined);
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
    const creations = [...this.#creations.values()];
    for (const { controller } of creations) controller.abort(reason);
    await within(Promise.allSettled(creations.map(({ work }) => work)), abortTimeoutMs, undefined);
  }

  #containerIds(): string[] {
    const made = this.#options.sandbox.containers.map((container) => container.id);
    const wanted = [...this.#creations].filter(([, { isReleased }]) => !isReleased).map(([id]) => id);
    const held = this.#held === undefined ? [] : [this.#held];
    const ids = new Set([...made, ...this.#announced.keys(), ...wanted, ...held]);
    return [...ids].filter((id) => !this.#removing.has(id));
  }

  #forget(containerId: string): void {
    clearTimeout(this.#announced.get(containerId));
    this.#announced.delete(containerId);
  }

  #expire(containerId: string): void {
    this.#options.log.warn({ container: containerId }, "announced container never came");
    this.release(containerId);
  }

  async #removeContainer(container: Container): Promise<void> {
    await this.#kill(container);
    try {
      await container.delete("");
    } catch (error) {
      if (codeOf(error) !== "not_found") throw error;
    }
  }

  /** Never rejects. A guest that does not take the signal loses its VM, so that the wait ends. */
  async #kill(container: Container): Promise<void> {
    try {
      await container.init.kill(9, true);
      await container.init.wait();
    } catch (error) {
      this.#options.log.debug(
        { container: container.id, error: describe(error) },
        "not killed, it has ended already",
      );
    }
  }
}

function ending(containerId: string): RuntimeError {
  return new RuntimeError("unavailable", `Cannot create "${containerId}": the sandbox is ending`);
}
