import { Command } from "commander";
import { RuntimeError } from "../base/errors.ts";
import { checkId } from "../base/ids.ts";
import type { Volume } from "../image/spec.ts";
import { version } from "../shim/version.ts";
import { randomContainerId } from "./container-plan.ts";
import { exitCodeOf, exitCodes, report } from "./failure.ts";
import type { Host } from "./host.ts";
import {
  parseAccelerator,
  parseCpus,
  parseEnvironment,
  parseKernel,
  parseMemory,
  parseSeconds,
  parseVolume,
  parseWorkingDirectory,
} from "./options.ts";
import { waitCommand } from "./wait-command.ts";

/** What the command line says, before anything is done about it. */
type Action = (host: Host) => Promise<number>;

export interface Invocation {
  readonly action: Action;
  /** What an error of `action` exits with. */
  readonly exitCodeOf: (error: unknown) => number;
}

const plainExitCode = () => exitCodes.failed;

/**
 * Parses the arguments (without node and the script).
 *
 * @throws CommanderError    help or version was printed (exit code 0), or a flag or command is unknown
 * @throws RuntimeError      a value is bad
 */
export async function parseArguments(
  args: readonly string[],
  io: { write: (text: string) => void },
): Promise<Invocation> {
  let invocation: Invocation | undefined;
  const choose = (action: Action, toExitCode: (error: unknown) => number = plainExitCode) => {
    invocation = { action, exitCodeOf: toExitCode };
  };
  const program = new Command("caisson")
    .description("Runs containers, each in a microVM of its own.")
    .version(`caisson ${version}`)
    .enablePositionalOptions()
    .exitOverride()
    .configureOutput({ writeOut: io.write, writeErr: () => {} });
  addRun(program, choose);
  addExec(program, choose);
  addContainerCommands(program, choose);
  if (args.length === 0)
    throw new RuntimeError(
      "invalid_argument",
      'Cannot run caisson: no command was given; see "caisson --help"',
    );
  await program.parseAsync([...args], { from: "user" });
  if (invocation === undefined)
    throw new RuntimeError(
      "invalid_argument",
      'Cannot run caisson: no command was given; see "caisson --help"',
    );
  return invocation;
}

type Choose = (action: Action, toExitCode?: (error: unknown) => number) => void;

/** Repeatable options add up. */
function collect<T>(parse: (text: string) => T): (text: string, before?: readonly T[]) => readonly T[] {
  return (text, before = []) => [...before, parse(text)];
}

const environment = collect((text: string) => parseEnvironment(text, process.env));

interface RunFlags {
  rm?: true;
  detach?: true;
  interactive?: true;
  tty?: true;
  env?: readonly (string | undefined)[];
  volume?: readonly Volume[];
  workdir?: string;
  user?: string;
  cpus?: number;
  memory?: number;
  name?: string;
  kernel?: string;
  accel?: ReturnType<typeof parseAccelerator>;
  timeline?: true;
  trace?: string;
}

function addRun(program: Command, choose: Choose): void {
  program
    .command("run")
    .summary("run a command in a new container")
    .description(
      "Runs a command in a new container.\n\nIMAGE is oci:DIR[:TAG], oci-archive:FILE, docker-archive:FILE, rootfs:DIR, or a name in a registry.",
    )
    .argument("<image>")
    .argument("[command...]")
    .passThroughOptions()
    .option("--rm", "remove the container when it has ended")
    .option("-d, --detach", "run in the background and print the id")
    .option("-i, --interactive", "pass stdin on")
    .option("-t, --tty", "give the container a terminal")
    .option("-e, --env <NAME=VALUE>", "set an environment variable", environment)
    .option("-v, --volume <SRC:DST[:ro]>", "show a directory or file of this machine", collect(parseVolume))
    .option("-w, --workdir <dir>", "working directory", parseWorkingDirectory)
    .option("-u, --user <user[:group]>", "names or numbers")
    .option("--cpus <number>", "how many CPUs' time", parseCpus)
    .option("--memory <size>", "memory limit, such as 256M", parseMemory)
    .option("--name <id>", "the container's id; default: random", (text: string) => checkId("--name", text))
    .option("--kernel <file>", "boot this kernel", parseKernel)
    .option("--accel <kvm|tcg|auto>", "how the VM executes", parseAccelerator)
    .option("--timeline", "print where the time went")
    .option("--trace <file>", "write where the time went, for Perfetto")
    .action((image: string, args: string[], flags: RunFlags) => {
      const options = {
        image,
        args,
        containerId: flags.name ?? randomContainerId(),
        autoRemove: flags.rm ?? false,
        detached: flags.detach ?? false,
        ...streams(flags),
        volumes: flags.volume ?? [],
        ...given("cpus", flags.cpus),
        ...given("memoryBytes", flags.memory),
        ...given("kernelPath", flags.kernel),
        ...given("accel", flags.accel),
        timeline: flags.timeline ?? false,
        ...given("tracePath", flags.trace),
      };
      choose(async (host) => (await import("./run.ts")).run(host, options), exitCodeOf);
    });
}

type StreamFlags = Pick<RunFlags, "interactive" | "tty" | "env" | "workdir" | "user">;

/** What `run` and `exec` have in common. */
function streams(flags: StreamFlags) {
  return {
    interactive: flags.interactive ?? false,
    terminal: flags.tty ?? false,
    env: (flags.env ?? []).filter((entry) => entry !== undefined),
    ...given("workingDirectory", flags.workdir),
    ...given("user", flags.user),
  };
}

function addExec(program: Command, choose: Choose): void {
  program
    .command("exec")
    .description("Runs another command in a running container.")
    .argument("<id>")
    .argument("<command...>")
    .passThroughOptions()
    .option("-i, --interactive", "pass stdin on")
    .option("-t, --tty", "give the command a terminal")
    .option("-e, --env <NAME=VALUE>", "set an environment variable", environment)
    .option("-w, --workdir <dir>", "working directory", parseWorkingDirectory)
    .option("-u, --user <user[:group]>", "names or numbers")
    .action((containerId: string, args: string[], flags: StreamFlags) => {
      const options = { containerId: checkId("container id", containerId), args, ...streams(flags) };
      choose(async (host) => (await import("./exec.ts")).exec(host, options), exitCodeOf);
    });
}

function addContainerCommands(program: Command, choose: Choose): void {
  program
    .command("ps")
    .description("Lists containers.")
    .option("-a, --all", "those that have ended too")
    .option("-q, --quiet", "ids only")
    .option("--json", "as JSON")
    .action((flags: { all?: true; quiet?: true; json?: true }) => {
      const { all = false, quiet = false, json = false } = flags;
      choose(async (host) => (await import("./ps.ts")).ps(host, { all, quiet, json }));
    });
  program
    .command("logs")
    .description("Shows what a container has written.")
    .argument("<id>")
    .option("-f, --follow", "go on until it ends")
    .action((containerId: string, flags: { follow?: true }) => {
      const options = { containerId: checkId("container id", containerId), follow: flags.follow ?? false };
      choose(async (host) => (await import("./logs.ts")).logs(host, options), followExitCode);
    });
  program
    .command("stop")
    .description("Stops containers: their stop signal, then SIGKILL.")
    .argument("<id...>")
    .option("-t, --time <seconds>", "how long to wait before SIGKILL", parseSeconds, 10)
    .action((ids: string[], flags: { time: number }) => {
      choose(
        forEach(ids, async (host, id) => (await import("./stop.ts")).stopContainer(host, id, flags.time)),
      );
    });
  program
    .command("rm")
    .description("Removes containers.")
    .argument("<id...>")
    .option("-f, --force", "kill those that run")
    .action((ids: string[], flags: { force?: true }) => {
      choose(
        forEach(ids, async (host, id) =>
          (await import("./stop.ts")).removeContainer(host, id, flags.force ?? false),
        ),
      );
    });
  program
    .command("metrics")
    .description("Prints the metrics of all sandboxes in the text form of Prometheus.")
    .action(() => {
      choose(async (host) => (await import("./metrics.ts")).metrics(host));
    });
  program
    .command("doctor")
    .summary("say what this host can do, and boot a VM")
    .description(
      "Says what this host can do and what mends it where it cannot; boots a VM at the end.\n\nExit code 0: sandboxes can run here as configured; 1: they cannot.",
    )
    .option("--json", "as JSON")
    .option("--no-boot", "look only")
    .action((flags: { json?: true; boot: boolean }) => {
      const options = { json: flags.json ?? false, boot: flags.boot };
      choose(async (host) => (await import("./doctor.ts")).doctor(host, options));
    });
  program
    .command("version")
    .description("Prints the version.")
    .action(() => {
      choose(async () => {
        process.stdout.write(`caisson ${version}\n`);
        return 0;
      });
    });
  program
    .command(waitCommand, { hidden: true })
    .argument("<id>")
    .action((containerId: string) => {
      choose(async (host) => (await import("./wait.ts")).wait(host, checkId("container id", containerId)));
    });
}

/** An interrupted `logs -f` ends like any interrupted program. */
function followExitCode(error: unknown): number {
  const code = exitCodeOf(error);
  return code === exitCodes.ownFailure ? exitCodes.failed : code;
}

/** All at once; each prints its id when it is done, and a failure of one does not keep the others from it. */
function forEach(ids: readonly string[], work: (host: Host, containerId: string) => Promise<void>): Action {
  const checked = [...new Set(ids.map((id) => checkId("container id", id)))];
  return async (host) => {
    const results = await Promise.allSettled(
      checked.map(async (id) => {
        await work(host, id);
        process.stdout.write(`${id}\n`);
      }),
    );
    const failures = results.filter((result) => result.status === "rejected");
    for (const { reason } of failures) process.stderr.write(`caisson: ${report(reason)}\n`);
    return failures.length === 0 ? 0 : exitCodes.failed;
  };
}

function given<K extends string, V>(key: K, value: V | undefined): { [P in K]?: V } {
  // The computed key widens the type.
  return value === undefined ? {} : ({ [key]: value } as { [P in K]?: V });
}
