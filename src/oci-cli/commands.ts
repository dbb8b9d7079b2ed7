import { RuntimeError } from "../base/errors.ts";
import { signalNumber } from "../client/signal-names.ts";
import { kill, pause, resume, start, update } from "./control.ts";
import { create, run } from "./create.ts";
import { deleteContainer } from "./delete.ts";
import { features, spec } from "./documents.ts";
import { events, parseDuration } from "./events.ts";
import { exec, type ExecOptions, type ProcessChanges } from "./exec.ts";
import type { Flag, FlagValues } from "./flags.ts";
import type { Host } from "./host.ts";
import { refusedResources, resourceFlags, resourcesOf } from "./resources.ts";
import { list, ps, state } from "./state.ts";

export interface Command {
  readonly name: string;
  /** What stands behind the flags in the usage. */
  readonly usage: string;
  readonly text: string;
  readonly flags: readonly Flag[];
  /** Fewest and most arguments. */
  readonly counts: readonly [number, number];
  /** Its container must be there before anything else is looked at. */
  readonly needsContainer?: boolean;
  /** What follows the container's id is not for us. */
  readonly takesCommand?: boolean;
  /** What stands before the message of a failure. */
  readonly failurePrefix?: string;
  /** What a failure exits with. Default: 1. */
  readonly failureCode?: number;
  /** Returns the exit code. */
  readonly run: (host: Host, flags: FlagValues, args: readonly string[]) => Promise<number>;
}

const flag =
  (kind: Flag["kind"]) =>
  (names: string, text: string): Flag => ({ names: names.split(","), kind, text });
const toggle = flag("switch");
const value = flag("text");
const values = flag("list");

const consoleSocket = value("console-socket", "unix socket that gets the master of the pseudo terminal");
const pidFile = value("pid-file", "file to write the pid to of the process that stands for the container's");
const preserveFds = flag("number")(
  "preserve-fds",
  "number of further open files for the process: stream sockets and pipes",
);
const createFlags: readonly Flag[] = [
  value("bundle,b", "directory of the bundle (default: the current one)"),
  consoleSocket,
  pidFile,
  toggle("no-pivot", "accepted, and without effect: the guest can always pivot"),
  toggle("no-new-keyring", "accepted, and without effect: the guest's keyrings are its own"),
  preserveFds,
];

export const commands: readonly Command[] = [
  {
    name: "create",
    usage: "<container-id>",
    text: "create a container",
    flags: createFlags,
    counts: [1, 1],
    failurePrefix: "caisson-oci create failed: ",
    run: (host, flags, [id = ""]) => create(host, createOptions(flags, id)),
  },
  {
    name: "run",
    usage: "<container-id>",
    text: "create and run a container",
    flags: [
      ...createFlags,
      toggle("detach,d", "end when the container's process runs"),
      toggle("keep", "do not delete the container when it has ended"),
      toggle("no-subreaper", "accepted, and without effect"),
    ],
    counts: [1, 1],
    failurePrefix: "caisson-oci run failed: ",
    run: (host, flags, [id = ""]) =>
      run(host, { ...createOptions(flags, id), detached: flags.isOn("detach"), keep: flags.isOn("keep") }),
  },
  {
    name: "start",
    usage: "<container-id>",
    text: "execute the process of a created container",
    flags: [],
    counts: [1, 1],
    needsContainer: true,
    run: (host, _flags, [id = ""]) => start(host, id),
  },
  {
    name: "state",
    usage: "<container-id>",
    text: "output the state of a container",
    flags: [],
    counts: [1, 1],
    needsContainer: true,
    run: (host, _flags, [id = ""]) => state(host, id),
  },
  {
    name: "kill",
    usage: "<container-id> [signal]",
    text: "send a signal to a container's process (default: SIGTERM)",
    flags: [toggle("all,a", "send it to all processes of the container")],
    counts: [1, 2],
    needsContainer: true,
    run: (host, flags, [id = "", signal = "SIGTERM"]) =>
      kill(host, id, killSignal(signal), flags.isOn("all")),
  },
  {
    name: "delete",
    usage: "<container-id>",
    text: "delete a container and all that belongs to it",
    flags: [toggle("force,f", "kill it first if it runs; nothing there is fine")],
    counts: [1, 1],
    run: (host, flags, [id = ""]) => deleteContainer(host, id, flags.isOn("force")),
  },
  {
    name: "exec",
    usage: "<container-id> <command> [args...]",
    text: "execute a further process in a container",
    flags: [
      consoleSocket,
      value("cwd", "working directory in the container"),
      values("env,e", "NAME=VALUE, on top of the container's"),
      toggle("tty,t", "give it a terminal"),
      value("user,u", "UID[:GID]"),
      values("additional-gids,g", "further group"),
      value("process,p", "file with the process (process.json)"),
      toggle("detach,d", "end when the process runs"),
      pidFile,
      value("process-label", "not supported: the guest has no SELinux"),
      value("apparmor", "not supported: the guest has no AppArmor"),
      toggle("no-new-privs", "set no_new_privs"),
      values("cap,c", "capability to add"),
      preserveFds,
      value("cgroup", "not supported"),
      toggle("ignore-paused", "not supported"),
    ],
    counts: [1, Number.POSITIVE_INFINITY],
    needsContainer: true,
    takesCommand: true,
    failurePrefix: "exec failed: ",
    failureCode: 255,
    run: (host, flags, args) => exec(host, execOptions(flags, args)),
  },
  {
    name: "ps",
    usage: "<container-id> [ps options]",
    text: "show the host's processes that stand for those of a container",
    flags: [value("format,f", "table or json")],
    counts: [1, Number.POSITIVE_INFINITY],
    needsContainer: true,
    takesCommand: true,
    run: (host, flags, [id = "", ...psArgs]) =>
      ps(host, id, oneOf(flags.text("format") ?? "table", ["table", "json"]), psArgs),
  },
  {
    name: "list",
    usage: "",
    text: "list the containers of this root",
    flags: [value("format,f", "table or json"), toggle("quiet,q", "ids only")],
    counts: [0, 0],
    run: (host, flags) =>
      list(host, flags.isOn("quiet") ? "quiet" : oneOf(flags.text("format") ?? "table", ["table", "json"])),
  },
  {
    name: "pause",
    usage: "<container-id>",
    text: "suspend all processes of a container",
    flags: [],
    counts: [1, 1],
    needsContainer: true,
    run: (host, _flags, [id = ""]) => pause(host, id),
  },
  {
    name: "resume",
    usage: "<container-id>",
    text: "resume all processes of a paused container",
    flags: [],
    counts: [1, 1],
    needsContainer: true,
    run: (host, _flags, [id = ""]) => resume(host, id),
  },
  {
    name: "update",
    usage: "<container-id>",
    text: "change the limits of a container",
    flags: [
      value("resources,r", 'file with the resources (JSON), "-" for stdin'),
      ...resourceFlags.map((name) => value(name, "limit to set")),
      ...refusedResources.map((name) => value(name, "not supported")),
    ],
    counts: [1, 1],
    needsContainer: true,
    run: async (host, flags, [id = ""]) => update(host, id, await resourcesOf(flags)),
  },
  {
    name: "events",
    usage: "<container-id>",
    text: "show statistics and kills for want of memory",
    flags: [
      toggle("stats", "show the statistics once"),
      value("interval", "between statistics (default: 5s)"),
    ],
    counts: [1, 1],
    needsContainer: true,
    run: (host, flags, [id = ""]) =>
      events(host, id, {
        once: flags.isOn("stats"),
        intervalMs: parseDuration(flags.text("interval") ?? "5s"),
      }),
  },
  {
    name: "spec",
    usage: "",
    text: "write a configuration to start from",
    flags: [value("bundle,b", "directory to write it to"), toggle("rootless", "not supported")],
    counts: [0, 0],
    run: (_host, flags) => {
      if (flags.isOn("rootless")) throw notSupported("--rootless: caisson-oci needs root");
      return spec(flags.text("bundle"));
    },
  },
  {
    name: "features",
    usage: "",
    text: "show what is supported",
    flags: [],
    counts: [0, 0],
    run: () => Promise.resolve(features()),
  },
  ...["checkpoint", "restore"].map(
    (name): Command => ({
      name,
      usage: "<container-id>",
      text: "not supported: a microVM cannot be checkpointed or restored",
      flags: [],
      counts: [0, Number.POSITIVE_INFINITY],
      needsContainer: name === "checkpoint",
      takesCommand: true,
      run: () => {
        throw notSupported(`${name}: a container in a microVM cannot be checkpointed or restored`);
      },
    }),
  ),
];

function createOptions(flags: FlagValues, id: string) {
  return {
    id,
    bundle: flags.text("bundle"),
    consoleSocket: flags.text("console-socket"),
    pidFile: flags.text("pid-file"),
    preserveFds: flags.number("preserve-fds"),
  };
}

function execOptions(flags: FlagValues, [id = "", ...args]: readonly string[]): ExecOptions {
  for (const name of ["process-label", "apparmor", "cgroup", "ignore-paused"]) {
    if (flags.given.includes(name)) throw notSupported(`--${name}`);
  }
  const file = flags.text("process");
  if (file === undefined && args.length === 0)
    throw new RuntimeError("invalid_argument", "process args cannot be empty");
  const changes: ProcessChanges = {
    args,
    cwd: flags.text("cwd"),
    env: flags.list("env"),
    user: flags.text("user"),
    additionalGids: flags.list("additional-gids").map((gid) => wholeNumber("additional-gids", gid)),
    terminal: flags.isOn("tty"),
    noNewPrivileges: flags.isOn("no-new-privs"),
    capabilities: flags.list("cap"),
  };
  return {
    id,
    process: file ?? changes,
    detached: flags.isOn("detach"),
    consoleSocket: flags.text("console-socket"),
    pidFile: flags.text("pid-file"),
    preserveFds: flags.number("preserve-fds"),
  };
}

const maxSignal = 64;

/** As runc: 0 asks whether the process is there. */
function killSignal(text: string): number {
  if (text === "0") return 0;
  if (/^\d+$/.test(text) && Number(text) > maxSignal)
    throw new RuntimeError("invalid_argument", "unable to signal init: invalid argument");
  try {
    return signalNumber(text);
  } catch {
    throw new RuntimeError("invalid_argument", `unknown signal ${JSON.stringify(text.slice(0, 40))}`);
  }
}

function wholeNumber(name: string, text: string): number {
  if (/^\d{1,9}$/.test(text)) return Number(text);
  throw new RuntimeError(
    "invalid_argument",
    `invalid value ${JSON.stringify(text.slice(0, 40))} for -${name}`,
  );
}

function oneOf<T extends string>(text: string, allowed: readonly T[]): T {
  const found = allowed.find((entry) => entry === text);
  if (found !== undefined) return found;
  throw new RuntimeError("invalid_argument", "invalid format option");
}

function notSupported(what: string): RuntimeError {
  return new RuntimeError(
    "unimplemented",
    `${what} is not supported`.replace(/(: .*) is not supported$/, " is not supported$1"),
  );
}
