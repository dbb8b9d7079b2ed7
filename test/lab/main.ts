/**
 * `make lab`, `make lab-shell` and `make bench-lab`: boots the lab and shows what it is, gives its console, or measures in it.
 * main.ts check|shell|bench IMAGE, where IMAGE is what scripts/lab-image prints.
 */
import { constants } from "node:os";
import { keepAlive } from "../../src/base/keep-alive.ts";
import { abortable } from "../../src/base/scope.ts";
import { bootLab } from "../support/lab.ts";
import { microvm } from "./hosts.ts";

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

/** The results go where the tree is shared; the lab's own writes are forgotten with it. */
const chosen = process.env["CAISSON_BENCH_ONLY"];
const measure = `
export CAISSON_TEST_SETTINGS='${microvm.settings}' CAISSON_TEST_PATIENCE=5
${exports("CAISSON_TEST_CONTAINERD", "CAISSON_BENCH_FLOOR", "CAISSON_BENCH_REVISION")}
export CAISSON_BENCH_RUNS='${process.env["CAISSON_BENCH_RUNS"] ?? "5"}' CAISSON_BENCH_ONLY='${chosen ?? "^(memory|templates)$"}'
mkdir -p build/test build/bench /host/tree/build/bench
build/libexec/node --no-warnings test/bench/main.ts || exit
cp build/bench/results.json /host/tree/build/bench/lab.json
${chosen === undefined ? "" : "exit # The charts are those of a whole run."}
rm -rf /host/tree/docs/benchmarks/lab
cp -r build/bench/charts /host/tree/docs/benchmarks/lab
`;
const measureTimeoutMs = 3_600_000;

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
  if (verb === "bench") process.stdout.write("measuring; build/lab/out/*.err says how far it is\n");
  const running = verb === "bench" ? lab.run(measure, { timeoutMs: measureTimeoutMs }) : lab.run(facts);
  const { exitCode, stdout, stderr } = await abortable(running, signal);
  process.stdout.write(stdout);
  process.stderr.write(stderr);
  process.exitCode = exitCode;
}

function exports(...names: readonly string[]): string {
  return names.map((name) => `export ${name}='${process.env[name] ?? ""}'`).join("\n");
}
