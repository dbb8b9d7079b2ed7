import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { run, start } from "../support/cli-run.ts";
import { currentBinaries } from "../support/containerd-process.ts";
import { type Cri, startCri } from "../support/cri.ts";
import { runPod } from "../support/cri-pod.ts";
import { checkLeaksAroundEachTest } from "../support/leaks.ts";

let cri: Cri;
beforeAll(async () => {
  cri = await startCri();
  await using pod = await runPod(cri, "caisson");
  await using _first = await pod.start("first", ["true"]);
});
afterAll(() => cri[Symbol.asyncDispose]());
checkLeaksAroundEachTest(() => cri.leakScope(), { cleanUp: () => cri.removeAll() });

const forever = ["sleep", "3600"];

test("the pause container's end leaves the others; the last container takes the VM with it", async () => {
  await using pod = await runPod(cri, "caisson");
  await using container = await pod.start("app", forever);
  const ctr = [join(currentBinaries, "ctr"), "--address", cri.socket, "--namespace", "k8s.io"];
  await run([...ctr, "task", "kill", "--signal", "SIGKILL", pod.id]);

  const tasks = async () => (await run([...ctr, "task", "ls", "--quiet"])).stdout;
  await expect.poll(tasks, { timeout: 60_000, interval: 200 }).not.toContain(pod.id);
  expect(await container.exec("echo", "works")).toMatchObject({ exitCode: 0, stdout: "works\n" });
});

test("attach: what is typed arrives, and again after the first client has gone", async () => {
  await using pod = await runPod(cri, "caisson");
  await using container = await pod.start("echo", ["sh", "-c", "while read l; do echo got-$l; done"], {
    config: { stdin: true },
  });
  for (const word of ["one", "two"]) {
    await using client = start(cri.crictlArgv("attach", "--stdin", container.id));
    const answered = new Promise<void>((resolve) => {
      let output = "";
      client.stdout.on("data", (chunk: Buffer) => {
        output += chunk.toString();
        if (output.includes(`got-${word}`)) resolve();
      });
    });
    client.stdin.write(`${word}\n`);
    await answered;
  }
  expect(await container.status()).toMatchObject({ state: "CONTAINER_RUNNING" });
});

test("pods go on while containerd is restarted, those of the Sandbox API too", async () => {
  await using paused = await runPod(cri, "caisson");
  await using shim = await runPod(cri, "caisson-shim");
  await using one = await paused.start("one", forever);
  await using two = await shim.start("two", forever);

  await cri.restart();

  for (const container of [one, two]) {
    expect(await container.status()).toMatchObject({ state: "CONTAINER_RUNNING" });
    expect(await container.exec("echo", "works")).toMatchObject({ exitCode: 0, stdout: "works\n" });
  }
});
