import { stat } from "node:fs/promises";
import { isAbsolute, join, resolve } from "node:path";
import { RuntimeError } from "../base/errors.ts";
import { loadSpec, type Spec } from "../oci/spec.ts";

export interface Bundle {
  readonly path: string;
  readonly rootfs: string;
  readonly spec: Spec;
}

/** Reads and checks a bundle; `path` undefined: the working directory. @throws not_found, invalid_argument */
export async function openBundle(path: string | undefined): Promise<Bundle> {
  const bundle = await bundleDirectory(path);
  const spec = await loadSpec(bundle).catch((error: unknown) => {
    if (!(error instanceof RuntimeError) || error.code !== "not_found") throw error;
    throw new RuntimeError("not_found", "JSON specification file config.json not found");
  });
  const rootfs = isAbsolute(spec.root.path) ? spec.root.path : join(bundle, spec.root.path);
  if (await isDirectory(rootfs)) return { path: bundle, rootfs, spec };
  throw new RuntimeError("not_found", `invalid rootfs: stat ${rootfs}: no such file or directory`);
}

/** The absolute path of a bundle; undefined: the working directory. @throws not_found */
export async function bundleDirectory(path: string | undefined): Promise<string> {
  const bundle = resolve(path ?? ".");
  if (await isDirectory(bundle)) return bundle;
  throw new RuntimeError("not_found", `chdir ${bundle}: no such file or directory`);
}

async function isDirectory(path: string): Promise<boolean> {
  return stat(path).then(
    (status) => status.isDirectory(),
    () => false,
  );
}
