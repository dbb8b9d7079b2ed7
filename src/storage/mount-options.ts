import { dirname } from "node:path";
import { RuntimeError } from "../base/errors.ts";
import type { IdMap } from "./mount-tree.ts";

/** MS_… of mount(2): what an option sets, and what it takes back. */
const flagOptions: ReadonlyMap<string, { readonly set?: number; readonly clear?: number }> = new Map([
  ["defaults", {}],
  ["ro", { set: 1 }],
  ["rw", { clear: 1 }],
  ["nosuid", { set: 2 }],
  ["suid", { clear: 2 }],
  ["nodev", { set: 4 }],
  ["dev", { clear: 4 }],
  ["noexec", { set: 8 }],
  ["exec", { clear: 8 }],
  ["sync", { set: 16 }],
  ["async", { clear: 16 }],
  ["dirsync", { set: 128 }],
  ["noatime", { set: 1024 }],
  ["atime", { clear: 1024 }],
  ["nodiratime", { set: 2048 }],
  ["diratime", { clear: 2048 }],
  ["relatime", { set: 1 << 21 }],
  ["norelatime", { clear: 1 << 21 }],
  ["strictatime", { set: 1 << 24 }],
  ["nostrictatime", { clear: 1 << 24 }],
  ["lazytime", { set: 1 << 25 }],
  ["nolazytime", { clear: 1 << 25 }],
]);

/** Options as mount(8) gives them to mount(2): in flags, and what is left for the file system itself. What begins with "x-" is nobody's. */
export function splitOptions(options: readonly string[]): { readonly flags: number; readonly data: string } {
  let flags = 0;
  const rest: string[] = [];
  for (const option of options) {
    const known = flagOptions.get(option);
    if (known !== undefined) flags = (flags | (known.set ?? 0)) & ~(known.clear ?? 0);
    else if (!/^x-/i.test(option)) rest.push(option);
  }
  return { flags, data: rest.join(",") };
}

/** mount(2) takes one page of options, a NUL at the end. */
const maxOptionBytes = 4095;
const lowerPrefix = "lowerdir=";

/** The lower layers of an overlay, as its options have them: a colon that belongs to a name has a backslash before it. */
export function layersOf(options: readonly string[]): string[] {
  const lower = options.find((option) => option.startsWith(lowerPrefix));
  return lower?.slice(lowerPrefix.length).split(/(?<!\\):/) ?? [];
}

/** The options with other lower layers. */
export function withLayers(options: readonly string[], layers: readonly string[]): string[] {
  return options.map((option) =>
    option.startsWith(lowerPrefix) ? `${lowerPrefix}${layers.join(":")}` : option,
  );
}

/**
 * Options of an overlay that has many layers: those that are too long together are named relative to the directory that
 * holds them all, which has to be the working directory then (as containerd does).
 */
export function shortenLayers(options: readonly string[]): {
  readonly options: readonly string[];
  readonly cwd?: string;
} {
  const layers = layersOf(options);
  if (layers.length === 0 || Buffer.byteLength(options.join(",")) <= maxOptionBytes) return { options };
  let common = dirname(layers[0] ?? "");
  while (common !== "/" && common !== "." && !layers.every((layer) => layer.startsWith(`${common}/`))) {
    common = dirname(common);
  }
  // What is escaped is a name only after the kernel has read it.
  if (common === "/" || common === "." || common.includes("\\")) return { options };
  const relative = layers.map((layer) => layer.slice(common.length + 1));
  return { options: withLayers(options, relative), cwd: common };
}

/**
 * Takes containerd's options for mapped ids out: `uidmap=<id on disk>:<id that is seen>:<count>`, several with commas.
 *
 * @throws invalid_argument
 */
export function takeIdMap(options: readonly string[]): {
  readonly idMap: IdMap | undefined;
  readonly rest: readonly string[];
} {
  const uids = options.find((option) => option.startsWith("uidmap="));
  const gids = options.find((option) => option.startsWith("gidmap="));
  if (uids === undefined && gids === undefined) return { idMap: undefined, rest: options };
  return {
    idMap: { uids: parseMap(uids ?? "uidmap="), gids: parseMap(gids ?? "gidmap=") },
    rest: options.filter((option) => option !== uids && option !== gids),
  };
}

function parseMap(option: string): string {
  const maps = option.slice("uidmap=".length).split(",");
  if (!maps.every((map) => /^\d{1,10}:\d{1,10}:\d{1,10}$/.test(map))) {
    throw new RuntimeError(
      "invalid_argument",
      `Cannot use the mount option "${option}": expected uidmap and gidmap, each <id>:<id>:<count>`,
    );
  }
  return maps.map((map) => `${map.replaceAll(":", " ")}\n`).join("");
}
