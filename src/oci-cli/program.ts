import { RuntimeError } from "../base/errors.ts";
import { Interruption } from "../client/signal-relay.ts";
import { version } from "../shim/version.ts";
import { type Command, commands } from "./commands.ts";
import { type Flag, type FlagValues, parseFlags, UsageError } from "./flags.ts";
import type { Host } from "./host.ts";
import { type Reporting, report } from "./report.ts";

export interface GlobalOptions {
  readonly root: string | undefined;
  readonly reporting: Reporting;
}

const switches = { kind: "switch" } as const;
const texts = { kind: "text" } as const;

const globalFlags: readonly Flag[] = [
  { names: ["root"], ...texts, text: "directory of the containers' state (default: /run/caisson-oci)" },
  { names: ["log"], ...texts, text: "file for errors (default: stderr)" },
  { names: ["log-format"], ...texts, text: "text or json (default: text)" },
  { names: ["systemd-cgroup"], ...switches, text: "accepted: cgroups are the guest's" },
  { names: ["debug"], ...switches, text: "accepted; the daemon's level is log_level of the configuration" },
  { names: ["rootless"], ...texts, text: '"true" is not supported' },
  { names: ["help", "h"], ...switches, text: "show help" },
  { names: ["version", "v"], ...switches, text: "print the version" },
];
const helpFlag: Flag = { names: ["help", "h"], ...switches, text: "show help" };

/**
 * Runs one command line (without node and the script) and returns the exit code. What goes wrong is said on stderr or in
 * the log.
 */
export async function runProgram(
  args: readonly string[],
  openHost: (options: GlobalOptions) => Host,
): Promise<number> {
  let reporting: Reporting = { path: undefined, format: "text" };
  let command: Command | undefined;
  try {
    const { values, rest } = parseFlags(args, globalFlags, { stopsAtArgument: true });
    if (values.isOn("version")) return print(`caisson-oci version ${version}\nspec: 1.0.2\n`);
    const [name = "help", ...commandArgs] = rest;
    if (values.isOn("help") || name === "help") return print(overview());
    reporting = reportingOf(values);
    command = commands.find((candidate) => candidate.name === name);
    if (command === undefined) return unknownCommand(name, reporting);
    const parsed = parseFlags(commandArgs, [...command.flags, helpFlag], {
      stopsAtArgument: command.takesCommand ?? false,
    });
    if (parsed.values.isOn("help")) return print(helpOf(command));
    checkCount(command, parsed.rest.length);
    if (values.text("rootless") === "true")
      throw new RuntimeError("unimplemented", "--rootless is not supported: caisson-oci needs root");
    const host = openHost({ root: values.text("root"), reporting });
    if (command.needsContainer === true) await host.containers.load(parsed.rest[0] ?? "");
    return await command.run(host, parsed.values, parsed.rest);
  } catch (error) {
    if (error instanceof UsageError) {
      print(`Incorrect Usage: ${error.message}\n\n${command === undefined ? overview() : helpOf(command)}`);
      report(error, reporting);
      return 1;
    }
    report(error, reporting, command?.failurePrefix);
    return error instanceof Interruption ? 128 + error.signal : (command?.failureCode ?? 1);
  }
}

/** 3 and these words are runc's, or rather those of its library for command lines. */
function unknownCommand(name: string, reporting: Reporting): number {
  report(new RuntimeError("invalid_argument", `No help topic for '${name}'`), reporting);
  return 3;
}

function reportingOf(values: FlagValues): Reporting {
  const format = values.text("log-format") ?? "text";
  if (format === "text" || format === "json") return { path: values.text("log"), format };
  throw new RuntimeError("invalid_argument", `invalid log-format: ${format.slice(0, 40)}`);
}

function checkCount({ name, counts: [fewest, most] }: Command, count: number): void {
  if (count >= fewest && count <= most) return;
  const wanted =
    fewest === most
      ? `exactly ${fewest}`
      : count < fewest
        ? `a minimum of ${fewest}`
        : `a maximum of ${most}`;
  throw new UsageError(`caisson-oci: "${name}" requires ${wanted} argument(s)`);
}

function print(text: string): number {
  process.stdout.write(text);
  return 0;
}

function overview(): string {
  return [
    "caisson-oci runs OCI bundles, each container in a microVM of its own.",
    "",
    "Usage: caisson-oci [global options] command [options] [arguments]",
    "",
    "Commands:",
    ...commands.map(({ name, text }) => `   ${name.padEnd(12)}${text}`),
    "",
    "Global options:",
    ...globalFlags.map(flagLine),
    "",
  ].join("\n");
}

function helpOf({ name, usage, text, flags }: Command): string {
  const options = flags.length === 0 ? [] : ["", "Options:", ...flags.map(flagLine)];
  const line = `caisson-oci ${name}${flags.length === 0 ? "" : " [options]"} ${usage}`.trimEnd();
  return [`${line}`, "", `   ${text}`, ...options, ""].join("\n");
}

function flagLine({ names, kind, text }: Flag): string {
  const spelled = names.map((name) => (name.length === 1 ? `-${name}` : `--${name}`)).join(", ");
  return `   ${`${spelled}${kind === "switch" ? "" : " value"}`.padEnd(32)} ${text}`;
}
