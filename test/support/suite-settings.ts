import { availableParallelism } from "node:os";

/** The vCPUs that a VM gets which asks for two: no more than this host has. */
export const twoVcpus = Math.min(2, availableParallelism());

/** What every sandbox of the suites runs with, as TOML: `make test-lab` runs them on other machines and hypervisors. */
export const suiteSettings = process.env["CAISSON_TEST_SETTINGS"] ?? 'accel = "auto"';

/** Whether sandboxes run in QEMU; else they run in Cloud Hypervisor. */
export const usesQemu = !/^hypervisor = "cloud-hypervisor"$/m.test(suiteSettings);

/** Whether their VMs take devices while they run. */
export const usesQ35 = /^machine = "q35"$/m.test(suiteSettings);

/** The program of a VM, at the begin of its file's name; the kernel cuts the name of a process to 15 characters. */
export const vmmProgram = usesQemu ? "qemu-system-" : "cloud-hyperviso";

/** The setting that says where that program is. */
export const vmmPathSetting = usesQemu ? "qemu_path" : "cloud_hypervisor_path";

/** A configuration: the suites' settings, and `parts` in the place of the same settings or behind them. The last one wins. */
export function withSuiteSettings(...parts: readonly string[]): string {
  const lines = new Map<string, string>();
  for (const line of [suiteSettings, ...parts].join("\n").split("\n")) {
    if (line !== "") lines.set(/^\w+(?= = )/.exec(line)?.[0] ?? line, line);
  }
  return [...lines.values(), ""].join("\n");
}
