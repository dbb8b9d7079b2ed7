import { mkdir, open, readdir, realpath } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { RuntimeError } from "../base/errors.ts";
import { ignore, removeDirectory, removeFile } from "../base/files.ts";
import { listMounts, unmount, unmountAllBelow } from "./mount.ts";
import {
  attachCopy,
  copyTree,
  type MountSource,
  type MountTree,
  openMountSource,
  type TreeOptions,
} from "./mount-tree.ts";
import type { ShareMounts } from "./share-mounts.ts";

/** No container's id begins with a dot. */
const volumesName = ".volumes";
const stagingName = "staging";

/** How a bind source is shown; as in `TreeOptions`. */
export type BindOptions = Pick<TreeOptions, "recursive" | "readOnly" | "idMap"> & {
  readonly propagation: "private" | "slave";
};

export interface SharedVolume {
  /** In the share. */
  readonly path: string;
  /** Whether something is mounted below it, or may be later. */
  readonly hasMounts: boolean;
}

interface Volume {
  readonly number: number;
  readonly users: Set<string>;
  /** Settles when it is mounted. */
  readonly mounted: Promise<void>;
}

export interface VolumePlaces {
  /** The sandbox's own directory. */
  readonly sandbox: string;
  /** Private, for what the guest is not to see. */
  readonly private: string;
  /** Where mount points are made. */
  readonly skeleton: string;
  /** What is served. */
  readonly root: string;
}

/**
 * The bind sources of a sandbox's containers in its share. Containers that bind the same thing in the same way see one mount:
 * in the guest a socket, a lock and a mapping of a file are those of its mount.
 */
export class SharedVolumes {
  readonly #places: VolumePlaces;
  readonly #mounts: ShareMounts;
  readonly #volumes = new Map<string, Volume>();
  #next = 0;

  constructor(places: VolumePlaces, mounts: ShareMounts) {
    this.#places = places;
    this.#mounts = mounts;
  }

  async add(containerId: string, source: string, options: BindOptions): Promise<SharedVolume> {
    await using from = await openMountSource(source);
    const own = await realpath(this.#places.sandbox);
    checkSource(from, source, own);
    const mounts = listMounts().filter(({ mountPoint }) => `${mountPoint}/`.startsWith(`${from.realPath}/`));
    // What makes two binds the same: the file, how it is shown, and the mounts of now that come along.
    const key = JSON.stringify([from.identity, from.realPath, options, mounts.map(({ mountId }) => mountId)]);
    const volume = this.#volumes.get(key) ?? this.#make(key, from, own, options);
    volume.users.add(containerId);
    await volume.mounted;
    return {
      path: join(volumesName, String(volume.number)),
      hasMounts:
        options.propagation === "slave" ||
        (options.recursive && mounts.some(({ mountPoint }) => mountPoint !== from.realPath)),
    };
  }

  /** Unmounts what only this container has used. */
  async release(containerId: string): Promise<void> {
    for (const [key, { users, number }] of this.#volumes) {
      if (!users.delete(containerId) || users.size > 0) continue;
      this.#volumes.delete(key);
      this.#mounts.detach(join(volumesName, String(number)));
      await removeTarget(join(this.#places.skeleton, volumesName, String(number)));
    }
  }

  #make(key: string, from: MountSource, own: string, options: BindOptions): Volume {
    const number = this.#next++;
    const volume = { number, users: new Set<string>(), mounted: this.#mount(number, from, own, options) };
    this.#volumes.set(key, volume);
    volume.mounted.catch(() => this.#volumes.delete(key));
    return volume;
  }

  async #mount(number: number, from: MountSource, own: string, options: BindOptions): Promise<void> {
    const { skeleton } = this.#places;
    await makeTarget(join(skeleton, volumesName), String(number), from.isDirectory);
    const treeOptions = { ...options, noSuidAndDev: true };
    const staging = join(this.#places.private, `${stagingName}-${number}`);
    using tree =
      options.recursive && holdsOwnMounts(from, own)
        ? await copyWithoutOwnMounts(from, { staging, own }, treeOptions)
        : copyTree(from, treeOptions);
    await this.#mounts.attach(tree, join(volumesName, String(number)));
  }
}

/** Removes what is left of the volumes in directories whose mounts are gone. Idempotent. */
export async function removeVolumeTargets({ private: directory, skeleton }: VolumePlaces): Promise<void> {
  for (const name of await namesIn(directory)) {
    if (!name.startsWith(stagingName)) continue;
    unmountAllBelow(join(directory, name));
    await removeDirectory(join(directory, name));
  }
  for (const name of await namesIn(join(skeleton, volumesName)))
    await removeTarget(join(skeleton, volumesName, name));
  await removeDirectory(join(skeleton, volumesName));
}

async function namesIn(directory: string): Promise<string[]> {
  return (await readdir(directory).catch(ignore("ENOENT"))) ?? [];
}

async function makeTarget(directory: string, name: string, isDirectory: boolean): Promise<void> {
  await mkdir(directory, { recursive: true, mode: 0o711 });
  if (isDirectory) await mkdir(join(directory, name), { mode: 0o711 });
  else await (await open(join(directory, name), "wx", 0o600)).close();
}

/** An empty directory or an empty file. */
async function removeTarget(path: string): Promise<void> {
  await removeDirectory(path).catch((error: unknown) => {
    ignore("ENOTDIR")(error);
    return removeFile(path);
  });
}

function checkSource({ isDirectory, isFile, realPath }: MountSource, source: string, own: string): void {
  const refuse = (fact: string) =>
    new RuntimeError("invalid_argument", `Cannot share "${source}" with the guest: ${fact}`);
  if (!isDirectory && !isFile) {
    throw refuse("expected a directory or a regular file, sockets, FIFOs and devices do not cross virtio-fs");
  }
  if (`${realPath}/`.startsWith(`${own}/`)) throw refuse(`it lies in the sandbox's own state, "${own}"`);
}

/** Whether the source is above the state of all sandboxes, `<state directory>/<namespace>/<sandbox id>`. */
function holdsOwnMounts({ realPath }: MountSource, own: string): boolean {
  return `${dirname(dirname(own))}/`.startsWith(realPath === "/" ? "/" : `${realPath}/`);
}

/**
 * Copies what holds our own mounts (the host's root, say) without them: they would be kept alive by the copy when their
 * sandboxes end.
 */
async function copyWithoutOwnMounts(
  source: MountSource,
  { staging, own }: { readonly staging: string; readonly own: string },
  options: TreeOptions,
): Promise<MountTree> {
  await mkdir(staging, { mode: 0o700 });
  try {
    attachCopy(source, staging, { ...options, readOnly: "none", idMap: undefined });
    unmountAllBelow(join(staging, relative(source.realPath, dirname(dirname(own)))));
    await using cleaned = await openMountSource(staging);
    return copyTree(cleaned, options);
  } finally {
    unmount(staging);
    await removeDirectory(staging);
  }
}
