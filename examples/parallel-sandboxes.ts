/**
 * One sandbox per task, some at a time: no task sees another, and all share one unpacked image.
 *
 *   node examples/parallel-sandboxes.ts IMAGE
 */
import { Sandbox } from "caisson";

const [image = "docker.io/library/busybox"] = process.argv.slice(2);

const tasks = ["one", "two", "three", "four"];
const atOnce = 2;

async function perform(task: string): Promise<string> {
  await using sandbox = await Sandbox.create({ image, memoryMiB: 192, timeoutMs: 300_000 });
  await sandbox.writeFile("/work/task", task);
  const { stdout } = await sandbox.run("sh", ["-c", 'echo "$(cat task), $(ls | wc -l) file"'], {
    cwd: "/work",
  });
  return stdout.trim();
}

const results: string[] = [];
const queue = tasks.entries();
const workers = Array.from({ length: atOnce }, async () => {
  for (const [index, task] of queue) results[index] = await perform(task);
});
await Promise.all(workers);
console.log(results.join("\n"));
