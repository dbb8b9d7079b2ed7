import { existsSync, realpathSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { isAbsolute, join, resolve } from "node:path";
import type { BindSource, SharedBind } from "../agent-client/guest-mounts.ts";
import { RuntimeError } from "../base/errors.ts";
import { systemErrorCode } from "../base/files.ts";
import type { Spec } from "../oci/spec.ts";
import { isOverlay, mount, unmountAllBelow } from "../storage/mount.ts";
import type { SharedDir } from "../storage/shared-dir.ts";
import type { Journal } from "./journal.ts";
import type { CreateContainerRequest } from "./model.ts";

/**
 * Mounts a container's root file system at `<bundle>/rootfs` (where `docker cp` and containerd look for it) and shows it
 * and the sources of its bind mounts to the guest. `removeContainerFiles` undoes it.
 *
 * @returns the binds in the share
 * @throws not_found, invalid_argument  a source is missing or is no directory or regular file
 * @throws failed_precondition          the root file system is empty
 */
export async function addContainerFiles(
  request: CreateContainerRequest,
  { spec, binds }: { readonly spec: Spec; readonly binds: readonly BindSource[] },
  { shared, journal }: { readonly shared: SharedDir; readonly journal: Journal },
): Promise<SharedBind[]> {
  const { containerId, bundle } = request;
  journal.add({ kind: "container", containerId });
  if (request.rootImage === undefined) await addRootfs(request, spec, { shared, journal });
  const shown: SharedBind[] = [];
  for (const { source, ...options } of binds) {
    shown.push(await shared.addMount(containerId, resolve(bundle, source), options));
  }
  return shown;
}

async function addRootfs(
  request: CreateContainerRequest,
  spec: Spec,
  { shared, journal }: { readonly shared: SharedDir; readonly journal: Journal },
): Promise<void> {
  const { containerId, bundle } = request;
  const root = rootPath(bundle, spec);
  if (request.rootfs.length > 0) {
    const target = join(bundle, "rootfs");
    journal.add({ kind: "rootfs", path: target });
    for (const { type, source, target: below, options } of request.rootfs) {
      await mount(type, source, mountPointBelow(target, below), options);
    }
  }
  await checkNotEmpty(root, containerId);
  // In a layer of the container's own the guest's runtime makes the mount points that are missing (pause images have none),
  // and then makes it read-only.
  const hasOwnLayer = request.rootfs.length > 0 || isOverlay(root);
  await shared.addRootfs(containerId, root, !hasOwnLayer && (spec.root.readonly ?? false));
}

/** Unmounts what `addContainerFiles` mounted: a root file system that the caller brought mounted stays so. Idempotent. */
export async function removeContainerFiles(
  { containerId, bundle, rootfs }: ContainerFiles,
  shared: SharedDir,
): Promise<void> {
  await shared.removeContainer(containerId);
  if (rootfs.length > 0) unmountAllBelow(join(bundle, "rootfs"));
}

export type ContainerFiles = Pick<CreateContainerRequest, "containerId" | "bundle" | "rootfs">;

/** A place in what is mounted already: an image may have planted a symbolic link there. */
function mountPointBelow(target: string, below: string): string {
  if (below === "") return target;
  const path = join(target, below);
  const isInside =
    path.startsWith(`${target}/`) &&
    existsSync(path) &&
    realpathSync(path) === join(realpathSync(target), below);
  if (isInside) return path;
  throw new RuntimeError(
    "invalid_argument",
    `Cannot mount at "${below}" of the root file system: expected a path in it without symbolic links`,
  );
}

function rootPath(bundle: string, spec: Spec): string {
  const { path } = spec.root;
  return isAbsolute(path) ? path : join(bundle, path);
}

async function checkNotEmpty(root: string, containerId: string): Promise<void> {
  const names = await readdir(root).catch((cause: unknown) => {
    throw new RuntimeError(
      systemErrorCode(cause),
      `Cannot use the root file system "${root}" of container "${containerId}"`,
      { cause },
    );
  });
  if (names.length > 0) return;
  throw new RuntimeError(
    "failed_precondition",
    `Cannot create container "${containerId}": its root file system "${root}" is empty`,
  );
}
