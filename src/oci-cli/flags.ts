/**
 * Flags as the runtimes that we stand in for have them (Go's flag package): one dash or two, `--name value` or
 * `--name=value`, `--switch` or `--switch=false`, `--` ends them.
 */
import { RuntimeError } from "../base/errors.ts";

export interface Flag {
  readonly names: readonly string[];
  /** A switch takes no value; a list adds its values up; a number is whole and not negative. */
  readonly kind: "switch" | "text" | "list" | "number";
  /** For the help. */
  readonly text: string;
}

/** The command line itself is wrong: nothing was done, and the help is shown with it. */
export class UsageError extends RuntimeError {
  constructor(fact: string) {
    super("invalid_argument", fact);
  }
}

export interface ParsedFlags {
  /** By the first name of each flag. */
  readonly values: FlagValues;
  readonly rest: readonly string[];
}

/** What was given. Names that a command has not declared are never there. */
export class FlagValues {
  readonly #values: ReadonlyMap<string, readonly string[]>;

  constructor(values: ReadonlyMap<string, readonly string[]>) {
    this.#values = values;
  }

  isOn(name: string): boolean {
    return this.#values.get(name)?.at(-1) === "true";
  }

  /** The last one counts; undefined when it was not given, or is empty. */
  text(name: string): string | undefined {
    return this.#values.get(name)?.at(-1) || undefined;
  }

  /** 0 when it was not given. */
  number(name: string): number {
    return Number(this.text(name) ?? 0);
  }

  list(name: string): readonly string[] {
    return this.#values.get(name) ?? [];
  }

  /** The names of all that were given. */
  get given(): readonly string[] {
    return [...this.#values.keys()];
  }
}

export interface ParseOptions {
  /** The first argument that is no flag ends them: the rest is a command of somebody else's. */
  readonly stopsAtArgument: boolean;
}

const trueTexts: ReadonlySet<string> = new Set(["1", "t", "T", "true", "TRUE", "True"]);
const falseTexts: ReadonlySet<string> = new Set(["0", "f", "F", "false", "FALSE", "False"]);

/** @throws UsageError  an unknown flag, a missing or bad value */
export function parseFlags(
  args: readonly string[],
  flags: readonly Flag[],
  { stopsAtArgument }: ParseOptions,
): ParsedFlags {
  const values = new Map<string, string[]>();
  const rest: string[] = [];
  for (let index = 0; index < args.length; index++) {
    const argument = args[index] ?? "";
    if (argument === "--")
      return { values: new FlagValues(values), rest: [...rest, ...args.slice(index + 1)] };
    const [, name, inline] = /^--?([^-=][^=]*)(?:=(.*))?$/s.exec(argument) ?? [];
    if (name === undefined) {
      if (stopsAtArgument) return { values: new FlagValues(values), rest: [...rest, ...args.slice(index)] };
      rest.push(argument);
      continue;
    }
    const flag = flags.find(({ names }) => names.includes(name));
    if (flag === undefined) throw new UsageError(`flag provided but not defined: -${name}`);
    const value = flag.kind === "switch" ? switchValue(name, inline) : (inline ?? args[++index]);
    if (value === undefined) throw new UsageError(`flag needs an argument: -${name}`);
    if (flag.kind === "number" && !/^\d{1,9}$/.test(value))
      throw new UsageError(`invalid value ${quoted(value)} for flag -${name}: parse error`);
    const key = flag.names[0] ?? name;
    values.set(key, [...(values.get(key) ?? []), value]);
  }
  return { values: new FlagValues(values), rest };
}

function switchValue(name: string, inline: string | undefined): string {
  if (inline === undefined || trueTexts.has(inline)) return "true";
  if (falseTexts.has(inline)) return "false";
  throw new UsageError(`invalid boolean value ${quoted(inline)} for -${name}: parse error`);
}

function quoted(value: string): string {
  return JSON.stringify(value.slice(0, 40));
}
