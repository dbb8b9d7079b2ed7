import { readFileSync, realpathSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { errnoOf, RuntimeError } from "../base/errors.ts";
import { exec } from "../base/exec.ts";
import { systemErrorCode } from "../base/files.ts";
import { loadNative } from "../base/native.ts";
import { attachCopy, openMountSource } from "./mount-tree.ts";

const mountTimeoutMs = 20_000;

export interface MountEntry {
  readonly mountId: number;
  readonly mountPoint: string;
  readonly fileSystem: string;
}

/** The mounts of our namespace in the order of the kernel (proc_pid_mountinfo(5)). */
export function listMounts(): MountEntry[] {
  return parseMountInfo(readFileSync("/proc/self/mountinfo", "utf8"));
}

/** Parses the text of mountinfo; paths are unescaped. */
export function parseMountInfo(text: string): MountEntry[] {
  return text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => {
      const fields = line.split(" ");
      const separator = fields.indexOf("-");
      return {
        mountId: Number(fields[0]),
        mountPoint: unescapePath(fields[4] ?? ""),
        fileSystem: fields[separator + 1] ?? "",
      };
    });
}

/** Whether the file system at `path` is a writable overlay that is mounted there: a layer of one container's own. */
export function isOverlay(path: string): boolean {
  const resolved = realpathSync(path);
  return listMounts().findLast(({ mountPoint }) => mountPoint === resolved)?.fileSystem === "overlay";
}

function unescapePath(path: string): string {
  return path.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}

/** Mounts a file system. Options that only containerd reads (`X-containerd.*`) are left out. */
export async function mount(
  type: string,
  source: string,
  target: string,
  options: readonly string[],
): Promise<void> {
  const wanted = options.filter((option) => !option.startsWith("X-containerd."));
  for (const value of [type, source, ...wanted]) {
    if (value.includes("\0"))
      throw new RuntimeError("invalid_argument", `Cannot mount "${target}": an option holds NUL`);
  }
  const isBind = wanted.includes("bind") || wanted.includes("rbind") || type === "bind";
  if (isBind) {
    await bindMount(source, target, { recursive: !wanted.includes("bind"), readOnly: wanted.includes("ro") });
    return;
  }
  const { options: shortened, cwd } = type === "overlay" ? shortenLayers(wanted) : { options: wanted };
  const optionArguments = shortened.length === 0 ? [] : ["-o", shortened.join(",")];
  await exec(["mount", "--no-mtab", "-t", type, ...optionArguments, "--", source, target], {
    timeoutMs: mountTimeoutMs,
    ...(cwd === undefined ? {} : { cwd }),
  });
}

/** mount(2) takes one page of options; mount(8) needs a little of it for itself. */
const maxOptionBytes = 4096 - 128;

/**
 * Options of an overlay that has many layers: those that are too long together are named relative to the directory that
 * holds them all, which has to be the working directory then (as containerd does).
 */
function shortenLayers(options: readonly string[]): {
  readonly options: readonly string[];
  readonly cwd?: string;
} {
  const prefix = "lowerdir=";
  const lower = options.find((option) => option.startsWith(prefix));
  if (lower === undefined || Buffer.byteLength(options.join(",")) <= maxOptionBytes) return { options };
  // A colon that belongs to a name has a backslash before it.
  const layers = lower.slice(prefix.length).split(/(?<!\\):/);
  const first = layers[0] ?? "";
  let common = dirname(first);
  while (common !== "/" && common !== "." && !layers.every((layer) => layer.startsWith(`${common}/`))) {
    common = dirname(common);
  }
  // What is escaped is a name only after the kernel has read it.
  if (common === "/" || common === "." || common.includes("\\")) return { options };
  const relative = layers.map((layer) => layer.slice(common.length + 1));
  const shortened = options.map((option) => (option === lower ? `${prefix}${relative.join(":")}` : option));
  return { options: shortened, cwd: common };
}

export interface BindOptions {
  /** Bring along the mounts below the source. */
  readonly recursive?: boolean;
  /** Holds for the mounts below it, too. */
  readonly readOnly?: boolean;
}

/** Binds a file or directory, privately, onto an existing target of the same kind. */
async function bindMount(source: string, target: string, options: BindOptions): Promise<void> {
  await using from = await openMountSource(source);
  attachCopy(from, target, {
    recursive: options.recursive ?? false,
    readOnly: options.readOnly ? "all" : "none",
    noSuidAndDev: false,
    propagation: "private",
  });
}

/**
 * Binds `source` at `target`, read-only, so that later child mounts of `target` propagate to other namespaces but not to
 * the peers of `source` (mount_namespaces(7)).
 */
export async function bindReadOnlyShared(source: string, target: string): Promise<void> {
  await using from = await openMountSource(source);
  attachCopy(from, target, {
    recursive: false,
    readOnly: "all",
    noSuidAndDev: true,
    propagation: "shared",
  });
}

/** Unmounts one mount point with what is mounted below it; not being mounted is success. Busy mounts are detached. */
export function unmount(path: string): void {
  const resolved = resolveParent(path);
  if (listMounts().some((entry) => entry.mountPoint === resolved)) detach(path);
}

/** Unmounts everything at or below `directory`. */
export function unmountAllBelow(directory: string): void {
  // Mounts can be stacked on one point, and lie on one that others cover: look again until none is left, bounded by what
  // one sandbox may mount.
  for (let round = 0; round < maxRounds; round++) {
    const found = mountsBelow(directory);
    if (found.length === 0) return;
    for (const point of found) detach(point);
  }
  throw new RuntimeError(
    "internal",
    `Cannot unmount everything below "${directory}": ${mountsBelow(directory).join(", ")}`,
  );
}

const maxRounds = 16;

/** One may have gone with another: no mount point any more, or no path (its directory was in the other). */
function detach(path: string): void {
  try {
    loadNative().detachMount(path);
  } catch (cause) {
    if (["EINVAL", "ENOENT", "ENOTDIR"].includes(errnoOf(cause) ?? "")) return;
    throw new RuntimeError(systemErrorCode(cause), `Cannot unmount "${path}"`, { cause });
  }
}

/** Mount points at or below `directory`, each once, the latest first. */
export function mountsBelow(directory: string): string[] {
  const resolved = resolveParent(directory);
  const points = listMounts()
    .map((entry) => entry.mountPoint)
    .filter((point) => point === resolved || point.startsWith(`${resolved}/`));
  return [...new Set(points.reverse())];
}

/**
 * The path as the kernel has it in mountinfo, without symbolic links (/var/run). The last component stays as it is: it may
 * be a file system that does not answer any more.
 */
function resolveParent(path: string): string {
  try {
    return join(realpathSync(dirname(path)), basename(path));
  } catch {
    return path;
  }
}
