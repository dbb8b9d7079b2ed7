import { afterAll, beforeAll, expect, test } from "vitest";
import { type Cli, createCli, image } from "../support/cli.ts";
import { checkLeaksAroundEachTest } from "../support/leaks.ts";

let cli: Cli;
beforeAll(async () => {
  cli = await createCli();
});
afterAll(() => cli[Symbol.asyncDispose]());
checkLeaksAroundEachTest(() => cli.leakScope(), { cleanUp: () => cli.removeAll() });

test("caisson metrics tells of the boot, the bytes copied and the calls of the agent", async () => {
  const id = cli.id("a");
  expect(await cli.run(["run", "-d", "--name", id, image, "sleep", "1000"])).toMatchObject({ exitCode: 0 });
  const exec = await cli.run(["exec", "-i", id, "sh", "-c", "cat; head -c 100000 /dev/zero; echo no >&2"], {
    input: "given",
  });
  expect(exec).toMatchObject({ exitCode: 0, stderr: "no\n" });

  const { exitCode, stdout, stderr } = await cli.run(["metrics"]);

  expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: "" });
  const value = (name: string, labels = "") => {
    const start = `${name}{namespace="caisson",sandbox="${id}"${labels && `,${labels}`}} `;
    const line = stdout.split("\n").find((candidate) => candidate.startsWith(start));
    return line === undefined ? undefined : Number(line.slice(start.length));
  };
  expect(value("caisson_sandbox_up")).toBe(1);
  expect(value("caisson_containers", 'state="running"')).toBe(1);
  expect(value("caisson_vm_boots_total")).toBe(1);
  for (const phase of [
    "virtiofsd",
    "network",
    "vmm",
    "vmm_to_kernel",
    "guest_agent",
    "guest_ready",
    "configure",
  ]) {
    expect(value("caisson_vm_boot_phase_seconds", `phase="${phase}"`), phase).toBeGreaterThanOrEqual(0);
  }
  expect(value("caisson_vm_boot_seconds")).toBeGreaterThan(0);
  expect(value("caisson_stream_bytes_total", 'stream="stdin"')).toBe(5);
  expect(value("caisson_stream_bytes_total", 'stream="stdout"')).toBe(100_005);
  expect(value("caisson_stream_bytes_total", 'stream="stderr"')).toBe(3);
  expect(value("caisson_agent_call_duration_seconds_count", 'method="CreateContainer"')).toBe(1);
  expect(value("caisson_task_duration_seconds_count", 'operation="exec_start"')).toBe(1);
  await cli.run(["rm", "-f", id]);
});
