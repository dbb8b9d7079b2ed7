import { planQemu } from "../../src/hypervisor/qemu/plan.ts";
import type { VmConfig } from "../../src/hypervisor/vm-config.ts";

/** What the floor has of a sandbox's command line; the rest are devices and the sockets that we talk over. */
const keptFlags = new Set([
  "-nodefaults",
  "-no-user-config",
  "-display",
  "-no-reboot",
  "-sandbox",
  "-machine",
  "-global",
  "-m",
  "-smp",
  "-accel",
  "-cpu",
  "-append",
]);

/** What the floor may have of the sandbox's devices. */
export interface FloorDevices {
  /** Of the image that becomes a disk. */
  readonly imagePath?: string;
  /** A directory of the host, served on a vhost-user socket. */
  readonly share?: { readonly tag: string; readonly socketPath: string } | undefined;
}

/**
 * The command line of the floor's QEMU, made of the one that a sandbox gets: the same machine, CPU, memory, accelerator and
 * kernel, with the console on stdout and no other device than those given.
 */
export function planFloor(config: VmConfig, { imagePath, share }: FloorDevices = {}): string[] {
  const { path, initrdPath } = config.kernel;
  const { args } = planQemu({ ...config, disks: [], shares: [], nics: [] });
  const pairs = args.flatMap((arg, index) => {
    if (!arg.startsWith("-")) return [];
    const value = args[index + 1];
    return [value === undefined || value.startsWith("-") ? [arg] : [arg, value]];
  });
  const isMemory = ([flag, value = ""]: readonly string[]) =>
    flag === "-object" && value.startsWith("memory-backend-");
  const kept = pairs.filter((pair) => keptFlags.has(pair[0] ?? "") || isMemory(pair)).flat();
  const console = ["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"];
  const initrd = initrdPath === undefined ? [] : ["-initrd", initrdPath];
  const disk = imagePath === undefined ? [] : diskArgs(config, imagePath);
  const shared = share === undefined ? [] : shareArgs(config, share.tag, share.socketPath);
  // By path: a sandbox's QEMU, which is nobody in particular, gets them as descriptors.
  return [...kept, "-kernel", path, ...initrd, ...console, ...disk, ...shared];
}

function shareArgs({ machine }: VmConfig, tag: string, socketPath: string): string[] {
  const properties = `chardev=share,tag=${tag},queue-size=1024`;
  const device = `vhost-user-fs-${machine === "q35" ? "pci" : "device"},${properties}`;
  return ["-chardev", `socket,id=share,path=${socketPath.replaceAll(",", ",,")}`, "-device", device];
}

function diskArgs({ machine }: VmConfig, path: string): string[] {
  const node = `driver=raw,node-name=image,read-only=on,file.driver=file,file.filename=${path.replaceAll(",", ",,")}`;
  return ["-blockdev", node, "-device", `virtio-blk-${machine === "q35" ? "pci" : "device"},drive=image`];
}
