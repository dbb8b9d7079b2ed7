import { statSync } from "node:fs";
import { isAbsolute, resolve } from "node:path";
import { RuntimeError } from "../base/errors.ts";
import type { AcceleratorSetting } from "../config/config.ts";
import type { Volume } from "../image/spec.ts";

const unitBytes: ReadonlyMap<string, number> = new Map([
  ["", 1],
  ["b", 1],
  ["k", 1024],
  ["m", 1024 ** 2],
  ["g", 1024 ** 3],
  ["t", 1024 ** 4],
]);

// Below it no process can start; Docker has the same limit.
const minMemoryBytes = 6 * 1024 ** 2;
const maxMemoryBytes = 1024 ** 4;

/**
 * `--memory`: a number with an optional unit of b, k, m, g, t (powers of 1024, either case, "MB" and "MiB" too).
 *
 * @throws invalid_argument
 */
export function parseMemory(text: string): number {
  const match = /^(\d{1,15}(?:\.\d{1,6})?)(?:([kmgt])i?b?|b)?$/i.exec(text);
  const bytes = Math.floor(
    Number(match?.[1]) * (unitBytes.get(match?.[2]?.toLowerCase() ?? "") ?? Number.NaN),
  );
  if (match === null || !(bytes >= minMemoryBytes && bytes <= maxMemoryBytes)) {
    throw bad("--memory", text, 'a size from 6M to 1024G, such as "256M" or "1.5g"');
  }
  return bytes;
}

/** `--cpus`: how many CPUs' time the container may use. @throws invalid_argument */
export function parseCpus(text: string): number {
  const cpus = /^\d{1,4}(\.\d{1,4})?$/.test(text) ? Number(text) : Number.NaN;
  if (!(cpus >= 0.01 && cpus <= 256)) throw bad("--cpus", text, "a number from 0.01 to 256");
  return cpus;
}

/** `--accel`. @throws invalid_argument */
export function parseAccelerator(text: string): AcceleratorSetting {
  if (text !== "kvm" && text !== "tcg" && text !== "auto") throw bad("--accel", text, "kvm, tcg or auto");
  return text;
}

/** `stop -t`: whole seconds. @throws invalid_argument */
export function parseSeconds(text: string): number {
  if (!/^\d{1,6}$/.test(text)) throw bad("--time", text, "whole seconds from 0 to 999999");
  return Number(text);
}

/** `-w`: an absolute path in the container. @throws invalid_argument */
export function parseWorkingDirectory(text: string): string {
  if (!isCleanAbsolutePath(text)) throw bad("--workdir", text, 'an absolute path without ".."');
  return text;
}

/** `--kernel`: a regular file. @throws invalid_argument, not_found */
export function parseKernel(text: string): string {
  const path = resolve(text);
  const status = statSync(path, { throwIfNoEntry: false });
  if (status === undefined)
    throw new RuntimeError("not_found", `Cannot use --kernel ${quote(text)}: no such file`);
  if (!status.isFile()) throw bad("--kernel", text, "a kernel image, a regular file");
  return path;
}

/**
 * `-e K=V`; `-e K` takes the value of our own environment and is nothing where there is none, as with Docker.
 *
 * @throws invalid_argument
 */
export function parseEnvironment(
  text: string,
  own: Readonly<Record<string, string | undefined>>,
): string | undefined {
  const name = text.split("=", 1)[0] ?? "";
  if (name === "" || /[\0\s]/.test(name) || text.includes("\0")) throw bad("--env", text, "NAME=VALUE");
  if (text !== name) return text;
  const value = Object.hasOwn(own, name) ? own[name] : undefined;
  return value === undefined ? undefined : `${name}=${value}`;
}

/**
 * `-v SRC:DST[:ro|rw]`. The source has to exist.
 *
 * @throws invalid_argument, not_found
 */
export function parseVolume(text: string): Volume {
  const [given = "", destination = "", mode = "rw", ...rest] = text.split(":");
  const wanted = "SOURCE:DESTINATION[:ro], both paths";
  if (rest.length > 0 || destination === "" || text.includes("\0")) throw bad("--volume", text, wanted);
  if (mode !== "ro" && mode !== "rw")
    throw bad("--volume", text, `${wanted}; the mode is ro or rw, not ${quote(mode)}`);
  if (!isAbsolute(given) && !given.startsWith(".")) {
    throw bad(
      "--volume",
      text,
      `${wanted}; ${quote(given)} looks like a named volume, which caisson does not have`,
    );
  }
  if (!isCleanAbsolutePath(destination) || /^\/+$/.test(destination)) {
    throw bad("--volume", text, `${wanted}; the destination is absolute, without ".." and not "/"`);
  }
  const source = resolve(given);
  if (statSync(source, { throwIfNoEntry: false }) === undefined) {
    throw new RuntimeError(
      "not_found",
      `Cannot use --volume ${quote(text)}: there is no "${source}" on this machine`,
    );
  }
  return { source, destination, readOnly: mode === "ro" };
}

function isCleanAbsolutePath(path: string): boolean {
  return path.startsWith("/") && !path.includes("\0") && !path.split("/").includes("..");
}

function bad(option: string, value: string, expected: string): RuntimeError {
  return new RuntimeError("invalid_argument", `Cannot use ${option} ${quote(value)}: expected ${expected}`);
}

function quote(value: string): string {
  return JSON.stringify(value.slice(0, 200));
}
