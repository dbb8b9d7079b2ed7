import { expect, test } from "vitest";
import { formatKernelParams, type KernelParams } from "../../../src/hypervisor/kernel-params.ts";

const table: { name: string; input: KernelParams; want: string }[] = [
  {
    name: "KVM with an initrd",
    input: { hasInitrd: true, debugAgent: false },
    want: "console=ttyS0 reboot=t panic=-1 quiet",
  },
  {
    name: "TCG with an initrd",
    input: { hasInitrd: true, tscKhz: 2_599_998, debugAgent: false },
    want: "console=ttyS0 reboot=t panic=-1 quiet tsc_early_khz=2599998 tsc=reliable no_timer_check lapic_timer_hz=1000000000 noreplace-smp",
  },
  {
    name: "a VM that can grow",
    input: { hasInitrd: true, canGrow: true, debugAgent: false },
    want: "console=ttyS0 reboot=t panic=-1 quiet memhp_default_state=online swiotlb=noforce",
  },
  {
    name: "no initrd, debug log",
    input: { hasInitrd: false, debugAgent: true },
    want: "console=ttyS0 reboot=t panic=-1 quiet root=/dev/vda rootfstype=erofs ro init=/sbin/caisson-agent caisson.log=debug",
  },
];

test.each(table)("formatKernelParams(): $name", ({ input, want }) => {
  expect(formatKernelParams(input)).toBe(want);
});
