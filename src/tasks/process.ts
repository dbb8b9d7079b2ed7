import { constants } from "node:os";
import type { Readable, Writable } from "node:stream";
import { RuntimeError } from "../base/errors.ts";
import type { TaskClient, TaskStatus } from "../client/task-client.ts";
import type { FifoStdio } from "./stdio.ts";

export interface ProcessParts {
  /** Empty for the container's first process. */
  readonly execId: string;
  readonly stdio: FifoStdio;
  /** @throws unavailable */
  readonly client: () => TaskClient;
  /** Removes what is left of it on this machine. */
  readonly forget: () => Promise<void>;
}

/** A process of a `Container`. */
export class ContainerProcess {
  /** Empty for the container's first process. */
  readonly id: string;
  readonly #parts: ProcessParts;
  #isWatched = false;

  constructor(parts: ProcessParts) {
    this.id = parts.execId;
    this.#parts = parts;
  }

  /** What it reads. `end` alone is no end of file, as others may write too: `closeStdin` is. */
  get stdin(): Writable {
    return this.#parts.stdio.stdin;
  }

  /** What it writes, from where the last reader of it has stopped. */
  get stdout(): Readable {
    const { stdout } = this.#parts.stdio;
    this.#watchEnd();
    return stdout;
  }

  /** The same; ends at once for a process with a terminal. */
  get stderr(): Readable {
    const { stderr } = this.#parts.stdio;
    this.#watchEnd();
    return stderr;
  }

  /**
   * Runs it.
   *
   * @throws failed_precondition  it was started before, or its container has ended
   * @throws invalid_argument, not_found, permission_denied  its program cannot be executed
   * @throws unavailable  the daemon died
   */
  async start(): Promise<void> {
    await this.#parts.client().start(this.id);
    this.#parts.stdio.release();
  }

  /** @throws unavailable  the daemon died */
  status(): Promise<TaskStatus> {
    return this.#parts.client().status(this.id);
  }

  /**
   * Resolves when it has ended, with 0 to 255; 128 + n when signal n has ended it. Any number of callers, before and after.
   *
   * @throws unavailable  the daemon died
   */
  async wait(): Promise<{ readonly exitCode: number }> {
    const { exitCode } = await this.#parts.client().wait(this.id);
    return { exitCode };
  }

  /** Sends a signal, by name or Linux number. @throws not_found  it has ended */
  async signal(signal: NodeJS.Signals | number): Promise<void> {
    const number = typeof signal === "number" ? signal : constants.signals[signal];
    if (!(number >= 1 && number <= 64))
      throw new RuntimeError("invalid_argument", `Cannot send signal "${signal}": there is no such signal`);
    await this.#parts.client().kill(this.id, number);
  }

  /** Sets the size of its terminal in characters. @throws unavailable  the daemon died */
  resize(size: { readonly columns: number; readonly rows: number }): Promise<void> {
    return this.#parts.client().resize(this.id, size);
  }

  /** Ends what it reads, once that is read. @throws unavailable  the daemon died */
  async closeStdin(): Promise<void> {
    const { stdin } = this;
    await new Promise<void>((resolve) => stdin.end(() => resolve()));
    stdin.destroy();
    await this.#parts.client().closeStdin(this.id);
  }

  /**
   * Forgets a process that has ended or was never started; the first one goes with its container.
   *
   * @throws failed_precondition  it runs
   * @throws invalid_argument     it is the first one
   */
  async delete(): Promise<void> {
    if (this.id === "")
      throw new RuntimeError("invalid_argument", "Cannot delete the first process: delete its container");
    await this.#parts.client().delete(this.id);
    this.close();
    await this.#parts.forget();
  }

  /** Closes our ends of its streams. */
  close(): void {
    this.#parts.stdio.close();
  }

  /** Lets readers that have come after its end see theirs, too. */
  #watchEnd(): void {
    if (this.#isWatched) return;
    this.#isWatched = true;
    const endReaders = () => this.#parts.stdio.endReaders();
    // Without a daemon nobody writes any more either.
    void this.wait().then(endReaders, endReaders);
  }
}
