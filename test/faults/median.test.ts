import { expect, test } from "vitest";
import { watchEvents } from "../support/containerd-events.ts";
import { record } from "./rows.ts";
import { containerdOfFile } from "./scene.ts";

const containerd = containerdOfFile();
const runs = Number(process.env["CAISSON_FAULTS_RUNS"] ?? 20);

test("time from SIGKILL of QEMU to the exit event", { timeout: runs * 60_000 }, async () => {
  const id = containerd().id("median");
  await using events = await watchEvents(containerd());
  const values: number[] = [];
  for (let run = 0; run < runs; run++) {
    await using task = await containerd().startTask([], `${id}-${run}`, "sleep", "3600");
    const killedAtMs = performance.now();
    process.kill(task.pid, "SIGKILL");
    const exit = await events.waitFor(
      ({ topic, content }) => topic === "/tasks/exit" && content["id"] === task.id,
    );
    values.push((exit.receivedAtMs - killedAtMs) / 1000);
  }
  record({ kind: "samples", samples: { name: "SIGKILL of QEMU to the exit event", unit: "s", values } });

  expect(values).toHaveLength(runs);
});
