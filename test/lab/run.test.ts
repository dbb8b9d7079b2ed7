import { afterAll, beforeAll, expect, test } from "vitest";
import { bootLab, labImage, type Lab, type LabResult } from "../support/lab.ts";
import { cloudHypervisorHost, microvm, q35, withBackend } from "./hosts.ts";

/** State, user ids, and processes of sandboxes that have ended. */
const whatIsLeft = `
find /run/caisson/caisson /run/caisson/.user-ids -mindepth 1 2>/dev/null
pgrep --list-name 'qemu|cloud-hyp|virtiofsd|vhost-device' || true`;

const hosts = [microvm, cloudHypervisorHost];
const furtherHosts = [q35, withBackend];
/** Built by scripts/floor; the cache lies in the lab at the same path. */
const floor = process.env["CAISSON_BENCH_FLOOR"] ?? "";
/** Of a file that runs inside; some minutes on a quiet machine. */
const guestTestTimeoutMs = 20 * 60_000;
const isEverything = process.env["CAISSON_TEST_LEVEL"] === "all";

const image = labImage();
let lab: Lab | undefined;
beforeAll(async () => {
  if (image.tag === "there") lab = await bootLab({ image: image.path });
});
afterAll(() => lab?.[Symbol.asyncDispose]());

async function run(script: string, options?: { timeoutMs?: number }): Promise<LabResult> {
  if (lab === undefined) throw new Error("There is no lab");
  return lab.run(script, options);
}

test.for([...hosts, ...(isEverything ? furtherHosts : [])])(
  "caisson run with KVM: $name",
  async ({ settings, vsock, missing }, context) => {
    const reason = image.tag === "missing" ? image.reason : missing;
    if (reason !== undefined) context.skip(reason);
    const configure = `printf '%s' '${settings}' >/tmp/caisson.toml; export CAISSON_CONFIG=/tmp/caisson.toml;`;
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

test.for([...hosts, q35])(
  "SIGKILL of the VMM ends every process within a second: $name",
  async (host, context) => {
    const reason = image.tag === "missing" ? image.reason : host.missing;
    if (reason !== undefined) context.skip(reason);
    if (!isEverything) context.skip("long case: make test-lab runs it");
    const settings = `CAISSON_TEST_PATIENCE=5 CAISSON_TEST_SETTINGS='${host.settings}'`;
    const script = `${settings} build/libexec/node --no-warnings --test test/lab/guest/crash.test.ts`;
    const result = await run(script, { timeoutMs: guestTestTimeoutMs });

    expect(result.exitCode, result.stdout + result.stderr).toBe(0);
    for (const [figure] of result.stdout.matchAll(/figure: .*$/gm)) console.log(`${host.name}: ${figure}`);
  },
);

test("sandboxes of a template go on from its memory", async (context) => {
  if (image.tag === "missing") context.skip(image.reason);
  const settings = `CAISSON_TEST_PATIENCE=5 CAISSON_TEST_SETTINGS='${microvm.settings}' NO_COLOR=1`;
  const vitest = "build/libexec/node node_modules/vitest/vitest.mjs run --project library --no-isolate";
  const chosen = "test/library/template.test.ts --testNamePattern='go on from its memory'";
  const script = `mkdir -p build/test; ${settings} ${vitest} ${chosen} --reporter=verbose`;
  const result = await run(script, { timeoutMs: guestTestTimeoutMs });

  expect(result.exitCode, result.stdout + result.stderr).toBe(0);
  expect(result.stdout).toMatch(/Tests +1 passed/);
});

test.for([
  { name: "AF_VSOCK sockets over the kernel's loopback", file: "vsock" },
  { name: "CIDs, taken by several daemons at the same time", file: "cid" },
  { name: "the kernel's vhost-vsock against vhost-device-vsock", file: "transports" },
])("$name", async ({ file }, context) => {
  if (image.tag === "missing") context.skip(image.reason);
  if (!isEverything) context.skip("long case: make test-lab runs it");
  const script = `CAISSON_BENCH_FLOOR=${floor} build/libexec/node --no-warnings --test test/lab/guest/${file}.test.ts`;
  const result = await run(script, { timeoutMs: guestTestTimeoutMs });

  expect(result.exitCode, result.stdout + result.stderr).toBe(0);
  for (const [figure] of result.stdout.matchAll(/^figure: .*$/gm)) console.log(figure);
});
