/**
 * `make lab` and `make lab-shell`: boots the lab and shows what it is, or gives its console.
 * main.ts check|shell IMAGE, where IMAGE is what scripts/lab-image prints.
 */
import { constants } from "node:os";
import { keepAlive } from "../../src/base/keep-alive.ts";
import { abortable } from "../../src/base/scope.ts";
import { bootLab } from "../support/lab.ts";

const facts = `
printf 'kernel          '; uname -r
printf 'KVM             '; ls -l /dev/kvm
printf 'vhost-vsock     '; ls -l /dev/vhost-vsock
printf 'AF_VSOCK        '; ls -l /dev/vsock
printf 'QEMU            '; qemu-system-x86_64 --version | head -n 1
printf 'containerd      '; containerd --version
printf 'Node            '; build/libexec/node --version
printf 'Caisson         '; build/bin/caisson version | head -n 1
`;

const [verb = "", image = ""] = process.argv.slice(2);
const interrupt = new AbortController();
for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.once(name, () => {
    process.exitCode = 128 + constants.signals[name];
    interrupt.abort(new Error(`Ended by ${name}`));
  });
}
// Children that start keep no program running.
await keepAlive(main(interrupt.signal)).catch((error: unknown) => {
  if (!interrupt.signal.aborted) throw error;
});

async function main(signal: AbortSignal): Promise<void> {
  const begin = performance.now();
  await using lab = await bootLab({ image, isInteractive: verb === "shell", signal });
  if (verb === "shell") {
    await abortable(lab.ended, signal);
    return;
  }
  process.stdout.write(`up after ${((performance.now() - begin) / 1000).toFixed(1)} s\n`);
  const { exitCode, stdout, stderr } = await abortable(lab.run(facts), signal);
  process.stdout.write(stdout);
  process.stderr.write(stderr);
  process.exitCode = exitCode;
}
