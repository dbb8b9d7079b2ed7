import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** A directory of one test's own, and the word that marks everything the test makes. */
export interface TempDir extends AsyncDisposable {
  readonly path: string;
  /** Unique, a valid id by itself; used as the start of ids and namespaces, so that what is left can be told apart. */
  readonly token: string;
  join(...parts: string[]): string;
}

/** Creates `/tmp/caisson-<token>`. Its path is short, because Unix socket paths end at 107 bytes. */
export function createTempDir(): TempDir {
  const token = `c${randomBytes(4).toString("hex")}`;
  const path = join(tmpdir(), `caisson-${token}`);
  // Other users (the one QEMU runs as) must get through.
  mkdirSync(path, { mode: 0o755 });
  return {
    path,
    token,
    join: (...parts) => join(path, ...parts),
    async [Symbol.asyncDispose]() {
      unmountBelow(path);
      removeTree(path);
    },
  };
}

/** Mount points at or below `directory`, deepest first. */
export function mountsBelow(directory: string): string[] {
  return readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .map((line) => decodeMountPath(line.split(" ")[4] ?? ""))
    .filter((point) => point === directory || point.startsWith(`${directory}/`))
    .reverse();
}

/** Mountinfo writes space, tab, newline and backslash as octal (proc(5)). */
export function decodeMountPath(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}

/** Unmounts everything below `directory`, lazily where something still uses it. */
export function unmountBelow(directory: string): void {
  for (const point of mountsBelow(directory)) {
    try {
      execFileSync("umount", [point], { stdio: "pipe" });
    } catch {
      execFileSync("umount", ["--lazy", point], { stdio: "pipe" });
    }
  }
}

/**
 * Deletes a tree that holds no mount.
 *
 * Deleting through a bind mount destroys what is behind it, and Node's `rm` does so without an error; so this refuses.
 */
export function removeTree(directory: string): void {
  const mounts = mountsBelow(directory);
  if (mounts.length > 0) {
    throw new Error(`Cannot remove "${directory}": ${mounts.join(", ")} is mounted in it`);
  }
  rmSync(directory, { recursive: true, force: true });
}
