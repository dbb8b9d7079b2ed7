import { expect, test } from "vitest";
import type { VmConfig } from "../../../src/hypervisor/vm-config.ts";
import { planFloor } from "../../bench/floor-plan.ts";

const config: VmConfig = {
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
};

test("planFloor: a sandbox's machine, CPU, memory and kernel, and nothing that the floor does without", () => {
  const args = planFloor(config);

  expect(args.join(" ")).toBe(
    [
      "-nodefaults -no-user-config -display none -no-reboot",
      "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
      "-machine microvm,acpi=off,rtc=on,pit=on,pic=on,memory-backend=mem,dump-guest-core=off,mem-merge=off",
      "-global virtio-mmio.force-legacy=false",
      "-object memory-backend-memfd,id=mem,size=512M,share=on -m size=512M -smp cpus=2",
      "-accel tcg,thread=multi,tb-size=128 -cpu max,erms=off,fsrm=off",
      "-append quiet hello -kernel /guest/vmlinux -initrd /bench/initrd",
      "-chardev stdio,id=console,signal=off -serial chardev:console",
    ].join(" "),
  );
});

test("planFloor: with an image, it is a disk that nobody writes to", () => {
  const added = planFloor(config, { imagePath: "/guest/image.erofs" }).slice(planFloor(config).length);
  expect(added.join(" ")).toBe(
    "-blockdev driver=raw,node-name=image,read-only=on,file.driver=file,file.filename=/guest/image.erofs -device virtio-blk-device,drive=image",
  );
});

test("planFloor: with a share, it is the sandbox's device on that socket", () => {
  const share = { tag: "root", socketPath: "/dir/fs.sock" };
  expect(planFloor(config, { share }).slice(planFloor(config).length).join(" ")).toBe(
    "-chardev socket,id=share,path=/dir/fs.sock -device vhost-user-fs-device,chardev=share,tag=root,queue-size=1024",
  );
});
