import { expect, test } from "vitest";
import { planFloor } from "../../bench/floor-plan.ts";

test("planFloor: a sandbox's machine, CPU, memory and kernel, and nothing that the floor does without", () => {
  const args = planFloor({
    sandboxId: "floor",
    directory: "/vm",
    user: { uid: 1000, gid: 1000 },
    machine: "microvm",
    accelerator: "tcg",
    vcpus: 2,
    memoryMiB: 512,
    kernel: {
      path: "/guest/vmlinux",
      initrdPath: "/bench/initrd",
      commandLine: "quiet hello",
      acpi: false,
    },
    disks: [{ id: "image", path: "/guest/image.erofs", readOnly: true }],
    shares: [{ tag: "caisson", socketName: "fs.sock" }],
    nics: [],
    vsock: { tag: "vhost-device-vsock" },
  });

  expect(args.join(" ")).toBe(
    [
      "-nodefaults -no-user-config -display none -no-reboot",
      "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
      "-machine microvm,acpi=off,rtc=on,pit=on,pic=on,memory-backend=mem,dump-guest-core=off",
      "-global virtio-mmio.force-legacy=false",
      "-object memory-backend-memfd,id=mem,size=512M,share=on -m size=512M -smp cpus=2",
      "-accel tcg,thread=multi,tb-size=128 -cpu max,erms=off,fsrm=off",
      "-append quiet hello -kernel /guest/vmlinux -initrd /bench/initrd",
      "-chardev stdio,id=console,signal=off -serial chardev:console",
    ].join(" "),
  );
});
