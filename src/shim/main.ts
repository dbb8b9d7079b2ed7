import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { runCommand } from "./command.ts";

/** The bundle lies in `lib/`, its launcher in `bin/` beside it. */
const executableDirectory = resolve(fileURLToPath(import.meta.url), "../../bin");

await runCommand(process.argv.slice(2), {
  loadConfig: async (overrides = [], environment = process.env) => {
    const { loadConfig } = await import("../config/load.ts");
    return loadConfig({ environment, executableDirectory, overrides });
  },
  createSandbox: async (options) => {
    const { createDriver } = await import("../hypervisor/drivers.ts");
    const { createSandbox } = await import("../sandbox/sandbox.ts");
    const { coldVms } = await import("../sandbox/vm-source.ts");
    const hypervisor = await createDriver(options.config, (text) => options.log.warn(text));
    const { vms, originMs } = options;
    if (vms !== undefined) return createSandbox({ ...options, hypervisor, vms });
    const programMs = performance.now();
    return createSandbox({ ...options, hypervisor, vms: { ...coldVms, originMs }, programMs });
  },
  bootReadyVm: async (options) => {
    const { createDriver } = await import("../hypervisor/drivers.ts");
    const { bootReadyVm } = await import("../sandbox/ready-vm.ts");
    const hypervisor = await createDriver(options.config, (text) => options.log.warn(text));
    const program = join(executableDirectory, "containerd-shim-caisson-v2");
    return bootReadyVm({ ...options, hypervisor, program });
  },
  removeSandbox: async (options) => {
    const { removeSandbox } = await import("../sandbox/remove.ts");
    await removeSandbox(options);
  },
  unmountAllBelow: async (directory) => {
    const { unmountAllBelow } = await import("../storage/mount.ts");
    unmountAllBelow(directory);
  },
});
