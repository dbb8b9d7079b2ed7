import type { Hypervisor } from "./hypervisor.ts";

export interface DriverOptions {
  readonly hypervisor: Hypervisor["name"];
  readonly qemuPath: string;
  readonly vhostDeviceVsockPath: string;
  readonly cloudHypervisorPath: string;
}

/**
 * The driver that is configured; only its own code is loaded. `warn` is told of a protection that a host cannot give.
 */
export async function createDriver(
  options: DriverOptions,
  warn: (text: string) => void,
): Promise<Hypervisor> {
  switch (options.hypervisor) {
    case "qemu": {
      const { createQemuDriver } = await import("./qemu/driver.ts");
      return createQemuDriver(options);
    }
    case "cloud-hypervisor": {
      const { createCloudHypervisorDriver } = await import("./cloud-hypervisor/driver.ts");
      return createCloudHypervisorDriver({ ...options, warn });
    }
  }
}
