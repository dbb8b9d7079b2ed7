import { RuntimeError } from "../base/errors.ts";
import type { Spec, SpecIdMapping, SpecMount } from "../oci/spec.ts";

/** Where the sandbox's virtio-fs share is mounted in the guest. */
export const guestShareDirectory = "/run/caisson/shared";

/** A host path that the container wants bound, to be added to the share before the container is created. */
export interface BindSource {
  readonly source: string;
  /** With what is mounted below it. */
  readonly recursive: boolean;
  /** The mount itself ("ro"), or those below it too ("rro"). */
  readonly readOnly: "none" | "top" | "all";
  /** "slave": what the host mounts and unmounts below it later follows. */
  readonly propagation: "private" | "slave";
  /** Lines of user_namespaces(7) by which the ids of its files are mapped on the host. */
  readonly idMap?: { readonly uids: string; readonly gids: string; readonly recursive: boolean } | undefined;
}

/** Mounts that the guest has a place of its own for, by the mount: its path in the guest. */
export type GuestPlaces = ReadonlyMap<SpecMount, string>;

/** The bind mounts of a spec that are shared by the host, in their order. @throws invalid_argument  a bad id mapping */
export function bindSources(spec: Spec, places: GuestPlaces): BindSource[] {
  return (spec.mounts ?? [])
    .filter((mount) => isBind(mount) && !places.has(mount))
    .map((mount) => {
      const options = new Set(mount.options);
      return {
        source: mount.source ?? "",
        recursive: options.has("rbind") || !options.has("bind"),
        readOnly: options.has("rro") ? "all" : options.has("ro") ? "top" : "none",
        propagation: followsHost.some((option) => options.has(option)) ? "slave" : "private",
        idMap: idMapOf(mount, spec),
      };
    });
}

/** Of "shared" the half that leads into the guest. */
const followsHost = ["slave", "rslave", "shared", "rshared"];

/** A bind source in the share. */
export interface SharedBind {
  readonly path: string;
  /** Whether something is mounted below it, or may be. */
  readonly hasMounts: boolean;
}

/** Where the binds have their sources in the guest. */
export interface GuestSources {
  readonly places: GuestPlaces;
  /** Of the `bindSources`, in their order. */
  readonly shared: readonly SharedBind[];
}

/**
 * The mounts as the guest's runtime gets them: binds come from the share or from a place in the guest. Where something is mounted
 * below one, "ro" is left to the host: in the guest it would hold for what is below, too, because the kernel mounts that there
 * when it is first walked into, with the flags of the mount above.
 */
export function guestMounts(spec: Spec, { places, shared }: GuestSources): SpecMount[] {
  let nextBind = 0;
  return (spec.mounts ?? []).map((mount) => {
    if (!isBind(mount)) return mount;
    const place = places.get(mount);
    const bind = place === undefined ? shared[nextBind++] : undefined;
    const source = place ?? `${guestShareDirectory}/${bind?.path}`;
    const { uidMappings: _uids, gidMappings: _gids, options = [], ...kept } = mount;
    return {
      ...kept,
      type: "bind",
      source,
      options: [
        ...options.filter(
          (option) => !idMapOptions.includes(option) && !(bind?.hasMounts && option === "ro"),
        ),
        ...(place === undefined ? [] : placeFlags),
      ],
    };
  });
}

/** As every runtime mounts shared memory; crun does not keep the flags of a bind's source. */
const placeFlags = ["nosuid", "nodev", "noexec"];
const idMapOptions = ["idmap", "ridmap"];

/** The bind at /dev/shm, if there is one. */
export function sharedMemoryBind(spec: Spec): SpecMount | undefined {
  // The last one covers those before it.
  return spec.mounts?.findLast((mount) => isBind(mount) && isSharedMemory(mount));
}

export function isSharedMemory({ destination }: SpecMount): boolean {
  return /^\/+dev\/+shm\/*$/.test(destination);
}

export function isBind(mount: SpecMount): boolean {
  const options = mount.options ?? [];
  return mount.type === "bind" || options.includes("bind") || options.includes("rbind");
}

function idMapOf(mount: SpecMount, spec: Spec): BindSource["idMap"] {
  const options = mount.options ?? [];
  const isAsked =
    idMapOptions.some((option) => options.includes(option)) ||
    (mount.uidMappings ?? []).length > 0 ||
    (mount.gidMappings ?? []).length > 0;
  if (!isAsked) return undefined;
  // Without mappings of its own a mount has those of the container (config.md, "mounts").
  const uids = mount.uidMappings?.length ? mount.uidMappings : spec.linux?.uidMappings;
  const gids = mount.gidMappings?.length ? mount.gidMappings : spec.linux?.gidMappings;
  if (!uids?.length || !gids?.length) {
    throw new RuntimeError(
      "invalid_argument",
      `Cannot map the ids of the mount at "${mount.destination}": it has no uidMappings and gidMappings, nor has the container`,
    );
  }
  return { uids: mapLines(uids), gids: mapLines(gids), recursive: options.includes("ridmap") };
}

function mapLines(mappings: readonly SpecIdMapping[]): string {
  return mappings.map(({ containerID, hostID, size }) => `${containerID} ${hostID} ${size}\n`).join("");
}
