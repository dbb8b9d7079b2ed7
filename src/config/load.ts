import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { basename, dirname, isAbsolute, join, resolve } from "node:path";
import { parse } from "smol-toml";
import { errnoOf, RuntimeError } from "../base/errors.ts";
import type { Config } from "./config.ts";
import { type Field, fields } from "./fields.ts";

export interface LoadOptions {
  /** Environment that may name the file in `CAISSON_CONFIG`. */
  readonly environment: Readonly<Record<string, string | undefined>>;
  /** Directory of the running executable (`…/build/lib` or `/usr/lib/caisson/lib`). */
  readonly executableDirectory: string;
  /** Settings of one sandbox, which win over the files: in their order. */
  readonly overrides?: readonly ConfigSource[];
}

/** TOML from elsewhere: a file, or text under a name for messages. */
export type ConfigSource =
  | { readonly tag: "file"; readonly path: string }
  | { readonly tag: "text"; readonly name: string; readonly text: string };

/** What all sandboxes of a host share cannot differ for one of them: others find it there. */
const hostSettings: ReadonlySet<string> = new Set(["state_directory", "data_directory", "daemon"]);

const maxFileBytes = 1024 * 1024;

/**
 * Reads the configuration: `$CAISSON_CONFIG`, else `config.toml` in the `build/` that the executable lies in, else
 * `/etc/caisson/config.toml`, else the defaults. Drop-ins `config.d/*.toml` beside the file follow in the order of
 * their names; the last value wins.
 *
 * @throws not_found         `$CAISSON_CONFIG` names no file
 * @throws invalid_argument  not TOML, an unknown key, or a value outside its range
 */
export function loadConfig(options: LoadOptions): Config {
  const buildDirectory = buildDirectoryOf(options.executableDirectory);
  const path = chooseFile(options.environment["CAISSON_CONFIG"], buildDirectory);
  const values = new Map<string, unknown>();
  for (const file of path === undefined ? [] : [path, ...dropIns(path)]) {
    takeValues(file, readToml(file), values);
  }
  for (const source of options.overrides ?? []) {
    const [name, content] = readOverride(source);
    const shared = Object.keys(content).find((key) => hostSettings.has(key));
    if (shared !== undefined) throw invalid(name, `"${shared}" cannot be set for a single sandbox`);
    takeValues(name, content, values);
  }
  return Object.freeze(assemble(values, buildDirectory));
}

function takeValues(file: string, content: Record<string, unknown>, values: Map<string, unknown>): void {
  for (const [key, value] of Object.entries(content)) {
    const field = fields.get(key);
    if (field === undefined) {
      throw invalid(file, `"${key}" is not a setting; the settings are ${[...fields.keys()].join(", ")}`);
    }
    field.check(value, (expected) =>
      invalid(file, `${key} = ${JSON.stringify(value)}, expected ${expected}`),
    );
    values.set(key, value);
  }
}

/** `build/` of a checkout when the executable lies in `build/bin` or `build/lib`, else undefined (installed). */
function buildDirectoryOf(executableDirectory: string): string | undefined {
  const parent = dirname(executableDirectory);
  const inBuild = ["bin", "lib"].includes(basename(executableDirectory)) && basename(parent) === "build";
  return inBuild ? parent : undefined;
}

function chooseFile(named: string | undefined, buildDirectory: string | undefined): string | undefined {
  if (named !== undefined && named !== "") {
    const path = resolve(named);
    if (!existsSync(path)) {
      throw new RuntimeError(
        "not_found",
        `Cannot read the configuration "${path}" named by CAISSON_CONFIG: no such file`,
      );
    }
    return path;
  }
  const candidates = [
    ...(buildDirectory === undefined ? [] : [join(buildDirectory, "config.toml")]),
    "/etc/caisson/config.toml",
  ];
  return candidates.find((candidate) => existsSync(candidate));
}

function dropIns(path: string): string[] {
  const directory = join(dirname(path), "config.d");
  try {
    const names = readdirSync(directory).filter((name) => name.endsWith(".toml"));
    return names.sort().map((name) => join(directory, name));
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return [];
    throw new RuntimeError("invalid_argument", `Cannot read the configuration directory "${directory}"`, {
      cause: error,
    });
  }
}

function readToml(file: string): Record<string, unknown> {
  try {
    return parse(readFileSync(file, "utf8"));
  } catch (cause) {
    throw new RuntimeError("invalid_argument", `Cannot read the configuration "${file}"`, { cause });
  }
}

/** The name for messages, and what is in it. A client names the file: it may be anything. */
function readOverride(source: ConfigSource): readonly [string, Record<string, unknown>] {
  if (source.tag === "text") {
    try {
      return [source.name, parse(source.text)];
    } catch (cause) {
      throw new RuntimeError("invalid_argument", `Cannot read the configuration "${source.name}"`, { cause });
    }
  }
  const { path } = source;
  if (!isAbsolute(path) || path.includes("\0")) {
    throw invalid(path, "expected an absolute path");
  }
  const stat = statSync(path, { throwIfNoEntry: false });
  if (stat === undefined) {
    throw new RuntimeError("not_found", `Cannot read the configuration "${path}": no such file`);
  }
  if (!stat.isFile() || stat.size > maxFileBytes) {
    throw invalid(path, `expected a regular file of at most ${maxFileBytes} bytes`);
  }
  return [path, readToml(path)];
}

function invalid(file: string, fact: string): RuntimeError {
  return new RuntimeError("invalid_argument", `Cannot use the configuration "${file}": ${fact}`);
}

function assemble(values: ReadonlyMap<string, unknown>, buildDirectory: string | undefined): Config {
  const entries = [...fields].map(([key, field]: [string, Field]) => {
    const fallback = typeof field.fallback === "function" ? field.fallback(buildDirectory) : field.fallback;
    return [field.property, values.get(key) ?? fallback];
  });
  // Every property of Config has one entry in `fields` (its type says so) and every value was checked by it.
  return Object.fromEntries(entries) as Config;
}
