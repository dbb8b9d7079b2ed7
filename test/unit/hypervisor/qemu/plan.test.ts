import { expect, test } from "vitest";
import { planQemu } from "../../../../src/hypervisor/qemu/plan.ts";
import type { VmConfig } from "../../../../src/hypervisor/vm-config.ts";

const base: VmConfig = {
  sandboxId: "sb1",
  directory: "/run/caisson/default/sb1/vm",
  user: { uid: 7_000_001, gid: 7_000_001 },
  machine: "microvm",
  accelerator: "tcg",
  vcpus: 1,
  memoryMiB: 256,
  kernel: {
    path: "/guest/vmlinux",
    initrdPath: "/guest/initrd",
    commandLine: "console=ttyS0 quiet",
    acpi: true,
  },
  disks: [{ id: "image", path: "/guest/image.erofs", readOnly: true, isShared: true }],
  shares: [{ tag: "caisson", socketName: "virtiofs.sock" }],
  nics: [],
  vsock: { tag: "vhost-device-vsock" },
};

const sandboxed = "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";
const common = `-nodefaults -no-user-config -display none -no-reboot ${sandboxed}`;
const control =
  "-chardev socket,id=qmp,fd=3 -mon chardev=qmp,mode=control -chardev socket,id=console,fd=4 -serial chardev:console";
const memory = (size: string) => `-object memory-backend-memfd,id=mem,size=${size},share=on -m size=${size}`;
const image = (fd: number, device: string) =>
  `-add-fd fd=${fd},set=${fd} -blockdev driver=raw,node-name=disk-image,read-only=on,file.driver=file,file.filename=/dev/fdset/${fd},file.locking=off -device ${device}`;
const file = (path: string, access = "read") => ({ tag: "file", path, access });

test("planQemu(): microvm under TCG with Debian's kernel", () => {
  const { args, fds } = planQemu(base);

  const append = args.indexOf("-append");
  expect(args[append + 1]).toBe("console=ttyS0 quiet");
  expect(args.toSpliced(append, 2).join(" ")).toBe(
    [
      `-name guest=sb1 ${common}`,
      "-machine microvm,acpi=on,rtc=on,pit=on,pic=on,memory-backend=mem,dump-guest-core=off,mem-merge=off",
      "-bios qboot.rom",
      "-global virtio-mmio.force-legacy=false",
      `${memory("256M")} -smp cpus=1 -accel tcg,thread=multi,tb-size=128 -cpu max,erms=off,fsrm=off`,
      `-kernel /proc/self/fd/5 -initrd /proc/self/fd/6 ${control}`,
      image(7, "virtio-blk-device,drive=disk-image,serial=image,werror=report,rerror=report"),
      "-chardev socket,id=vsock,path=vhost-vsock.sock -device vhost-user-vsock-device,chardev=vsock",
      "-chardev socket,id=share0,path=virtiofs.sock -device vhost-user-fs-device,chardev=share0,tag=caisson,queue-size=1024",
      "-object rng-builtin,id=rng -device virtio-rng-device,rng=rng",
      "-device virtio-balloon-device,free-page-reporting=on",
    ].join(" "),
  );
  expect(fds).toEqual([
    { tag: "qmp" },
    { tag: "console" },
    file("/guest/vmlinux"),
    file("/guest/initrd"),
    file("/guest/image.erofs"),
  ]);
});

test("planQemu(): q35 under KVM with a kernel of its own, a second disk and a network card", () => {
  const { args, fds } = planQemu({
    ...base,
    machine: "q35",
    accelerator: "kvm",
    vcpus: 4,
    kernel: { path: "/guest/tuned/vmlinux", commandLine: "quiet", acpi: false },
    disks: [...base.disks, { id: "scratch", path: "/data/scratch.img", readOnly: false }],
    nics: [{ id: "eth0", macAddress: "02:00:00:00:00:01", tapFd: 33 }],
  });

  expect(args.join(" ")).toBe(
    [
      `-name guest=sb1 ${common}`,
      "-machine q35,usb=off,sata=off,smbus=off,vmport=off,i8042=off,hpet=off,memory-backend=mem,dump-guest-core=off,mem-merge=off",
      `${memory("256M")} -smp cpus=4,sockets=4,cores=1,threads=1 -accel kvm -cpu host -kernel /proc/self/fd/5 -append quiet ${control}`,
      image(6, "virtio-blk-pci,drive=disk-image,serial=image,werror=report,rerror=report,disable-legacy=on"),
      "-add-fd fd=7,set=7 -blockdev driver=raw,node-name=disk-scratch,read-only=off,file.driver=file,file.filename=/dev/fdset/7",
      "-device virtio-blk-pci,drive=disk-scratch,serial=scratch,werror=report,rerror=report,disable-legacy=on",
      "-chardev socket,id=vsock,path=vhost-vsock.sock -device vhost-user-vsock-pci,chardev=vsock,disable-legacy=on",
      "-chardev socket,id=share0,path=virtiofs.sock",
      "-device vhost-user-fs-pci,chardev=share0,tag=caisson,queue-size=1024",
      "-netdev tap,id=nic-eth0,fd=8",
      "-device virtio-net-pci,netdev=nic-eth0,mac=02:00:00:00:00:01,romfile=,disable-legacy=on",
      "-object rng-builtin,id=rng -device virtio-rng-pci,rng=rng,disable-legacy=on",
      "-device virtio-balloon-pci,free-page-reporting=on,disable-legacy=on",
    ].join(" "),
  );
  expect(fds).toEqual([
    { tag: "qmp" },
    { tag: "console" },
    file("/guest/tuned/vmlinux"),
    file("/guest/image.erofs"),
    file("/data/scratch.img", "read-write"),
    { tag: "tap", fd: 33 },
  ]);
});

test("planQemu(): q35 with room to grow has places for CPUs, memory that is not given yet, and free ports", () => {
  const { args } = planQemu({
    ...base,
    machine: "q35",
    growth: { maxVcpus: 4, maxMemoryMiB: 1027 },
  });

  const text = args.join(" ");
  expect(text).toContain("-m size=256M,maxmem=1024M -smp cpus=1,maxcpus=4,sockets=4,cores=1,threads=1");
  expect(text).toContain(
    "-object memory-backend-memfd,id=more,size=768M,share=on,reserve=off -device virtio-mem-pci,id=memory,memdev=more,requested-size=0",
  );
  expect(args.filter((arg) => arg.startsWith("pcie-root-port,"))).toHaveLength(16);
  expect(text).toContain(
    "-device pcie-root-port,id=port9,chassis=10,addr=19.1,multifunction=on,io-reserve=0",
  );
});

test("planQemu(): PCI devices of the host by their addresses, on q35 only", () => {
  const hostDevices = [{ address: "0000:65:00.1", group: 12 }];

  expect(planQemu({ ...base, machine: "q35", hostDevices }).args).toContain("vfio-pci,host=0000:65:00.1");
  expect(() => planQemu({ ...base, hostDevices })).toThrow(/takes the machine "q35"/);
  expect(() =>
    planQemu({ ...base, machine: "q35", hostDevices: [{ address: "65:00.1,x=y", group: 12 }] }),
  ).toThrow(/is no PCI address/);
});

test("planQemu(): q35 at its largest size gets no more memory, and microvm cannot grow", () => {
  const growth = { maxVcpus: 1, maxMemoryMiB: 256 };

  const { args } = planQemu({ ...base, machine: "q35", growth });
  expect(args.join(" ")).not.toMatch(/maxmem|maxcpus|virtio-mem/);
  expect(() => planQemu({ ...base, growth })).toThrow(/takes the machine q35 and a kernel with ACPI/);
});

test("planQemu(): a kernel that finds its devices on the command line, and a network card", () => {
  const { args } = planQemu({
    ...base,
    kernel: { ...base.kernel, acpi: false },
    nics: [{ id: "eth0", macAddress: "02:00:00:00:00:01", tapFd: 33 }],
  });

  expect(args).toContain(
    "microvm,acpi=off,rtc=on,pit=on,pic=on,memory-backend=mem,dump-guest-core=off,mem-merge=off",
  );
  expect(args).toContain("virtio-net-device,netdev=nic-eth0,mac=02:00:00:00:00:01");
});

test("planQemu(): the kernel's vhost-vsock, whose open device is inherited", () => {
  const { args, fds } = planQemu({ ...base, vsock: { tag: "vhost-vsock", cid: 4711, fd: 21 } });

  expect(args).toContain("vhost-vsock-device,guest-cid=4711,vhostfd=8");
  expect(args.join(" ")).not.toContain("vhost-user-vsock");
  expect(fds.at(-1)).toEqual({ tag: "vhost-vsock", fd: 21 });
});

test("planQemu() escapes commas in values, so that none can add an option", () => {
  const { args } = planQemu({
    ...base,
    sandboxId: "a,process=b",
    shares: [{ tag: "t,queue-size=1", socketName: "s,server=on" }],
    kernel: { ...base.kernel, commandLine: "a=1,2" },
  });

  expect(args).toContain("guest=a,,process=b");
  expect(args).toContain("socket,id=share0,path=s,,server=on");
  expect(args).toContain("vhost-user-fs-device,chardev=share0,tag=t,,queue-size=1,queue-size=1024");
  // An argument of its own, which QEMU takes as it is.
  expect(args).toContain("a=1,2");
});

const disk = (id: string) => ({ id, path: "/x", readOnly: true });
const nic = { id: "n", macAddress: "02:00:00:00:00:01", tapFd: 9 };

test.each<{ name: string; changes: Partial<VmConfig>; fact: string }>([
  { name: "no vCPU", changes: { vcpus: 0 }, fact: "it has 0 vCPUs" },
  { name: "a vsock that QEMU has not", changes: { vsock: { tag: "hybrid" } }, fact: "no vsock of its own" },
  { name: "half a vCPU", changes: { vcpus: 0.5 }, fact: "it has 0.5 vCPUs" },
  { name: "memory that is no number", changes: { memoryMiB: Number.NaN }, fact: "it has NaN MiB of memory" },
  {
    name: "two disks of one id",
    changes: { disks: [disk("a"), disk("a")] },
    fact: "two of its disks have the same id",
  },
  { name: "a long disk id", changes: { disks: [disk("a".repeat(27))] }, fact: "is no id of 1 to 26" },
  { name: "a disk id with an option", changes: { disks: [disk("a,b=c")] }, fact: '"a,b=c" is no id' },
  {
    name: "a MAC address",
    changes: { nics: [{ ...nic, macAddress: "02:00,x" }] },
    fact: '"02:00,x" is no MAC address',
  },
  {
    name: "a long tag",
    changes: { shares: [{ tag: "t".repeat(37), socketName: "s" }] },
    fact: "37 bytes, expected 1 to 36",
  },
  {
    name: "a socket elsewhere",
    changes: { shares: [{ tag: "t", socketName: "../s" }] },
    fact: '"../s" is not a short file name',
  },
  { name: "a NUL character", changes: { kernel: { ...base.kernel, commandLine: "a\0b" } }, fact: "NUL" },
  {
    name: "more devices than slots",
    changes: { kernel: { ...base.kernel, acpi: false }, disks: ["a", "b", "c", "d", "e", "f"].map(disk) },
    fact: "it has 9 devices, the microvm machine has 8 slots",
  },
])("planQemu() refuses $name", ({ changes, fact }) => {
  expect(() => planQemu({ ...base, ...changes })).toThrow(
    expect.objectContaining({ code: "invalid_argument", message: expect.stringContaining(fact) }),
  );
});

test("planQemu(): a VM that is saved has its memory in our file, one that is restored a private copy and no kernel", () => {
  const config: VmConfig = { ...base, shares: [], vsock: { tag: "vhost-vsock", cid: 77, fd: 20 } };
  const kept = planQemu({ ...config, memory: { tag: "kept", fd: 21 } });
  const restored = planQemu({ ...config, memory: { tag: "restored", fd: 22, stateFd: 23 } });

  expect(kept.args).toContain("memory-backend-file,id=mem,size=256M,mem-path=/proc/self/fd/5,share=on");
  expect(kept.fds[2]).toEqual({ tag: "memory", fd: 21 });
  expect(restored.args).toContain("memory-backend-file,id=mem,size=256M,mem-path=/proc/self/fd/5,share=off");
  expect(restored.fds[2]).toEqual({ tag: "memory", fd: 22 });
  expect(restored.args.join(" ")).toContain("-incoming defer");
  expect(restored.args).not.toContain("-kernel");
  // It would punch holes into the file that all of them share.
  for (const { args } of [kept, restored]) expect(args.join(" ")).not.toContain("virtio-balloon");
});

test("planQemu(): what is served by another process is neither saved nor restored", () => {
  const memory = { tag: "kept", fd: 21 } as const;
  const vsock = { tag: "vhost-vsock", cid: 77, fd: 20 } as const;

  for (const config of [
    { ...base, shares: [], memory },
    { ...base, vsock, memory },
  ])
    expect(() => planQemu(config)).toThrow(/vhost-vsock and without a share/);
});
