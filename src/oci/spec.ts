import { join } from "node:path";
import { RuntimeError } from "../base/errors.ts";
import { readRegularFile } from "../base/files.ts";
import { isRawNumber, type Json, parseStrictJson } from "../base/strict-json.ts";

/**
 * The parts of an OCI runtime configuration that the host reads. Everything else is carried along untouched, so each
 * object also has the fields that are not named here.
 *
 * Source: https://github.com/opencontainers/runtime-spec, config.md and config-linux.md.
 */
export interface Spec {
  readonly ociVersion: string;
  readonly process?: SpecProcess;
  readonly root: { readonly path: string; readonly readonly?: boolean };
  readonly hostname?: string;
  readonly mounts?: readonly SpecMount[];
  readonly annotations?: Readonly<Record<string, string>>;
  readonly hooks?: SpecHooks;
  readonly linux?: SpecLinux;
}

/** A program to run at a point of a container's life. */
export interface SpecHook {
  readonly path: string;
  /** With the name as the first. */
  readonly args?: readonly string[];
  /** `NAME=value` each. */
  readonly env?: readonly string[];
  readonly timeout?: number;
}

export type HookStage =
  | "prestart"
  | "createRuntime"
  | "createContainer"
  | "startContainer"
  | "poststart"
  | "poststop";

export type SpecHooks = { readonly [stage in HookStage]?: readonly SpecHook[] };

export interface SpecProcess {
  readonly terminal?: boolean;
  readonly consoleSize?: { readonly width: number; readonly height: number };
  readonly args?: readonly string[];
  readonly cwd: string;
}

export interface SpecMount {
  readonly destination: string;
  readonly type?: string;
  readonly source?: string;
  readonly options?: readonly string[];
  readonly uidMappings?: readonly SpecIdMapping[];
  readonly gidMappings?: readonly SpecIdMapping[];
}

export interface SpecIdMapping {
  readonly containerID: number;
  readonly hostID: number;
  readonly size: number;
}

export interface SpecLinux {
  readonly namespaces?: readonly { readonly type: string; readonly path?: string }[];
  readonly uidMappings?: readonly SpecIdMapping[];
  readonly gidMappings?: readonly SpecIdMapping[];
  readonly resources?: SpecResources;
  readonly cgroupsPath?: string;
  readonly sysctl?: Readonly<Record<string, string>>;
  readonly devices?: readonly SpecDevice[];
}

/** A device node; its numbers are checked by who uses them. */
export interface SpecDevice {
  readonly path: string;
  readonly type: string;
  readonly major?: unknown;
  readonly minor?: unknown;
  readonly fileMode?: unknown;
  readonly uid?: unknown;
  readonly gid?: unknown;
}

export interface SpecResources {
  readonly devices?: readonly object[];
  readonly memory?: { readonly limit?: unknown };
  readonly cpu?: { readonly quota?: unknown; readonly period?: unknown };
}

// containerd's own limit for a spec is the 4 MiB of a message.
const maxSpecBytes = 4 * 1024 * 1024;

/**
 * Reads `<bundle>/config.json` and checks what the host relies on.
 *
 * @throws not_found, invalid_argument
 */
export async function loadSpec(bundle: string): Promise<Spec> {
  const path = join(bundle, "config.json");
  const spec = parseStrictJson(await readRegularFile(path, maxSpecBytes), `"${path}"`);
  checkSpec(spec, path);
  return spec as unknown as Spec;
}

function checkSpec(spec: Json, path: string): void {
  const refuse = (field: string, expected: string) =>
    new RuntimeError("invalid_argument", `Cannot use "${path}": "${field}" is not ${expected}`);
  if (!isObject(spec)) throw refuse("the document", "an object");
  const version = spec["ociVersion"];
  if (typeof version !== "string" || !/^1\.\d+\.\d+/.test(version))
    throw refuse("ociVersion", 'a version "1.x.y"');
  for (const section of ["windows", "vm", "solaris", "zos"]) {
    if (spec[section] !== undefined) throw refuse(section, "supported; expected a Linux configuration");
  }
  checkRoot(spec["root"], refuse);
  checkProcess(spec["process"], refuse);
  checkMounts(spec["mounts"], refuse);
  checkHooks(spec["hooks"], refuse);
  checkHostname(spec["hostname"], refuse);
  checkLinux(spec["linux"], refuse);
  const annotations = spec["annotations"];
  if (annotations !== undefined && !(isObject(annotations) && Object.values(annotations).every(isString))) {
    throw refuse("annotations", "an object of strings");
  }
}

type Refuse = (field: string, expected: string) => RuntimeError;

function checkRoot(root: Json | undefined, refuse: Refuse): void {
  if (!isObject(root) || typeof root["path"] !== "string" || root["path"] === "") {
    throw refuse("root.path", "a path");
  }
  const path = root["path"];
  if (path.includes("\0") || /^\/+$/.test(path) || path.split("/").includes(".."))
    throw refuse("root.path", 'a path without ".." other than "/"');
  if (root["readonly"] !== undefined && typeof root["readonly"] !== "boolean")
    throw refuse("root.readonly", "a boolean");
}

function checkProcess(process: Json | undefined, refuse: Refuse): void {
  if (!isObject(process)) throw refuse("process", "an object");
  const args = process["args"];
  if (!Array.isArray(args) || args.length === 0 || !args.every(isCString) || args[0] === "") {
    throw refuse("process.args", "a list of strings without NUL whose first is not empty");
  }
  const env = process["env"] ?? [];
  if (!Array.isArray(env) || !env.every((entry) => isCString(entry) && entry.indexOf("=") > 0))
    throw refuse("process.env", "a list of NAME=VALUE without NUL");
  const cwd = process["cwd"];
  if (!isCString(cwd) || !cwd.startsWith("/")) throw refuse("process.cwd", "an absolute path");
  const user = process["user"] ?? {};
  if (!isObject(user)) throw refuse("process.user", "an object");
  for (const name of ["uid", "gid"]) checkUserId(user[name], `process.user.${name}`, refuse);
}

function checkUserId(value: Json | undefined, field: string, refuse: Refuse): void {
  // 2^32-1 is the "no change" value of setresuid(2) and never a user.
  const good =
    value === undefined || (Number.isInteger(value) && Number(value) >= 0 && Number(value) < 0xffff_ffff);
  if (!good || isRawNumber(value)) throw refuse(field, "a number from 0 to 4294967294");
}

function checkMounts(mounts: Json | undefined, refuse: Refuse): void {
  if (mounts === undefined) return;
  if (!Array.isArray(mounts)) throw refuse("mounts", "a list");
  mounts.forEach((mount: Json, index) => {
    const field = `mounts[${index}]`;
    if (!isObject(mount)) throw refuse(field, "an object");
    const destination = mount["destination"];
    if (!isCString(destination) || !destination.startsWith("/") || destination.split("/").includes("..")) {
      throw refuse(`${field}.destination`, 'an absolute path without ".."');
    }
    for (const name of ["type", "source"]) {
      if (mount[name] !== undefined && !isCString(mount[name]))
        throw refuse(`${field}.${name}`, "a string without NUL");
    }
    const options = mount["options"] ?? [];
    if (!Array.isArray(options) || !options.every(isCString))
      throw refuse(`${field}.options`, "a list of strings");
    const isBind = mount["type"] === "bind" || options.includes("bind") || options.includes("rbind");
    if (isBind && (mount["source"] ?? "") === "") throw refuse(`${field}.source`, "the path that is bound");
    checkIdMappings(mount, field, refuse);
  });
}

function checkIdMappings(object: { readonly [key: string]: Json }, field: string, refuse: Refuse): void {
  for (const name of ["uidMappings", "gidMappings"]) {
    const list = object[name] ?? [];
    // The kernel's own limit of lines is 340 (user_namespaces(7)).
    if (!Array.isArray(list) || list.length > 340 || !list.every(isIdMapping))
      throw refuse(
        `${field}.${name}`,
        "a list of objects with containerID, hostID and size, numbers of 32 bits",
      );
  }
}

function isIdMapping(value: Json): boolean {
  return (
    isObject(value) &&
    ["containerID", "hostID", "size"].every((name) => {
      const number = value[name];
      return Number.isInteger(number) && Number(number) >= 0 && Number(number) <= 0xffff_ffff;
    })
  );
}

function checkHostname(hostname: Json | undefined, refuse: Refuse): void {
  // sethostname(2) takes 64 bytes; the rest is what a host name can be, and what a log line can show.
  const good = hostname === undefined || (isString(hostname) && /^[\w.-]{0,64}$/.test(hostname));
  if (!good) throw refuse("hostname", "a name of at most 64 letters, digits, dots and dashes");
}

function checkLinux(linux: Json | undefined, refuse: Refuse): void {
  if (linux === undefined) return;
  if (!isObject(linux)) throw refuse("linux", "an object");
  checkObjects(linux["namespaces"], "linux.namespaces", ["type"], ["path"], refuse);
  checkObjects(linux["devices"], "linux.devices", ["path", "type"], [], refuse);
  checkIdMappings(linux, "linux", refuse);
  const sysctl = linux["sysctl"] ?? {};
  if (!isObject(sysctl) || !Object.values(sysctl).every(isCString)) {
    throw refuse("linux.sysctl", "an object of strings");
  }
  const resources = linux["resources"];
  if (resources === undefined || resources === null) return;
  if (!isObject(resources)) throw refuse("linux.resources", "an object");
  checkObjects(resources["devices"], "linux.resources.devices", [], [], refuse);
  for (const name of ["cpu", "memory"]) {
    if (resources[name] !== undefined && !isObject(resources[name]))
      throw refuse(`linux.resources.${name}`, "an object");
  }
}

/** A list of objects with these strings; undefined and null stand for none. */
function checkObjects(
  list: Json | undefined,
  field: string,
  needed: readonly string[],
  optional: readonly string[],
  refuse: Refuse,
): void {
  if (!Array.isArray(list ?? [])) throw refuse(field, "a list");
  ((list ?? []) as readonly Json[]).forEach((item, index) => {
    const wrong =
      !isObject(item) ||
      needed.some((name) => !isCString(item[name])) ||
      optional.some((name) => item[name] !== undefined && !isCString(item[name]));
    if (wrong) throw refuse(`${field}[${index}]`, `an object with ${needed.join(", ")}`);
  });
}

function checkHooks(hooks: Json | undefined, refuse: Refuse): void {
  if (hooks === undefined || hooks === null) return;
  if (!isObject(hooks)) throw refuse("hooks", "an object");
  for (const [stage, list] of Object.entries(hooks)) {
    if (!hookStages.has(stage)) throw refuse(`hooks.${stage}`, `one of ${[...hookStages].join(", ")}`);
    if (!Array.isArray(list)) throw refuse(`hooks.${stage}`, "a list");
    list.forEach((hook: Json, index) => checkHook(hook, `hooks.${stage}[${index}]`, refuse));
  }
}

const hookStages: ReadonlySet<string> = new Set<HookStage>([
  "prestart",
  "createRuntime",
  "createContainer",
  "startContainer",
  "poststart",
  "poststop",
]);

function checkHook(hook: Json, field: string, refuse: Refuse): void {
  if (!isObject(hook)) throw refuse(field, "an object");
  const path = hook["path"];
  if (!isCString(path) || !path.startsWith("/")) throw refuse(`${field}.path`, "an absolute path");
  for (const name of ["args", "env"]) {
    const list = hook[name] ?? [];
    if (!Array.isArray(list) || !list.every(isCString)) throw refuse(`${field}.${name}`, "a list of strings");
  }
  const timeout = hook["timeout"];
  if (
    timeout !== undefined &&
    !(Number.isInteger(timeout) && Number(timeout) > 0 && Number(timeout) <= 3600)
  ) {
    throw refuse(`${field}.timeout`, "a number of seconds from 1 to 3600");
  }
}

function isObject(value: Json | undefined): value is { readonly [key: string]: Json } {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !isRawNumber(value);
}

function isString(value: unknown): value is string {
  return typeof value === "string";
}

function isCString(value: unknown): value is string {
  return typeof value === "string" && !value.includes("\0");
}
