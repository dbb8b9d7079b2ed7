/**
 * Mounts that a runtime does not take as they are, made ready on the host as containerd's mount manager does it: a type can
 * have transformations before its base ("format/mkdir/overlay"), and a mount can refer to those before it
 * (`{{ mount 0 }}`), which then have to be mounted. What is left, plain mounts, is for the runtime.
 *
 * Source: containerd, docs/mounts.md.
 */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { RuntimeError } from "../base/errors.ts";
import type { Mount } from "../sandbox/model.ts";
import { mount, mountsBelow, unmountAllBelow } from "../storage/mount.ts";

/** What is mounted on the host, and what the runtime gets. */
export interface ActivationPlan {
  /** Mounted at `<directory>/<index>`, in this order. */
  readonly mounted: readonly PlannedMount[];
  readonly rest: readonly PlannedMount[];
}

interface PlannedMount {
  readonly mount: Mount;
  /** Directories to make before, with their modes. */
  readonly directories: readonly { readonly path: string; readonly mode: number }[];
}

const mkdirOption = "X-containerd.mkdir.path=";
const knownTransformations: ReadonlySet<string> = new Set(["format", "mkdir"]);

/** Whether there is anything to do for a runtime that takes plain mounts only. */
export function needsActivation(mounts: readonly Mount[]): boolean {
  return mounts.some(({ type }) => type.includes("/"));
}

/**
 * @param allowed  what the runtime takes itself: types, and transformations as `name/*`
 * @throws unimplemented     a transformation that is not known here
 * @throws invalid_argument  a reference to a mount that is not before it
 */
export function planActivation(
  mounts: readonly Mount[],
  directory: string,
  allowed: ReadonlySet<string>,
): ActivationPlan {
  const isTaken = ({ type }: Mount) =>
    allowed.has(type) ||
    type
      .split("/")
      .slice(0, -1)
      .every((name) => allowed.has(`${name}/*`));
  // What a format refers to must be mounted by then: everything before the last one.
  const lastFormat = mounts.findLastIndex(
    (entry) => !isTaken(entry) && entry.type.split("/").includes("format"),
  );
  const planned = mounts.map((entry, index) =>
    isTaken(entry) ? { mount: entry, directories: [] } : transform(entry, index, mounts, directory),
  );
  return { mounted: planned.slice(0, Math.max(0, lastFormat)), rest: planned.slice(Math.max(0, lastFormat)) };
}

function transform(entry: Mount, index: number, mounts: readonly Mount[], directory: string): PlannedMount {
  const transformations = entry.type.split("/");
  const type = transformations.pop() ?? "";
  const unknown = transformations.find((name) => !knownTransformations.has(name));
  if (unknown !== undefined) {
    throw new RuntimeError(
      "unimplemented",
      `Cannot activate the mount "${entry.type}": "${unknown}" is not supported, known are ${[...knownTransformations].join(", ")}`,
    );
  }
  const isFormat = transformations.includes("format");
  const fill = (text: string) => (isFormat ? format(text, index, mounts, directory) : text);
  const options = entry.options.map(fill);
  const directories = transformations.includes("mkdir")
    ? options.filter((option) => option.startsWith(mkdirOption)).map(parseDirectory)
    : [];
  return {
    mount: {
      ...entry,
      type,
      source: fill(entry.source),
      options: options.filter((option) => !option.startsWith("X-containerd.")),
    },
    directories,
  };
}

/** `{{ mount N }}`, `{{ source N }}`, `{{ overlay FROM TO }}`: mount points, a source, mount points as an overlay's layers. */
function format(text: string, index: number, mounts: readonly Mount[], directory: string): string {
  return text.replace(/\{\{\s*(\w+)((?:\s+\d+)*)\s*\}\}/g, (whole, name: string, numbers: string) => {
    const [from = -1, to = from] = numbers.trim().split(/\s+/).map(Number);
    if (from < 0 || from >= index || to >= index) throw badReference(whole, index);
    if (name === "mount") return join(directory, String(from));
    if (name === "source") return mounts[from]?.source ?? "";
    if (name !== "overlay") throw badReference(whole, index);
    const step = from <= to ? 1 : -1;
    const layers = Array.from({ length: Math.abs(to - from) + 1 }, (_, offset) => from + offset * step);
    return layers.map((layer) => join(directory, String(layer))).join(":");
  });
}

function badReference(text: string, index: number): RuntimeError {
  return new RuntimeError(
    "invalid_argument",
    `Cannot activate mount ${index}: ${JSON.stringify(text.slice(0, 100))} refers to no mount before it`,
  );
}

function parseDirectory(option: string): { path: string; mode: number } {
  const [path = "", mode = "0700"] = option.slice(mkdirOption.length).split(":");
  if (!path.startsWith("/") || path.split("/").includes("..") || !/^0?[0-7]{1,4}$/.test(mode)) {
    throw new RuntimeError(
      "invalid_argument",
      `Cannot activate a mount: ${JSON.stringify(option.slice(0, 200))} names no absolute path and mode`,
    );
  }
  return { path, mode: Number.parseInt(mode, 8) };
}

/** Mounts what is planned, unless an earlier attempt for the same task has left it mounted. */
export async function activate(plan: ActivationPlan, directory: string): Promise<Mount[]> {
  const live = new Set(mountsBelow(directory));
  for (const [index, { mount: entry, directories }] of plan.mounted.entries()) {
    const target = join(directory, String(index));
    if (live.has(target)) continue;
    await makeDirectories(directories);
    await mkdir(target, { recursive: true, mode: 0o700 });
    await mount(entry.type, entry.source, target, entry.options);
  }
  for (const { directories } of plan.rest) await makeDirectories(directories);
  return plan.rest.map(({ mount: entry }) => entry);
}

/** Unmounts it. Idempotent. */
export function deactivate(directory: string): void {
  unmountAllBelow(directory);
}

async function makeDirectories(directories: PlannedMount["directories"]): Promise<void> {
  for (const { path, mode } of directories) await mkdir(path, { recursive: true, mode });
}
