/**
 * Runs a script that nobody has looked at, with bounds for its time, its memory and its output, and without a network.
 *
 *   node examples/untrusted-code.ts IMAGE [SCRIPT]
 */
import { CommandError, Sandbox } from "caisson";

const [image = "docker.io/library/busybox", script = "echo working; while :; do :; done"] =
  process.argv.slice(2);

await using sandbox = await Sandbox.create({
  image,
  memoryMiB: 256,
  limits: { memoryMiB: 64, pids: 32 },
  user: "65534:65534",
});

try {
  const { exitCode, stdout, stderr } = await sandbox.run("sh", ["-c", script], {
    timeoutMs: 5_000,
    maxOutputBytes: 64 * 1024,
  });
  process.stdout.write(stdout);
  process.stderr.write(stderr);
  console.log(`ended with exit code ${exitCode}`);
} catch (error) {
  if (!(error instanceof CommandError)) throw error;
  process.stdout.write(error.stdout);
  console.log(`stopped: ${error.code}`);
}
