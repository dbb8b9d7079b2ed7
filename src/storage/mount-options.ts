import { dirname } from "node:path";
import { RuntimeError } from "../base/errors.ts";
import type { IdMap } from "./mount-tree.ts";

/** mount(2) takes one page of options; mount(8) needs a little of it for itself. */
const maxOptionBytes = 4096 - 128;
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
