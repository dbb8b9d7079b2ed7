/**
 * `make lab` and `make lab-shell`: boots the lab and shows what it is, or gives its console.
 * main.ts check|shell IMAGE, where IMAGE is what scripts/lab-image prints.
 */
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
const begin = performance.now();
await using lab = await bootLab({ image, isInteractive: verb === "shell" });
if (verb === "shell") {
  await lab.ended;
} else {
  process.stdout.write(`up after ${((performance.now() - begin) / 1000).toFixed(1)} s\n`);
  const { exitCode, stdout, stderr } = await lab.run(facts);
  process.stdout.write(stdout);
  process.stderr.write(stderr);
  process.exitCode = exitCode;
}
