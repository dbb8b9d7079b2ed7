import { mkdirSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { loadConfig } from "../../../src/config/load.ts";
import { createTempDir } from "../../support/temp-dir.ts";

/** The configuration that a file of this content gives. */
async function loadText(text: string, dropIns: Readonly<Record<string, string>> = {}) {
  await using dir = createTempDir();
  writeFileSync(dir.join("config.toml"), text);
  mkdirSync(dir.join("config.d"));
  for (const [name, content] of Object.entries(dropIns)) writeFileSync(dir.join("config.d", name), content);
  return loadConfig({
    environment: { CAISSON_CONFIG: dir.join("config.toml") },
    executableDirectory: "/usr/lib/caisson/lib",
  });
}

test("an empty file gives the defaults of an installation, frozen", async () => {
  const config = await loadText("");

  expect(config).toMatchObject({
    accel: "kvm",
    machine: "microvm",
    defaultMemoryMiB: 512,
    memoryOverheadMiB: 96,
    defaultVcpus: 1,
    maxVcpus: 32,
    hostCgroup: true,
    stateDirectory: "/run/caisson",
    dataDirectory: "/var/lib/caisson",
    guestDirectory: "/usr/lib/caisson/guest",
    kernelPath: "",
    qemuPath: "/usr/bin/qemu-system-x86_64",
    vmmUidBase: 700_000_000,
    vmmUidCount: 65_536,
    bootTimeoutMs: 60_000,
    agentCallTimeoutMs: 30_000,
    drainTimeoutMs: 10_000,
    logLevel: "info",
    debugGuest: false,
  });
  expect(Object.isFrozen(config)).toBe(true);
});

test("drop-ins follow in the order of their names, and the last value wins, false and 0 included", async () => {
  const config = await loadText('accel = "tcg"\ndefault_vcpus = 2\ndebug_guest = true\n', {
    "20-b.toml": "default_vcpus = 4\ndrain_timeout_ms = 0\ndebug_guest = false\n",
    "10-a.toml": "default_vcpus = 3\nmax_vcpus = 8\n",
    "30-not-read.toml.bak": "default_vcpus = 99\n",
  });

  expect(config).toMatchObject({
    accel: "tcg",
    defaultVcpus: 4,
    maxVcpus: 8,
    drainTimeoutMs: 0,
    debugGuest: false,
  });
});

const refused = [
  { name: "an unknown key", text: "acel = 1", words: '"acel" is not a setting; the settings are accel, ' },
  { name: "a table", text: "[vm]\naccel = 1", words: '"vm" is not a setting' },
  { name: "__proto__", text: "[__proto__]\naccel = 1", words: '"__proto__" is not a setting' },
  { name: "no TOML", text: "accel", words: "Cannot read the configuration" },
  { name: "a key twice", text: 'accel = "kvm"\naccel = "tcg"', words: "Cannot read the configuration" },
  {
    name: "another accelerator",
    text: 'accel = "KVM"',
    words: 'accel = "KVM", expected "kvm" or "tcg" or "auto"',
  },
  { name: "a number as text", text: 'default_vcpus = "2"', words: "expected a whole number from 1 to 256" },
  { name: "a fraction", text: "default_vcpus = 1.5", words: "expected a whole number from 1 to 256" },
  {
    name: "too little",
    text: "default_memory_mib = 63",
    words: "expected a whole number from 64 to 1048576",
  },
  {
    name: "too much",
    text: "default_memory_mib = 1048577",
    words: "expected a whole number from 64 to 1048576",
  },
  { name: "beyond 2^53", text: "default_memory_mib = 9223372036854775807", words: "" },
  { name: "infinity", text: "boot_timeout_ms = inf", words: "expected a whole number" },
  { name: "root as a VM's user", text: "vmm_uid_base = 0", words: "expected a whole number from 1000" },
  { name: "text for a flag", text: 'debug_guest = "yes"', words: "expected true or false" },
  { name: "a relative path", text: 'qemu_path = "qemu"', words: "expected an absolute path" },
  { name: "a path with ..", text: 'state_directory = "/run/../etc"', words: "expected an absolute path" },
  {
    name: "a path that ends with ..",
    text: 'state_directory = "/run/caisson/.."',
    words: "expected an absolute path",
  },
  { name: "a path with NUL", text: String.raw`qemu_path = "/a\u0000b"`, words: "expected an absolute path" },
  { name: "a list as a path", text: 'qemu_path = ["/usr/bin/qemu"]', words: "expected an absolute path" },
];

test.each(refused)("$name is refused", async ({ text, words }) => {
  await expect(loadText(text)).rejects.toMatchObject({
    code: "invalid_argument",
    message: expect.stringContaining(words),
  });
  await expect(loadText("", { "x.toml": text })).rejects.toThrow("config.d/x.toml");
});

test.each(["a..b", "/a..b/..c", "/..."])("%j as a path is judged by its components", async (path) => {
  const loading = loadText(`guest_directory = "${path}"`);

  if (path.startsWith("/")) expect((await loading).guestDirectory).toBe(path);
  else await expect(loading).rejects.toThrow("expected an absolute path");
});

test("CAISSON_CONFIG that names no file is not_found; empty, it names none", () => {
  const load = (value: string) =>
    loadConfig({ environment: { CAISSON_CONFIG: value }, executableDirectory: "/usr/lib/caisson/lib" });

  expect(() => load("/nonexistent/config.toml")).toThrow(
    expect.objectContaining({
      code: "not_found",
      message: expect.stringContaining("/nonexistent/config.toml"),
    }),
  );
  expect(load("").guestDirectory).toBe("/usr/lib/caisson/guest");
});

test.each(["bin", "lib"])(
  "in a checkout's build/%s the build's own files and config.toml are taken",
  async (name) => {
    await using dir = createTempDir();
    mkdirSync(dir.join("build"));
    writeFileSync(dir.join("build", "config.toml"), 'accel = "auto"\n');

    const config = loadConfig({ environment: {}, executableDirectory: dir.join("build", name) });

    expect(config).toMatchObject({
      accel: "auto",
      guestDirectory: dir.join("build", "guest"),
      virtiofsdPath: dir.join("build", "libexec", "virtiofsd"),
      vhostDeviceVsockPath: dir.join("build", "libexec", "vhost-device-vsock"),
    });
  },
);

test.each(["/opt/caisson/lib", "/build/other", "/builder/lib"])(
  "%s is no build directory",
  (executableDirectory) => {
    expect(loadConfig({ environment: {}, executableDirectory }).guestDirectory).toBe(
      "/usr/lib/caisson/guest",
    );
  },
);
