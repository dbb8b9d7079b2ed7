import { readFileSync, realpathSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { errnoOf, RuntimeError } from "../base/errors.ts";
import { exec } from "../base/exec.ts";
import { systemErrorCode } from "../base/files.ts";
import { foreignText } from "../base/log.ts";
import { type FileSystem, loadNative } from "../base/native.ts";
import { within } from "../base/scope.ts";
import { attachCopy, type IdMap, openMountSource } from "./mount-tree.ts";
import { layersOf, shortenLayers, splitOptions, takeIdMap, withLayers } from "./mount-options.ts";

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

/**
 * Mounts a file system of containerd's. Options that only it reads (`X-containerd.*`) are left out; `uidmap` and `gidmap` are those
 * of its snapshotters.
 */
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
  const { idMap, rest } = takeIdMap(wanted);
  const isBind = rest.includes("bind") || rest.includes("rbind") || type === "bind";
  if (isBind) {
    await bindMount(source, target, {
      recursive: !rest.includes("bind"),
      readOnly: rest.includes("ro"),
      idMap,
    });
  } else if (type === "overlay") {
    const layers = idMap === undefined ? rest : await mapLayers(target, rest, idMap);
    const { options: shortened, cwd } = shortenLayers(layers);
    await mountFileSystem(type, source, target, shortened, cwd);
  } else if (idMap === undefined) {
    await mountFileSystem(type, source, target, rest);
  } else {
    throw new RuntimeError(
      "unimplemented",
      `Cannot mount "${target}": the ids of a file system of type "${type}" cannot be mapped, those of overlay and bind can`,
    );
  }
}

/**
 * Binds the layers of an overlay with mapped ids below the overlay's own target, which covers them then, and returns its
 * options with their names. An overlay itself cannot map ids; its upper layer has the ids that are seen.
 */
async function mapLayers(target: string, options: readonly string[], idMap: IdMap): Promise<string[]> {
  const layers = layersOf(options);
  await mountFileSystem("tmpfs", "tmpfs", target, ["mode=700"]);
  for (const [index, layer] of layers.entries()) {
    const place = join(target, String(index));
    await mkdir(place);
    await bindMount(layer.replaceAll(/\\(.)/g, "$1"), place, { readOnly: true, idMap });
  }
  const places = layers.map((_, index) => join(target, String(index)));
  return withLayers(options, places);
}

async function mountFileSystem(
  type: string,
  source: string,
  target: string,
  options: readonly string[],
  cwd?: string,
): Promise<void> {
  if (ownTypes.has(type)) {
    const call = { kind: type, source, target, ...splitOptions(options), directory: cwd };
    await within(loadNative().mountFileSystem(call), mountTimeoutMs, "ETIMEDOUT").then((errno) => {
      if (errno !== null) throw mountError(call, errno);
    });
    return;
  }
  const optionArguments = options.length === 0 ? [] : ["-o", options.join(",")];
  await exec(["mount", "--no-mtab", "-t", type, ...optionArguments, "--", source, target], {
    timeoutMs: mountTimeoutMs,
  });
}

/** Mounted by mount(2) alone; others may need a loop device or a program. */
const ownTypes: ReadonlySet<string> = new Set(["overlay", "tmpfs"]);

function mountError(call: FileSystem, errno: string): RuntimeError {
  const { kind, source, target, data } = call;
  const cause = Object.assign(new Error(errno), { code: errno });
  const fact = `Cannot mount "${source}" of type "${kind}" at "${target}": ${errno}, with the options "${data}"`;
  const code = errno === "ETIMEDOUT" ? "deadline_exceeded" : systemErrorCode(cause);
  return new RuntimeError(code, foreignText(fact), { cause });
}

interface BindOptions {
  /** Bring along the mounts below the source. */
  readonly recursive?: boolean;
  /** Holds for the mounts below it, too. */
  readonly readOnly?: boolean;
  readonly idMap?: IdMap | undefined;
}

/** Binds a file or directory, privately, onto an existing target of the same kind. */
async function bindMount(source: string, target: string, options: BindOptions): Promise<void> {
  await using from = await openMountSource(source);
  attachCopy(from, target, {
    recursive: options.recursive ?? false,
    readOnly: options.readOnly ? "all" : "none",
    noSuidAndDev: false,
    propagation: "private",
    idMap: options.idMap && { ...options.idMap, recursive: false },
  });
}

/** Binds the directory `source` at `target`, read-only and without what is mounted below it. */
export async function bindReadOnly(source: string, target: string): Promise<void> {
  await using from = await openMountSource(source);
  attachCopy(from, target, {
    recursive: false,
    readOnly: "all",
    noSuidAndDev: true,
    propagation: "private",
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

/**
 * Detaches the mount at `path` with what is mounted below it. Success when nothing is mounted there, or there is no such path: it
 * may have gone with another. `namespace` is the descriptor of another mount namespace than ours, from whose root the path is.
 */
export function detach(path: string, namespace?: number): void {
  try {
    loadNative().detachMount(path, namespace);
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
