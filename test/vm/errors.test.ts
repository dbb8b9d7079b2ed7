import { execFileSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Cli, createCli, image } from "../support/cli.ts";
import { checkLeaksAroundEachTest } from "../support/leaks.ts";
import { usesQemu, vmmPathSetting } from "../support/suite-settings.ts";

let cli: Cli;
beforeAll(async () => {
  cli = await createCli();
});
afterAll(() => cli[Symbol.asyncDispose]());
checkLeaksAroundEachTest(() => cli.leakScope(), { cleanUp: () => cli.removeAll() });

/** What was refused must be named, and nothing may reach stdout. */
async function expectFailure(args: string[], message: RegExp): Promise<void> {
  const result = await cli.run(args);
  expect(result).toMatchObject({ exitCode: 125, stdout: "" });
  expect(result.stderr).toMatch(message);
  expect(result.stderr.trim().split("\n").at(-1)).toMatch(/^caisson: /);
  expect(result.stderr).not.toMatch(/^\s+at .*:\d+:\d+/m);
}

const arguments_: { name: string; args: string[]; message: RegExp }[] = [
  { name: "an id with ../", args: ["--name", "../x", image, "true"], message: /"\.\.\/x"/ },
  { name: "an empty id", args: ["--name", "", image, "true"], message: /""/ },
  { name: "an id that is too long", args: ["--name", "x".repeat(77), image, "true"], message: /76/ },
  { name: "a bad memory size", args: ["--memory", "64Q", image, "true"], message: /64Q/ },
  { name: "a negative memory size", args: ["--memory=-1", image, "true"], message: /-1/ },
  { name: "too little memory", args: ["--memory", "1M", image, "true"], message: /1M/ },
  { name: "a bad number of CPUs", args: ["--cpus", "0", image, "true"], message: /--cpus.*"0"/ },
  { name: "an unknown flag", args: ["--no-such-flag", image, "true"], message: /--no-such-flag/ },
  { name: "no image", args: [], message: /image/i },
  {
    name: "an image layout that is not there",
    args: ["oci:/no/such/layout", "true"],
    message: /\/no\/such\/layout/,
  },
  {
    name: "a tag that is not there",
    args: [image.replace(":latest", ":nosuchtag"), "true"],
    message: /nosuchtag/,
  },
  {
    name: "an archive that is not there",
    args: ["oci-archive:/no/such.tar", "true"],
    message: /\/no\/such\.tar/,
  },
  {
    name: "a root directory that is not there",
    args: ["rootfs:/no/such/root", "true"],
    message: /\/no\/such\/root/,
  },
  {
    name: "a volume that is not there",
    args: ["-v", "/no/such/dir:/data", image, "true"],
    message: /\/no\/such\/dir/,
  },
  {
    name: "a volume with a relative destination",
    args: ["-v", "/tmp:data", image, "true"],
    message: /\/tmp:data/,
  },
  {
    name: "a kernel that is not there",
    args: ["--kernel", "/no/such/vmlinux", image, "true"],
    message: /\/no\/such\/vmlinux/,
  },
  { name: "an unknown accelerator", args: ["--accel", "xen", image, "true"], message: /xen/ },
  { name: "an unknown user", args: ["-u", "nosuchuser", image, "true"], message: /nosuchuser/ },
];

test.for(arguments_)(
  "run with $name: the error names it, and the exit code is 125",
  async ({ args, message }) => {
    await expectFailure(["run", "--rm", ...args], message);
  },
);

interface BrokenSettings {
  readonly name: string;
  readonly toml: () => string;
  readonly message: RegExp;
}

/** Cloud Hypervisor brings its own. */
const missingVsockBackend: BrokenSettings = {
  name: "a missing vsock backend",
  toml: () => 'vsock = "vhost-device-vsock"\nvhost_device_vsock_path = "/no/such/vsock"',
  message: /\/no\/such\/vsock/,
};

const settings: BrokenSettings[] = [
  { name: "a missing VMM", toml: () => `${vmmPathSetting} = "/no/such/vmm"`, message: /\/no\/such\/vmm/ },
  {
    name: "a VMM that dies at start",
    toml: () => `${vmmPathSetting} = "${dyingVmm()}"`,
    message: /these are my last words/,
  },
  {
    name: "a missing virtiofsd",
    toml: () => 'virtiofsd_path = "/no/such/virtiofsd"',
    message: /\/no\/such\/virtiofsd/,
  },
  ...(usesQemu ? [missingVsockBackend] : []),
  {
    name: "a missing kernel",
    toml: () => 'kernel_path = "/no/such/vmlinux"',
    message: /\/no\/such\/vmlinux/,
  },
  {
    name: "a file that is no kernel",
    toml: () => 'kernel_path = "/etc/passwd"',
    message: /\/etc\/passwd|kernel/,
  },
  {
    name: "a missing guest image",
    toml: () => 'guest_directory = "/no/such/guest"',
    message: /\/no\/such\/guest/,
  },
  { name: "a guest that is never ready", toml: () => "boot_timeout_ms = 150", message: /150 ms/ },
  { name: "an unknown setting", toml: () => "no_such_setting = 1", message: /no_such_setting/ },
  { name: "a configuration that is not TOML", toml: () => "= nonsense", message: /caisson\.toml/ },
];

test.for(settings)(
  "run with $name: the error names it, and the same id works then",
  async ({ toml, message }) => {
    const name = ["--name", cli.id("again")];
    {
      using _configured = cli.configure(toml());
      await expectFailure(["run", "--rm", ...name, image, "true"], message);
    }
    expect(await cli.run(["run", "--rm", ...name, image, "echo", "works"])).toMatchObject({
      exitCode: 0,
      stdout: "works\n",
    });
  },
);

test("run with a configuration that is not there: the error names it", async () => {
  const result = await cli.run(["run", "--rm", image, "true"], {
    env: { CAISSON_CONFIG: "/no/such/config.toml" },
  });

  expect(result).toMatchObject({ exitCode: 125, stdout: "" });
  expect(result.stderr).toContain("/no/such/config.toml");
});

test.for(["state_directory", "data_directory"])(
  "run with no space in %s: an error, nothing left, works afterwards",
  async (setting) => {
    const full = cli.dir.join("full");
    const name = ["--name", cli.id("space")];
    mkdirSync(full, { recursive: true });
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=16k,mode=755", "none", full]);
    try {
      using _configured = cli.configure(`${setting} = "${full}"`);
      // The directories that are made come out of the inodes, files out of the pages: both are gone.
      try {
        writeFileSync(`${full}/filler`, Buffer.alloc(1024 * 1024));
      } catch {
        // Full, as wanted.
      }
      await expectFailure(["run", "--rm", ...name, image, "true"], /ENOSPC|[Nn]o space/);
    } finally {
      execFileSync("umount", [full]);
    }
    expect(await cli.run(["run", "--rm", ...name, image, "echo", "works"])).toMatchObject({
      exitCode: 0,
      stdout: "works\n",
    });
  },
);

const absent = ["exec nosuch true", "logs nosuch", "stop nosuch", "rm nosuch"];
test.for(absent)("caisson %s: the error says that there is no such container", async (line) => {
  const result = await cli.run(line.split(" "));

  expect(result.exitCode).not.toBe(0);
  expect(result.stderr).toMatch(/^caisson: .*nosuch/m);
});

test.for(["", "no-such-command", "ps --no-such-flag"])('"caisson %s" is refused', async (line) => {
  const result = await cli.run(line.split(" ").filter((word) => word !== ""));

  expect(result.exitCode).not.toBe(0);
  expect(result.stderr).toMatch(/^caisson: /m);
});

test("version prints the version", async () => {
  expect(await cli.run(["version"])).toMatchObject({
    exitCode: 0,
    stdout: expect.stringMatching(/\d+\.\d+\.\d+/),
  });
});

function dyingVmm(): string {
  const path = cli.dir.join("dying-vmm");
  writeFileSync(path, "#!/bin/sh\necho these are my last words >&2\nexit 3\n", { mode: 0o755 });
  return path;
}
