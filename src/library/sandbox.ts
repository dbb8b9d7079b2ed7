import type { Readable } from "node:stream";
import { codeOf, describe, RuntimeError } from "../base/errors.ts";
import type { ContainerStats } from "../sandbox/model.ts";
import { checkCommand } from "./check.ts";
import { runCommand, spawnCommand } from "./command.ts";
import type { SandboxEvent } from "./events.ts";
import { copyIn, copyInTar, copyOut, copyOutTar, type FileHost, readFile, writeFile } from "./files.ts";
import { keepAlive } from "../base/keep-alive.ts";
import { trackOpen } from "./open-sandboxes.ts";
import type {
  CopyInOptions,
  CopyOutOptions,
  ReadFileOptions,
  RunOptions,
  RunResult,
  SandboxOptions,
  SpawnOptions,
  WriteFileOptions,
} from "./options.ts";
import { forwardPort, type ForwardPortOptions, type PortForward } from "./port-forward.ts";
import type { SandboxProcess } from "./process.ts";
import { type SandboxParts, startSandbox } from "./start.ts";

/**
 * A microVM for code that is not trusted. It belongs to this program and ends with it, however that ends.
 *
 * ```ts
 * await using sandbox = await Sandbox.create({ image: "docker.io/library/python:3" });
 * const { stdout } = await sandbox.run("python3", ["-c", "print(6 * 7)"]);
 * ```
 *
 * Calls may be made at the same time. Once the sandbox has ended each fails: with `failed_precondition` when it was closed,
 * `deadline_exceeded` or `canceled` when its time was over, `unavailable` when its VM has ended by itself.
 *
 * An open sandbox does not keep the program running; what is waited for does.
 */
export class Sandbox implements AsyncDisposable {
  readonly id: string;
  /**
   * What happens in it, from the time at which an iteration begins. The last event is "closed". A reader that is more than
   * 1024 events behind misses the oldest.
   */
  readonly events: AsyncIterable<SandboxEvent>;
  readonly #parts: SandboxParts;
  readonly #host: FileHost;
  readonly #over = new AbortController();
  #ended: RuntimeError | undefined;
  #closing: Promise<void> | undefined;

  private constructor(parts: SandboxParts) {
    this.#parts = parts;
    this.id = parts.id;
    this.events = parts.events;
    this.#host = { ...parts.host, ended: () => this.#ended };
  }

  /**
   * Boots a sandbox. Nothing runs in it but what `run` and `spawn` start.
   *
   * @throws invalid_argument   an option or the image is wrong
   * @throws not_found          there is no such image, directory or program of the host
   * @throws permission_denied  it needs root
   * @throws unavailable        the VM does not start (without working KVM, for example)
   * @throws deadline_exceeded, canceled, resource_exhausted
   */
  static create(options: SandboxOptions): Promise<Sandbox> {
    return keepAlive(Sandbox.#create(options));
  }

  /**
   * Runs a program to its end. An exit code other than 0 is no error.
   *
   * @throws invalid_argument  there is no such program, user or working directory
   * @throws CommandError      it was killed, for `deadline_exceeded` (`timeoutMs`), `canceled` (`signal`) or
   *                           `resource_exhausted` (`maxOutputBytes`), or the sandbox has ended; has its output so far
   */
  run(command: string, args: readonly string[] = [], options: RunOptions = {}): Promise<RunResult> {
    return keepAlive(this.#run(command, args, options));
  }

  /**
   * Starts a program and hands out its streams. While it runs it keeps this program running.
   *
   * @throws invalid_argument  there is no such program, user or working directory
   */
  spawn(command: string, args: readonly string[] = [], options: SpawnOptions = {}): Promise<SandboxProcess> {
    return keepAlive(this.#spawn(command, args, options));
  }
  /**
   * The content of a regular file; with `encoding` as text. Links are followed within the sandbox.
   *
   * @throws not_found           there is none
   * @throws invalid_argument    it is a directory, a device or the like
   * @throws resource_exhausted  it is larger than `maxBytes`
   */
  readFile(path: string, options: ReadFileOptions & { readonly encoding: "utf8" }): Promise<string>;
  readFile(path: string, options?: ReadFileOptions): Promise<Buffer>;
  readFile(
    path: string,
    options: ReadFileOptions & { readonly encoding?: "utf8" } = {},
  ): Promise<string | Buffer> {
    return this.#use(async () => {
      const content = await readFile(this.#host, path, options);
      return options.encoding === undefined ? content : content.toString(options.encoding);
    });
  }

  /**
   * Writes a file, with its missing directories. One that is there keeps owner and permissions. Strings are written as UTF-8.
   *
   * @throws invalid_argument    a directory is in its place, a file in that of its directory
   * @throws permission_denied   it lies in what is mounted read-only
   * @throws resource_exhausted  it does not fit
   */
  writeFile(
    path: string,
    data: string | Uint8Array | Readable,
    options: WriteFileOptions = {},
  ): Promise<void> {
    return this.#use(() => writeFile(this.#host, path, data, options));
  }

  /**
   * Copies a file of this machine to the path `target` in the sandbox, or the content of a directory into the directory
   * `target`, which is made when missing. Symbolic links stay what they are; devices, sockets and FIFOs are left out.
   *
   * @throws not_found  there is no such file or directory on this machine
   */
  copyIn(source: string, target: string, options: CopyInOptions = {}): Promise<void> {
    return this.#use(() => copyIn(this.#host, source, target, options));
  }

  /**
   * The reverse. Whatever the sandbox makes of it, nothing outside of `target` is written, and nothing is written through a link.
   * Files belong to the caller and lose set-user-id bits; what is mounted below `source` is left out.
   *
   * @throws not_found           there is no such file or directory in the sandbox
   * @throws invalid_argument    a link leads out of it (`unsafeLinks`)
   * @throws resource_exhausted  more than `maxBytes` or `maxEntries`
   */
  copyOut(source: string, target: string, options: CopyOutOptions = {}): Promise<void> {
    return this.#use(() => copyOut(this.#host, source, target, options));
  }

  /**
   * Unpacks a tar stream into a directory of the sandbox. It may come from anybody: no entry reaches out of the directory.
   *
   * @throws invalid_argument  it is none, or an entry would reach out, is a device or the like
   */
  copyInTar(tar: Readable, target: string, options: CopyInOptions = {}): Promise<void> {
    return this.#use(() => copyInTar(this.#host, tar, target, options));
  }

  /**
   * A file or directory of the sandbox as a tar stream, which fails with a `CaissonError`. The sandbox has made it: unpack it with
   * care, or use `copyOut`. @throws invalid_argument  the path is no absolute one
   */
  copyOutTar(source: string, options: { readonly signal?: AbortSignal } = {}): Readable {
    return copyOutTar(this.#host, source, options.signal);
  }

  /**
   * Listens on this machine; every connection is joined to a connection to a TCP port of the sandbox's loopback. A connection for which
   * nobody listens there is reset. Ends with the sandbox.
   *
   * @throws invalid_argument  not a port
   * @throws already_exists, permission_denied  the local port is taken, or not for us
   */
  forwardPort(guestPort: number, options: ForwardPortOptions = {}): Promise<PortForward> {
    return this.#use(() => forwardPort(this.#parts.model, guestPort, options, this.#over.signal));
  }

  /** Freezes all its processes. @throws failed_precondition  it is paused already */
  pause(): Promise<void> {
    return this.#use(() => this.#parts.container.pause());
  }

  /** @throws failed_precondition  it is not paused */
  resume(): Promise<void> {
    return this.#use(() => this.#parts.container.resume());
  }

  /** What its processes use together. Bytes, microseconds and counts. */
  stats(): Promise<ContainerStats> {
    return this.#use(() => this.#parts.container.stats());
  }

  /**
   * Ends the VM with all that runs in it and removes everything of the sandbox from this machine. Safe to call twice.
   *
   * @throws internal  something could not be removed; the next program that makes a sandbox tries again
   */
  close(): Promise<void> {
    return keepAlive(this.#end(this.#error("failed_precondition", "it was closed")));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  static async #create(options: SandboxOptions): Promise<Sandbox> {
    const beginMs = performance.now();
    const sandbox = new Sandbox(await startSandbox(options));
    sandbox.#endWith(options, performance.now() - beginMs);
    return sandbox;
  }

  async #run(command: string, args: readonly string[], options: RunOptions): Promise<RunResult> {
    checkCommand(command, args, options);
    return await runCommand(this.#host, [command, ...args], options);
  }

  async #spawn(command: string, args: readonly string[], options: SpawnOptions): Promise<SandboxProcess> {
    checkCommand(command, args, options);
    return await spawnCommand(this.#host, [command, ...args], options);
  }

  #use<T>(work: () => Promise<T>): Promise<T> {
    return keepAlive(
      (async () => {
        if (this.#ended !== undefined) throw this.#ended;
        try {
          return await work();
        } catch (error) {
          throw this.#ended ?? error;
        }
      })(),
    );
  }

  /** Ends it when its time is over, its signal aborts, its VM has ended, or the program has nothing left to do. */
  #endWith({ timeoutMs, signal }: SandboxOptions, usedMs: number): void {
    const end = (error: RuntimeError) => {
      // A failure is reported to whoever calls `close`, and else in the log of the one who sweeps.
      void this.#end(error).catch(() => {});
    };
    const over = this.#over.signal;
    over.addEventListener("abort", trackOpen(this), { once: true });
    const abort = () => end(this.#error("canceled", "its signal has aborted", signal?.reason));
    signal?.addEventListener("abort", abort, { signal: over });
    if (signal?.aborted) abort();
    if (timeoutMs !== undefined) {
      const late = () => end(this.#error("deadline_exceeded", `its ${timeoutMs} ms are over`));
      const timer = setTimeout(late, Math.max(0, timeoutMs - usedMs)).unref();
      over.addEventListener("abort", () => clearTimeout(timer), { once: true });
    }
    void this.#parts.lost.then((reason) => end(this.#error("unavailable", `its VM has ended, ${reason}`)));
  }

  #end(reason: RuntimeError): Promise<void> {
    this.#ended ??= reason;
    this.#closing ??= this.#release();
    return this.#closing;
  }

  async #release(): Promise<void> {
    this.#over.abort();
    try {
      await this.#parts.release();
    } catch (cause) {
      throw new RuntimeError(codeOf(cause), `Cannot remove everything of sandbox "${this.id}"`, { cause });
    } finally {
      this.#parts.events.emit({ type: "closed", reason: describe(this.#ended) });
    }
  }

  #error(code: RuntimeError["code"], fact: string, cause?: unknown): RuntimeError {
    return new RuntimeError(code, `Cannot use sandbox "${this.id}": ${fact}`, { cause });
  }
}
