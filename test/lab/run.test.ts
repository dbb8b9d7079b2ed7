import { afterAll, beforeAll, expect, test } from "vitest";
import { bootLab, labImage, type Lab, type LabResult } from "../support/lab.ts";

/** Emulation of emulation on a machine that may be busy: deadlines are for what hangs, not for what is slow. */
const settings = `
accel = "kvm"
boot_timeout_ms = 600000
agent_call_timeout_ms = 600000
`;
const configure = `printf '%s' '${settings}' >/tmp/caisson.toml; export CAISSON_CONFIG=/tmp/caisson.toml;`;

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

test.skipIf(image.tag === "missing")(
  `caisson run with KVM and the kernel's vhost-vsock${image.tag === "missing" ? `: ${image.reason}` : ""}`,
  async () => {
    const result = await run(
      `${configure} build/bin/caisson run --rm --timeline oci:build/images/busybox sh -c 'uname -r; exit 7'`,
    );

    expect(result).toMatchObject({ exitCode: 7, stdout: expect.stringMatching(/^\d+\.\d+.*\n$/) });
    expect(result.stderr).toMatch(/^ +vsock \(vhost-vsock\) /m);
    expect(result.stderr).not.toContain("software emulation");
    expect(await run("ls -A /run/caisson/default /run/caisson/.user-ids 2>/dev/null")).toMatchObject({
      stdout: "",
    });
  },
);

test.skipIf(image.tag === "missing")("AF_VSOCK sockets over the kernel's loopback", async () => {
  const result = await run("build/libexec/node --no-warnings --test test/lab/guest/vsock.test.ts");

  expect(result.exitCode, result.stdout + result.stderr).toBe(0);
  for (const [figure] of result.stdout.matchAll(/^figure: .*$/gm)) console.log(figure);
});
