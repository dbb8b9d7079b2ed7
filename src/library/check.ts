import { RuntimeError } from "../base/errors.ts";
import type { ContainerSpecOptions } from "./container-spec.ts";
import type { RunOptions, SandboxOptions, SpawnOptions, TemplateOptions } from "./options.ts";
import type { SpecOptions } from "./plan.ts";

// The largest VM that the configuration accepts.
const maxMemoryMiB = 1_048_576;
// What a timer can wait for.
const maxTimeoutMs = 2 ** 31 - 1;

const sandboxOptionNames: ReadonlySet<string> = new Set<keyof SandboxOptions>([
  "image",
  "rootfs",
  "template",
  "storage",
  "memoryMiB",
  "vcpus",
  "limits",
  "env",
  "cwd",
  "user",
  "mounts",
  "network",
  "accelerator",
  "timeoutMs",
  "signal",
  "onLog",
]);

/** Refuses what the types would refuse too, for callers without them. @throws invalid_argument */
export function checkSandboxOptions(options: SandboxOptions): void {
  checkNames("Sandbox.create", options, sandboxOptionNames);
  const { image, rootfs, template } = options;
  if ([image, rootfs, template].filter((origin) => origin !== undefined).length !== 1)
    throw invalid("Sandbox.create", 'expected exactly one of "image", "rootfs" and "template"');
  const fixed =
    template === undefined ? undefined : fixedByTemplate.find((name) => options[name] !== undefined);
  if (fixed !== undefined) throw invalid("Sandbox.create", `"${fixed}" cannot be chosen with a template`);
  const { storage = "virtiofs" } = options;
  if (storage !== "virtiofs" && (storage !== "erofs" || options.image === undefined))
    throw invalid("storage", 'expected "virtiofs", or for an image "erofs"');
  checkVmOptions(options);
  checkSpecOptions(options);
}

const fixedByTemplate = ["storage", "memoryMiB", "vcpus", "accelerator", "mounts"] as const;

const templateOptionNames: ReadonlySet<string> = new Set<keyof TemplateOptions>([
  "image",
  "memoryMiB",
  "vcpus",
  "accelerator",
  "timeoutMs",
  "signal",
  "onLog",
]);

/** @throws invalid_argument */
export function checkTemplateOptions(options: TemplateOptions): void {
  checkNames("Template.create", options, templateOptionNames);
  if (typeof options.image !== "string") throw invalid("Template.create", 'expected an "image"');
  checkVmOptions(options);
}

function checkVmOptions(options: Pick<SandboxOptions, "memoryMiB" | "vcpus" | "timeoutMs">): void {
  checkRange("memoryMiB", options.memoryMiB, 64, maxMemoryMiB);
  checkRange("vcpus", options.vcpus, 1, 256);
  checkRange("timeoutMs", options.timeoutMs, 1, maxTimeoutMs);
}

const containerSpecNames: ReadonlySet<string> = new Set<keyof ContainerSpecOptions>([
  "id",
  "image",
  "args",
  "env",
  "cwd",
  "user",
  "mounts",
  "limits",
  "network",
  "terminal",
  "signal",
]);

/** @throws invalid_argument */
export function checkContainerSpecOptions(options: ContainerSpecOptions): void {
  checkNames("containerSpec", options, containerSpecNames);
  if (typeof options.image !== "string") throw invalid("containerSpec", 'expected an "image"');
  checkWords("args", options.args ?? []);
  checkSpecOptions(options);
}

function checkSpecOptions(options: SpecOptions): void {
  const { limits = {} } = options;
  checkNames("limits", limits, new Set(["memoryMiB", "cpus", "pids"]));
  checkRange("limits.memoryMiB", limits.memoryMiB, 4, maxMemoryMiB);
  checkRange("limits.pids", limits.pids, 1, 4_194_304);
  const { cpus } = limits;
  if (cpus !== undefined && !(cpus >= 0.01 && cpus <= 256))
    throw invalid("limits.cpus", "expected a number from 0.01 to 256");
  checkEnvironment(options.env);
  checkDirectory(options.cwd);
  for (const { source, target } of options.mounts ?? []) {
    if (!isCleanAbsolutePath(source))
      throw invalid("mounts", `${quote(source)} is no absolute path without ".."`);
    if (!isCleanAbsolutePath(target) || /^\/+$/.test(target))
      throw invalid("mounts", `${quote(target)} is no absolute path without ".." below "/"`);
  }
}

const spawnOptionNames = ["env", "cwd", "user", "tty", "signal", "timeoutMs"];
const runOptionNames = new Set<string>([...spawnOptionNames, "stdin", "maxOutputBytes"]);

/** @throws invalid_argument */
export function checkCommand(
  command: string,
  args: readonly string[],
  options: SpawnOptions & RunOptions,
): void {
  checkNames(`the options of ${quote(command)}`, options, runOptionNames);
  if (command === "") throw invalid("a command", "it is empty");
  checkWords(`the command ${quote(command)}`, [command, ...args]);
  checkEnvironment(options.env);
  checkDirectory(options.cwd);
  checkRange("timeoutMs", options.timeoutMs, 1, maxTimeoutMs);
  checkRange("maxOutputBytes", options.maxOutputBytes, 0, 2 ** 30);
  if (typeof options.tty === "object") {
    checkRange("tty.columns", options.tty.columns, 1, 0xffff);
    checkRange("tty.rows", options.tty.rows, 1, 0xffff);
  }
}

/** An absolute path in the sandbox. @throws invalid_argument */
export function checkGuestPath(path: string): string {
  if (typeof path === "string" && path.startsWith("/") && !path.includes("\0") && path.length <= 4095)
    return path;
  throw invalid(`the path ${quote(path)}`, "expected an absolute path of at most 4095 characters");
}

/** @throws invalid_argument */
function checkRange(name: string, value: number | undefined, min: number, max: number): void {
  if (value === undefined || (Number.isInteger(value) && value >= min && value <= max)) return;
  throw invalid(`${name} = ${String(value)}`, `expected a whole number from ${min} to ${max}`);
}

function checkWords(what: string, words: readonly string[]): void {
  if (words.every((word) => typeof word === "string" && !word.includes("\0"))) return;
  throw invalid(what, "expected strings without NUL");
}

function checkNames(what: string, options: object, known: ReadonlySet<string>): void {
  const unknown = Object.keys(options).find((name) => !known.has(name));
  if (unknown === undefined) return;
  throw invalid(what, `${quote(unknown)} is no option; the options are ${[...known].join(", ")}`);
}

function checkEnvironment(env: Readonly<Record<string, string>> | undefined): void {
  for (const [name, value] of Object.entries(env ?? {})) {
    if (name !== "" && !/[=\0]/.test(name) && typeof value === "string" && !value.includes("\0")) continue;
    throw invalid(`env ${quote(name)}`, 'expected a name without "=", and a string without NUL');
  }
}

function checkDirectory(cwd: string | undefined): void {
  if (cwd === undefined || isCleanAbsolutePath(cwd)) return;
  throw invalid(`cwd ${quote(cwd)}`, 'expected an absolute path without ".."');
}

function isCleanAbsolutePath(path: unknown): boolean {
  return (
    typeof path === "string" &&
    path.startsWith("/") &&
    !path.includes("\0") &&
    !path.split("/").includes("..")
  );
}

function invalid(what: string, fact: string): RuntimeError {
  return new RuntimeError("invalid_argument", `Cannot use ${what}: ${fact}`);
}

function quote(value: unknown): string {
  return JSON.stringify(String(value).slice(0, 200));
}
