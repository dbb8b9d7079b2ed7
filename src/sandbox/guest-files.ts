import { existsSync, readFileSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { RuntimeError } from "../base/errors.ts";
import type { Config } from "../config/config.ts";

export interface GuestFiles {
  readonly kernelPath: string;
  /** Undefined when the kernel has everything built in. */
  readonly initrdPath: string | undefined;
  readonly imagePath: string;
  /** The kernel finds its devices through ACPI. */
  readonly acpi: boolean;
  readonly kernelName: string;
}

type GuestSettings = Pick<Config, "guestDirectory" | "kernelPath" | "machine">;

/**
 * Chooses the kernel (`kernel_path`, else the tuned one when it was built, else the default one) and finds the files
 * that belong to it. The tuned one has no ACPI, without which q35 cannot grow.
 *
 * @throws not_found         a file is missing; the message says which and how to get it
 * @throws invalid_argument  kernel.json is not as expected
 */
export function findGuestFiles(config: GuestSettings): GuestFiles {
  const { guestDirectory } = config;
  const imagePath = requireFile(join(guestDirectory, "image.erofs"), "guest image");
  const kernelPath = requireFile(chooseKernel(config), "kernel");
  const described = join(dirname(kernelPath), "kernel.json");
  if (basename(kernelPath) !== "vmlinux" || !existsSync(described)) {
    // A kernel of the user's own: it may have modules or not, so it gets the initrd and finds its devices through ACPI.
    const initrdPath = requireFile(join(guestDirectory, "initrd"), "initrd");
    return { kernelPath, initrdPath, imagePath, acpi: true, kernelName: basename(kernelPath) };
  }
  const { name, acpi, initrd } = readDescription(described);
  const initrdPath = initrd === null ? undefined : requireFile(join(dirname(kernelPath), initrd), "initrd");
  return { kernelPath, initrdPath, imagePath, acpi, kernelName: name };
}

/** The files that a VM is made of, in words that change when others are in their places. @throws not_found  as `findGuestFiles` */
export function describeVmFiles(config: Config, ...others: readonly string[]): string {
  const { kernelPath, initrdPath, imagePath } = findGuestFiles(config);
  const vmm = config.hypervisor === "qemu" ? config.qemuPath : config.cloudHypervisorPath;
  const paths = [
    kernelPath,
    initrdPath,
    imagePath,
    vmm,
    config.virtiofsdPath,
    config.vhostDeviceVsockPath,
    ...others,
  ];
  return JSON.stringify(
    paths.map((path) => {
      const stat = path === undefined ? undefined : statSync(path, { throwIfNoEntry: false });
      return [path, stat?.dev, stat?.ino, stat?.size, stat?.mtimeMs];
    }),
  );
}

function chooseKernel({ guestDirectory, kernelPath, machine }: GuestSettings): string {
  if (kernelPath !== "") return kernelPath;
  const tuned = join(guestDirectory, "tuned", "vmlinux");
  return machine !== "q35" && existsSync(tuned) ? tuned : join(guestDirectory, "vmlinux");
}

function requireFile(path: string, what: string): string {
  if (existsSync(path)) return path;
  throw new RuntimeError(
    "not_found",
    `Cannot find the ${what} "${path}": no such file; "make guest" makes it, guest_directory and kernel_path of the configuration say where it is looked for`,
  );
}

interface KernelDescription {
  readonly name: string;
  readonly acpi: boolean;
  readonly initrd: string | null;
}

function readDescription(path: string): KernelDescription {
  const refuse = (cause?: unknown) =>
    new RuntimeError("invalid_argument", `Cannot use "${path}": expected { "name", "acpi", "initrd" }`, {
      cause,
    });
  let value: unknown;
  try {
    value = JSON.parse(readFileSync(path, "utf8"));
  } catch (cause) {
    throw refuse(cause);
  }
  const { name, acpi, initrd } = (value ?? {}) as Partial<KernelDescription>;
  if (typeof name !== "string" || typeof acpi !== "boolean") throw refuse();
  if (initrd !== null && (typeof initrd !== "string" || !/^[^/]+$/.test(initrd) || initrd === ".."))
    throw refuse();
  return { name, acpi, initrd };
}
