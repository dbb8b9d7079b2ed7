import { afterAll, beforeAll, expect, test } from "vitest";
import { bootLab, labImage, type Lab, type LabResult } from "../support/lab.ts";

/** Emulation of emulation on a machine that may be busy: deadlines are for what hangs, not for what is slow. */
const patience = "boot_timeout_ms = 150000\nagent_call_timeout_ms = 150000\n";
const cloudHypervisor = process.env["CAISSON_CLOUD_HYPERVISOR"] ?? "";

/** State, user ids, and processes of sandboxes that have ended. */
const whatIsLeft = `
find /run/caisson/caisson /run/caisson/.user-ids -mindepth 1 2>/dev/null
pgrep --list-name 'qemu|cloud-hyp|virtiofsd|vhost-device' || true`;

interface Host {
  readonly name: string;
  /** TOML, in double quotes only. */
  readonly settings: string;
  readonly vsock: string;
  readonly missing?: string;
}

const hosts: Host[] = [
  { name: "QEMU microvm", settings: 'accel = "kvm"', vsock: "vhost-vsock" },
  {
    name: "Cloud Hypervisor",
    settings: `accel = "kvm"\nhypervisor = "cloud-hypervisor"\ncloud_hypervisor_path = "${cloudHypervisor}"`,
    vsock: "hybrid",
    ...(cloudHypervisor === "" && { missing: "there is no Cloud Hypervisor in the cache (docs/lab.md)" }),
  },
];
const furtherHosts: Host[] = [
  { name: "QEMU q35", settings: 'accel = "kvm"\nmachine = "q35"', vsock: "vhost-vsock" },
  {
    name: "QEMU microvm with vhost-device-vsock",
    settings: 'accel = "kvm"\nvsock = "vhost-device-vsock"',
    vsock: "vhost-device-vsock",
  },
];
const isEverything = process.env["CAISSON_TEST_LEVEL"] === "all";

const image = labImage();
let lab: Lab | undefined;
beforeAll(async () => {
  if (image.tag === "there") lab = await bootLab({ image: image.path });
});
afterAll(() => lab?.[Symbol.asyncDispose]());

async function run(script: string): Promise<LabResult> {
  if (lab === undefined) throw new Error("There is no lab");
  return lab.run(script);
}

test.for([...hosts, ...(isEverything ? furtherHosts : [])])(
  "caisson run with KVM: $name",
  async ({ settings, vsock, missing }, context) => {
    const reason = image.tag === "missing" ? image.reason : missing;
    if (reason !== undefined) context.skip(reason);
    const configure = `printf '%s' '${settings}\n${patience}' >/tmp/caisson.toml; export CAISSON_CONFIG=/tmp/caisson.toml;`;
    const result = await run(
      `${configure} build/bin/caisson run --rm --timeline oci:build/images/busybox sh -c 'uname -r; exit 7'`,
    );

    expect(result, result.stderr).toMatchObject({
      exitCode: 7,
      stdout: expect.stringMatching(/^\d+\.\d+.*\n$/),
    });
    expect(result.stderr).toMatch(new RegExp(`^ +vsock \\(${vsock}\\) `, "m"));
    expect(result.stderr).not.toContain("software emulation");
    expect(await run(whatIsLeft)).toMatchObject({ stdout: "" });
    console.log(result.stderr.slice(result.stderr.indexOf("phase")));
  },
);

test("AF_VSOCK sockets over the kernel's loopback", async (context) => {
  if (image.tag === "missing") context.skip(image.reason);
  if (!isEverything) context.skip("long case: make test-lab runs it");
  const result = await run("build/libexec/node --no-warnings --test test/lab/guest/vsock.test.ts");

  expect(result.exitCode, result.stdout + result.stderr).toBe(0);
  for (const [figure] of result.stdout.matchAll(/^figure: .*$/gm)) console.log(figure);
});
