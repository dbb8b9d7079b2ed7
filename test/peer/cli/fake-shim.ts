/**
 * A shim without VMs: `start` leaves a daemon behind that serves the task API on a real socket and runs the container's
 * command as a plain process of this machine, its stdio copied through FIFOs and files as the real one does. `delete`
 * kills the daemon. Each request is a line in `requests.log` beside the bundle.
 *
 * What goes wrong is asked for by the image's environment: FAKE_CREATE_ERROR (the message of Create's failure),
 * FAKE_START_ERROR, FAKE_SLOW_CREATE (milliseconds).
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import {
  appendFileSync,
  closeSync,
  existsSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { pipeline } from "node:stream/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { RuntimeError } from "../../../src/base/errors.ts";
import { containerd } from "../../../src/gen/containerd.js";
import { openInput, openOutput } from "../../../src/sandbox/fifo.ts";
import { taskMethods, taskServiceNames } from "../../../src/shim/task-api.ts";
import { TtrpcServer } from "../../../src/ttrpc/server.ts";
import { bindService } from "../../../src/ttrpc/service.ts";

interface Streams {
  readonly stdin: string;
  readonly stdout: string;
  readonly stderr: string;
}

interface Task {
  readonly args: readonly string[];
  readonly streams: Streams;
  child?: ChildProcess;
  release: () => void;
  readonly exit: PromiseWithResolvers<number>;
  exitCode?: number;
}

/** How long the output of an ended process may take to be read, as in the configuration of the real one. */
const drainTimeoutMs = 3_000;

const bundle = process.cwd();
const action = process.argv.at(-1);
const logPath = join(dirname(bundle), "requests.log");
const pidPath = join(dirname(bundle), "daemon.pid");
// Short, because the temporary directory's path already is not.
const socketPath = join("/tmp", `caisson-fake-${basename(dirname(bundle))}.sock`);

function note(line: string): void {
  if (existsSync(dirname(logPath))) appendFileSync(logPath, `${line}\n`);
  appendFileSync(process.env["FAKE_LOG"] ?? "/dev/null", `${line}\n`);
}

const { env, args } = (
  JSON.parse(readFileSync(join(bundle, "config.json"), "utf8")) as {
    process: { env: string[]; args: string[] };
  }
).process;
const setting = (name: string) => env.find((entry) => entry.startsWith(`${name}=`))?.slice(name.length + 1);

switch (action) {
  case "start": {
    note("start");
    const log = openSync(join(dirname(bundle), "daemon.log"), "a");
    const child = spawn(process.execPath, [...process.execArgv, import.meta.filename, "serve"], {
      cwd: bundle,
      stdio: ["ignore", "pipe", log],
      detached: true,
    });
    closeSync(log);
    await once(child.stdout as NonNullable<typeof child.stdout>, "data");
    writeFileSync(pidPath, String(child.pid));
    process.stdout.write(`unix://${socketPath}`);
    process.exit(0);
  }
  case "delete": {
    note("delete");
    try {
      process.kill(Number(readFileSync(pidPath, "utf8")), "SIGKILL");
    } catch {
      // It has ended already.
    }
    rmSync(socketPath, { force: true });
    process.stdout.write(containerd.task.v2.DeleteResponse.encode({ exitStatus: 137 }).finish());
    break;
  }
  case "serve":
    await serve();
    break;
  default:
    throw new Error(`Cannot run "${action}"`);
}

async function serve(): Promise<void> {
  const tasks = new Map<string, Task>();
  const find = (execId: string): Task => {
    const task = tasks.get(execId);
    if (task === undefined) throw new RuntimeError("not_found", `Cannot find process "${execId}"`);
    return task;
  };
  const add = (execId: string, task: Pick<Task, "args" | "streams">) => {
    tasks.set(execId, { ...task, release: () => {}, exit: Promise.withResolvers() });
  };
  const handlers = {
    create: async ({ stdin, stdout, stderr, rootfs }: containerd.task.v2.CreateTaskRequest) => {
      note(`Create ${rootfs.map((mount) => mount.type).join()}`);
      await sleep(Number(setting("FAKE_SLOW_CREATE") ?? 0));
      const failure = setting("FAKE_CREATE_ERROR");
      if (failure !== undefined) throw new RuntimeError("invalid_argument", failure);
      add("", { args, streams: { stdin, stdout, stderr } });
      // The real one opens them here; what it holds is closed with it.
      await open(find(""));
      return { pid: process.pid };
    },
    exec: async ({ execId, stdin, stdout, stderr, spec }: containerd.task.v2.ExecProcessRequest) => {
      note("Exec");
      const own = JSON.parse(Buffer.from(spec?.value ?? "").toString("utf8")) as { args: string[] };
      add(execId, { args: own.args, streams: { stdin, stdout, stderr } });
      return {};
    },
    start: async ({ execId }: { execId: string }) => {
      note("Start");
      const failure = setting("FAKE_START_ERROR");
      if (failure !== undefined) throw new RuntimeError("internal", failure);
      const task = find(execId);
      if (execId !== "") await open(task);
      await run(task);
      return { pid: process.pid };
    },
    state: ({ execId }: { execId: string }) => ({ status: find(execId).exitCode === undefined ? 2 : 3 }),
    wait: async ({ execId }: { execId: string }) => {
      note("Wait");
      return { exitStatus: await find(execId).exit.promise };
    },
    kill: ({ execId, signal }: { execId: string; signal: number }) => {
      note(`Kill ${signal}`);
      const { child } = find(execId);
      if (child !== undefined && (child.exitCode ?? child.signalCode) !== null)
        throw new RuntimeError("not_found", "Cannot kill: it has ended");
      if (child?.pid !== undefined) process.kill(child.pid, signal);
      return {};
    },
    closeIo: ({ execId }: { execId: string }) => {
      note("CloseIO");
      find(execId).release();
      return {};
    },
    resizePty: ({ width, height }: { width: number; height: number }) => {
      note(`ResizePty ${width}x${height}`);
      return {};
    },
    delete: ({ execId }: { execId: string }) => {
      note("Delete");
      find(execId);
      tasks.delete(execId);
      return { exitStatus: 0 };
    },
    shutdown: () => {
      note("Shutdown");
      setTimeout(() => process.exit(0), 20);
      return {};
    },
  };
  const server = new TtrpcServer({
    services: [bindService(taskServiceNames[0], taskMethods, handlers)],
    onInternalError: (error) => note(`internal error: ${String(error)}`),
  });
  await server.listen(socketPath);
  process.stdout.write("up");
}

const opened = new WeakMap<Task, Awaited<ReturnType<typeof openAll>>>();

async function open(task: Task): Promise<void> {
  opened.set(task, await openAll(task.streams));
}

async function openAll({ stdin, stdout, stderr }: Streams) {
  const signal = AbortSignal.timeout(10_000);
  return {
    input: stdin === "" ? undefined : openInput(stdin),
    stdout: await openOutput(stdout, signal),
    stderr: stderr === "" ? undefined : await openOutput(stderr, signal),
  };
}

async function run(task: Task): Promise<void> {
  const ends = opened.get(task);
  if (ends === undefined) throw new Error("the streams are not open");
  const [file = "", ...rest] = task.args;
  const child = spawn(file, rest, { stdio: "pipe" });
  task.child = child;
  await once(child, "spawn");
  if (ends.input === undefined) child.stdin.end();
  else {
    const { input } = ends;
    task.release = () => input.release();
    void pipeline(input.stream, child.stdin).catch(() => {});
  }
  const copies = [
    pipeline(child.stdout, ends.stdout.stream, { end: false }).then(() => ends.stdout.finish()),
  ];
  if (ends.stderr !== undefined) {
    const { stderr } = ends;
    copies.push(pipeline(child.stderr, stderr.stream, { end: false }).then(() => stderr.finish()));
  }
  child.once("exit", (code, signal) => {
    void Promise.race([Promise.allSettled(copies), sleep(drainTimeoutMs)]).then(() => {
      ends.input?.close();
      task.exitCode = signal === null ? (code ?? 0) : 128 + (signal === "SIGKILL" ? 9 : 15);
      task.exit.resolve(task.exitCode);
    });
  });
}
