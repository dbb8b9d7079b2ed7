import { normalize } from "node:path";
import { RuntimeError } from "../base/errors.ts";
import type { Config } from "../config/config.ts";
import type { Spec } from "../oci/spec.ts";

const maxPathLength = 2_048;

/**
 * Where the VM of a spec shall be accounted; undefined: where its daemon is.
 *
 * @throws invalid_argument  the spec's path is none
 */
export function cgroupPlaceOf(spec: Spec, config: Pick<Config, "hostCgroup">): string | undefined {
  const path = spec.linux?.cgroupsPath ?? "";
  return config.hostCgroup && path !== "" ? placeOfCgroup(path) : undefined;
}

/**
 * The place of a cgroup below a hierarchy's root, from `linux.cgroupsPath`: a path, or `slice:prefix:name` as for systemd,
 * which stands for the scope `prefix-name.scope` in that slice. Slices are nested by the dashes in their names
 * (systemd.slice(5)).
 *
 * @throws invalid_argument  neither of them, or a path with ".."
 */
export function placeOfCgroup(cgroupsPath: string): string {
  const refuse = (expected: string) =>
    new RuntimeError(
      "invalid_argument",
      `Cannot use the cgroup path ${JSON.stringify(cgroupsPath.slice(0, 100))}: expected ${expected}`,
    );
  if (cgroupsPath.length > maxPathLength || cgroupsPath.includes("\0"))
    throw refuse(`at most ${maxPathLength} characters and no NUL`);
  const words = cgroupsPath.split(":");
  const [slice = "", prefix = "", name = ""] = words;
  const place =
    words.length === 3 && !cgroupsPath.startsWith("/")
      ? `${expandSlice(slice === "" ? "system.slice" : slice, refuse)}/${scopeName(prefix, name, refuse)}`
      : normalize(`/${cgroupsPath}`);
  if (place === "/" || place.endsWith("/") || cgroupsPath.split("/").includes(".."))
    throw refuse('a cgroup below the root, without ".."');
  return place;
}

type Refuse = (expected: string) => RuntimeError;

/** `a-b.slice` lies in `a.slice`; `-.slice` is the root. */
function expandSlice(slice: string, refuse: Refuse): string {
  const stem = slice.endsWith(".slice") ? slice.slice(0, -".slice".length) : "";
  if (stem === "-") return "";
  const parts = stem.split("-");
  if (parts.includes("") || stem.includes("/"))
    throw refuse('a slice whose name ends in ".slice" and has words between single dashes');
  return parts.map((_, index) => `/${parts.slice(0, index + 1).join("-")}.slice`).join("");
}

function scopeName(prefix: string, name: string, refuse: Refuse): string {
  if (name === "" || `${prefix}${name}`.includes("/"))
    throw refuse("a name without a slash after the prefix");
  return prefix === "" ? `${name}.scope` : `${prefix}-${name}.scope`;
}
