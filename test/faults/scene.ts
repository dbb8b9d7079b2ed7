import { globSync, readFileSync, rmdirSync, unlinkSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type RunOptions, type Running, type RunResult, start } from "../support/cli-run.ts";
import { type Containerd, startContainerd, type Task } from "../support/containerd.ts";
import { type ContainerdEvent, type EventStream, watchEvents } from "../support/containerd-events.ts";
import { expectNoLeaks, takeSnapshot } from "../support/leaks.ts";
import type { Thing } from "../support/leaks-scope.ts";
import { isRunning } from "./parts.ts";
import { record } from "./rows.ts";

/** One fault in one phase of one container's life. What is seen is noted and becomes a row of the matrix. */
export interface Scene {
  readonly containerd: Containerd;
  /** The container's. */
  readonly id: string;
  /** Starts the container in the background; it is removed at the end. */
  start(command: readonly string[], flags?: readonly string[]): Promise<Task>;
  /** Runs it attached, without waiting: the result is ctr's. */
  run(command: readonly string[], flags?: readonly string[]): Promise<RunResult>;
  /** The same with its streams left to the caller; resolves when the container has started. */
  attach(command: readonly string[], flags?: readonly string[]): Promise<Running>;
  /** Runs a process in the container, without waiting. */
  exec(execId: string, command: readonly string[], options?: RunOptions): Promise<RunResult>;
  /** Resolves when the exec has started. */
  execStarted(execId: string): Promise<void>;
  /** Brings the fault about; the time runs from here. */
  strike(fault: () => unknown): void;
  /** Waits for the container's exit event and checks it. */
  expectExit(want: { exitCode: number; withinSeconds: number }): Promise<void>;
  /** For a start that must fail: checks ctr's end, whose error is what containerd knew. */
  expectFailure(result: RunResult, want: { message: RegExp; withinSeconds: number }): void;
  /** Seconds since the fault. */
  elapsed(): number;
  note(text: string): void;
  /** Asks containerd for something and notes how long the answer took; fails when it took longer than allowed. */
  timed(what: string, args: readonly string[], limitSeconds: number): Promise<RunResult>;
  /** Deletes the task and the container as a client does that has seen the exit. */
  remove(): Promise<void>;
  /** Starts containerd again, which may have been killed before, and watches its events again. */
  restartContainerd(): Promise<void>;
}

export interface FaultOptions {
  readonly timeoutMs?: number;
  /** Where the exit is promised, but containerd was away, or the daemon reported none: not checked. */
  readonly exits?: "one for each process" | "unchecked";
}

/** A containerd for all tests of a file. */
export function containerdOfFile(): () => Containerd {
  let containerd: Containerd | undefined;
  beforeAll(async () => {
    containerd = await startContainerd();
  });
  afterAll(() => containerd?.[Symbol.asyncDispose]());
  return () => {
    if (containerd === undefined) throw new Error("containerd was not started");
    return containerd;
  };
}

let count = 0;

/**
 * Defines a test: the body brings a fault about and says what must be seen. What holds for all faults is checked here: one
 * exit event for each process, init's the last, nothing left behind, and the id works again.
 */
export function fault(
  of: () => Containerd,
  name: string,
  phase: string,
  body: (scene: Scene) => Promise<void>,
  options: FaultOptions = {},
): void {
  test(`${name} · ${phase}`, { timeout: options.timeoutMs ?? 180_000 }, async () => {
    const containerd = of();
    const stage = new Stage(containerd, containerd.id(`f${++count}`), { name, phase });
    const before = await takeSnapshot(containerd.leakScope());
    let problem: Error | undefined;
    const attempt = async (step: () => Promise<unknown>) => {
      try {
        await step();
      } catch (error) {
        problem ??= error instanceof Error ? error : new Error(String(error));
      }
    };
    await attempt(() => stage.watch());
    await attempt(() => body(stage));
    // A scene without containerd that failed before it was back.
    if (!isRunning(containerd.pid)) await attempt(() => stage.restartContainerd());
    if (options.exits !== "unchecked") await attempt(async () => stage.checkExits());
    await attempt(() => stage.end());
    await attempt(async () => {
      const things = new Map([...before.things, ...stage.newContainerd]);
      await expectNoLeaks({ scope: containerd.leakScope(), things }).catch((error: unknown) => {
        stage.left = ownThings(error instanceof Error ? error.message : "");
        throw error;
      });
    });
    await containerd.removeAll();
    await attempt(async () => {
      const again = await containerd.ctr(containerd.runArgs(["--rm"], stage.id, "echo", "works"));
      expect(again, "the same id again").toMatchObject({ exitCode: 0, stdout: "works\n" });
    });
    stage.write(problem?.message ?? "");
    if (problem === undefined) return;
    const log = readFileSync(containerd.dir.join("containerd.log"), "utf8");
    console.error(`containerd's log ends with:\n${log.slice(-12_000)}`);
    throw problem;
  });
}

class Stage implements Scene {
  readonly containerd: Containerd;
  readonly id: string;
  left = "nothing";
  /** The process of a restarted containerd, which was not there before. */
  readonly newContainerd = new Map<string, Thing>();
  readonly #title: { name: string; phase: string };
  readonly #notes: string[] = [];
  readonly #earlier: ContainerdEvent[] = [];
  readonly #running: AsyncDisposable[] = [];
  #events: EventStream | undefined;
  #struckAtMs: number | undefined;
  #seconds: number | null = null;
  #exitCode: number | null = null;

  constructor(containerd: Containerd, id: string, title: { name: string; phase: string }) {
    this.containerd = containerd;
    this.id = id;
    this.#title = title;
  }

  async start(command: readonly string[], flags: readonly string[] = []): Promise<Task> {
    const task = await this.containerd.startTask(flags, this.id, ...command);
    this.#running.push(task);
    return task;
  }

  run(command: readonly string[], flags: readonly string[] = []): Promise<RunResult> {
    return this.containerd.ctr(this.containerd.runArgs(["--rm", ...flags], this.id, ...command));
  }

  async attach(command: readonly string[], flags: readonly string[] = []): Promise<Running> {
    const argv = this.containerd.ctrArgv(...this.containerd.runArgs(["--rm", ...flags], this.id, ...command));
    const running = start(argv);
    this.#running.push(running);
    await this.#waitFor("/tasks/start");
    return running;
  }

  exec(execId: string, command: readonly string[], options?: RunOptions): Promise<RunResult> {
    const flags = ["--exec-id", execId, "--fifo-dir", this.containerd.dir.join("fifo")];
    return this.containerd.ctr(["task", "exec", ...flags, this.id, ...command], options);
  }

  async execStarted(execId: string): Promise<void> {
    await this.#waitFor("/tasks/exec-started", (content) => content["exec_id"] === execId);
  }

  strike(bringAbout: () => unknown): void {
    this.#struckAtMs = performance.now();
    bringAbout();
  }

  async expectExit({ exitCode, withinSeconds }: { exitCode: number; withinSeconds: number }): Promise<void> {
    const exit = await this.#waitFor("/tasks/exit", (content) => content["id"] === this.id);
    this.#exitCode = statusOf(exit);
    expect(this.#exitCode, "exit status").toBe(exitCode);
    // An exit before the fault says nothing about it.
    if (this.#struckAtMs === undefined) return;
    this.#seconds = (exit.receivedAtMs - this.#struckAtMs) / 1000;
    expect(this.#seconds, "seconds until the exit event").toBeLessThan(withinSeconds);
  }

  expectFailure(result: RunResult, { message, withinSeconds }: { message: RegExp; withinSeconds: number }) {
    this.#seconds = this.elapsed();
    this.#exitCode = result.exitCode;
    this.note(result.stderr.trim().replace(/^ctr: /, ""));
    expect(result.exitCode, "ctr's exit code").not.toBe(0);
    expect(result.stderr).toMatch(message);
    expect(this.#seconds, "seconds until the error").toBeLessThan(withinSeconds);
  }

  elapsed(): number {
    return (performance.now() - (this.#struckAtMs ?? performance.now())) / 1000;
  }

  note(text: string): void {
    if (text !== "") this.#notes.push(text);
  }

  async timed(what: string, args: readonly string[], limitSeconds: number): Promise<RunResult> {
    const result = await this.containerd.ctr(args);
    const seconds = result.durationMs / 1000;
    this.note(`${what} ${seconds.toFixed(2)} s`);
    expect(seconds, `seconds of ${what}`).toBeLessThan(limitSeconds);
    return result;
  }

  async remove(): Promise<void> {
    await this.containerd.ctr(["task", "delete", this.id]);
    await this.containerd.ctrOk(["container", "rm", this.id]);
  }

  async restartContainerd(): Promise<void> {
    await this.containerd.restart();
    const { things } = await takeSnapshot(this.containerd.leakScope());
    for (const [key, thing] of things) {
      if (key.startsWith(`process ${this.containerd.pid}@`)) this.newContainerd.set(key, thing);
    }
    await this.watch();
  }

  async watch(): Promise<void> {
    await this.#stopWatching();
    this.#events = await watchEvents(this.containerd);
  }

  /** Each process that started has one exit at most, and nothing of a container exits after its init. */
  checkExits(): void {
    const exits = this.#ofContainer()
      .filter(({ topic }) => topic === "/tasks/exit")
      .map(({ content }) => String(content["id"]));
    expect(new Set(exits).size, `exit events of ${exits.join(", ")}: one each`).toBe(exits.length);
    if (exits.includes(this.id)) expect(exits.at(-1), "the last exit").toBe(this.id);
  }

  async end(): Promise<void> {
    for (const running of this.#running.splice(0).reverse()) await running[Symbol.asyncDispose]();
    await this.#stopWatching();
    // FIFOs are their client's to remove; a ctr whose exec was lost with the daemon, or that was killed, leaves them.
    for (const path of globSync(join(this.containerd.dir.join("fifo"), "*/*"))) unlinkSync(path);
    for (const path of globSync(join(this.containerd.dir.join("fifo"), "*"))) rmdirSync(path);
  }

  write(problem: string): void {
    record({
      kind: "row",
      row: {
        fault: this.#title.name,
        phase: this.#title.phase,
        seconds: this.#seconds,
        exitCode: this.#exitCode,
        events: this.#ofContainer().map((event) => this.#describe(event)),
        left: this.left,
        note: this.#notes.join("; "),
        problem,
      },
    });
  }

  async #stopWatching(): Promise<void> {
    if (this.#events === undefined) return;
    this.#earlier.push(...this.#events.events);
    await this.#events[Symbol.asyncDispose]();
    this.#events = undefined;
  }

  #ofContainer(): ContainerdEvent[] {
    return [...this.#earlier, ...(this.#events?.events ?? [])].filter(
      ({ topic, content }) => topic.startsWith("/tasks/") && content["container_id"] === this.id,
    );
  }

  #describe(event: ContainerdEvent): string {
    const topic = event.topic.replace("/tasks/", "");
    if (topic !== "exit" && topic !== "delete") return topic;
    const process = event.content["id"];
    const of = topic === "exit" && process !== this.id ? `(${String(process)})` : "";
    return `${topic}${of}=${statusOf(event)}`;
  }

  #waitFor(
    topic: string,
    matches: (content: Record<string, unknown>) => boolean = () => true,
  ): Promise<ContainerdEvent> {
    if (this.#events === undefined) throw new Error("Nobody watches the events");
    return this.#events.waitFor(
      (event) => event.topic === topic && event.content["container_id"] === this.id && matches(event.content),
      90_000,
    );
  }
}

/** protobuf's JSON leaves out a status of 0. */
function statusOf({ content }: ContainerdEvent): number {
  return Number(content["exit_status"] ?? 0);
}

/** On a machine that others use at the same time, what the leak check lists has things in it that are not ours. */
function ownThings(list: string): string {
  return list
    .split("\n")
    .filter((line) => /^\s+(left|missing):/.test(line) && !line.includes("(no mark of this test)"))
    .map((line) => line.trim().replace(/\s+/g, " "))
    .join("; ");
}
