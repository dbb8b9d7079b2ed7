import { expect, test } from "vitest";
import { configFor } from "../../../src/config/annotations.ts";
import { annotationKeys } from "../../../src/config/fields.ts";
import { loadConfig } from "../../../src/config/load.ts";

const defaults = loadConfig({ environment: {}, executableDirectory: "/nowhere" });
const config = { ...defaults, guestDirectory: "/guest", allowedAnnotations: [...annotationKeys.keys()] };

test("configFor() without annotations for us is the same configuration", () => {
  expect(configFor(undefined, config)).toBe(config);
  expect(configFor({ "io.kubernetes.cri.sandbox-id": "x", "io.caissonx": "1" }, defaults)).toBe(defaults);
});

test("configFor() applies each annotation to its setting and to nothing else", () => {
  const changed = configFor(
    {
      "io.caisson.memory_mib": "1024",
      "io.caisson.vcpus": "2",
      "io.caisson.kernel": "/guest/tuned/vmlinux",
      "io.caisson.machine": "q35",
      "io.caisson.accel": "tcg",
      "io.caisson.debug_guest": "true",
    },
    config,
  );

  expect(changed).toEqual({
    ...config,
    memoryMiB: 1024,
    vcpus: 2,
    kernelPath: "/guest/tuned/vmlinux",
    machine: "q35",
    accel: "tcg",
    debugGuest: true,
  });
});

test("configFor() refuses what is not listed, by name", () => {
  const some = { ...config, allowedAnnotations: ["io.caisson.vcpus"] };
  const refused = expect.objectContaining({
    code: "invalid_argument",
    message: expect.stringMatching(/"io\.caisson\.memory_mib".*allowed_annotations/s) as string,
  }) as Error;

  expect(() => configFor({ "io.caisson.memory_mib": "128" }, some)).toThrowError(refused);
  expect(configFor({ "io.caisson.vcpus": "1" }, some).vcpus).toBe(1);
});

const mebibyte = "1".repeat(1024 * 1024);

test.for([
  ["memory_mib", "64M;reboot"],
  ["memory_mib", "0x10"],
  ["memory_mib", "1e3"],
  ["memory_mib", " 128"],
  ["memory_mib", "-128"],
  ["memory_mib", "0"],
  ["memory_mib", "63"],
  ["memory_mib", "1048577"],
  ["memory_mib", "99999999999999999999"],
  ["memory_mib", ""],
  ["memory_mib", "128\n"],
  ["memory_mib", "128\0"],
  ["memory_mib", "١٢٨"],
  ["memory_mib", mebibyte],
  ["vcpus", "0"],
  ["vcpus", "-1"],
  ["vcpus", "1.5"],
  ["vcpus", "33"],
  ["vcpus", "1000000000"],
  ["vcpus", "true"],
  ["machine", "pc"],
  ["machine", "q35,accel=kvm"],
  ["accel", "kvm:tcg"],
  ["accel", ""],
  ["debug_guest", "1"],
  ["debug_guest", "yes"],
  ["kernel", ""],
  ["kernel", "vmlinux"],
  ["kernel", "/guest"],
  ["kernel", "/guest/"],
  ["kernel", "/guest/../etc/passwd"],
  ["kernel", "/guest/./vmlinux"],
  ["kernel", "/guestx/vmlinux"],
  ["kernel", "/etc/passwd"],
  ["kernel", "/guest/a\nb"],
  ["kernel", "/guest/a\0b"],
  ["kernel", `/guest/${mebibyte}`],
  ["kernel_params", "init=/bin/sh"],
  ["hypervisor_path", "/bin/sh"],
  ["", "1"],
  ["__proto__", "1"],
] as const)("configFor() refuses a value of io.caisson.%s, or the name (case %#)", ([name, value]) => {
  const annotation = `io.caisson.${name}`;

  const attempt = () => configFor({ [annotation]: value }, config);

  expect(attempt).toThrowError(expect.objectContaining({ code: "invalid_argument" }) as Error);
  // It names the annotation, on one line of a bearable length.
  expect(attempt).toThrowError(new RegExp(`"${annotation.replaceAll(".", "\\.")}"`));
  expect(attempt).toThrowError(/^[^\n\0]{1,600}$/);
});
