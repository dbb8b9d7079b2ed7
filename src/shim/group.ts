import { existsSync } from "node:fs";
import { join } from "node:path";
import { RuntimeError } from "../base/errors.ts";
import { checkId } from "../base/ids.ts";
import { readRegularFile } from "../base/files.ts";

/** Annotations that name the group a container belongs to; the first one that is there counts. */
const groupAnnotations = [
  "io.containerd.runc.v2.group",
  "io.kubernetes.cri.sandbox-id",
  // CRI-O's.
  "io.kubernetes.cri-o.SandboxID",
];
const maxSpecBytes = 4 * 1024 * 1024;

/**
 * The id of the sandbox that the container of this bundle belongs to: its group's, or its own. A bundle without
 * config.json (a sandbox of containerd's `shim` sandboxer) stands for itself.
 *
 * @throws invalid_argument  config.json is not JSON, or the group's name is no id
 */
export async function groupOf(bundle: string, id: string): Promise<string> {
  const path = join(bundle, "config.json");
  let bytes: Buffer;
  try {
    bytes = await readRegularFile(path, maxSpecBytes);
  } catch (error) {
    if (error instanceof RuntimeError && error.code === "not_found") return id;
    throw error;
  }
  const group = readGroup(path, bytes);
  return group === undefined ? id : checkId("sandbox id", group);
}

/**
 * Whether the bundle is a sandbox's of containerd's `shim` sandboxer, which keeps it in a directory of its own and gives it
 * a configuration only where the client has one.
 */
export function isSandboxBundle(bundle: string): boolean {
  return (
    bundle.includes("/io.containerd.sandbox.controller.v1.shim/") || !existsSync(join(bundle, "config.json"))
  );
}

function readGroup(path: string, bytes: Buffer): string | undefined {
  let spec: unknown;
  try {
    spec = JSON.parse(bytes.toString("utf8"));
  } catch (cause) {
    throw new RuntimeError("invalid_argument", `Cannot read "${path}": it is not JSON`, { cause });
  }
  const annotations = member(spec, "annotations");
  const values = groupAnnotations.map((key) => member(annotations, key));
  return values.find((value): value is string => typeof value === "string" && value !== "");
}

function member(value: unknown, key: string): unknown {
  return typeof value === "object" && value !== null && Object.hasOwn(value, key)
    ? (value as Record<string, unknown>)[key]
    : undefined;
}
