/** How soon the end of a VM is told: run in the lab by `node --test`, with the settings of a hypervisor. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { markedProcesses } from "../../support/leaks-processes.ts";
import { createPod } from "../../support/model-pod.ts";
import { patient } from "../../support/patience.ts";
import { vmmProgram } from "../../support/suite-settings.ts";

void test("SIGKILL of the VMM ends every process of the sandbox within a second", async () => {
  await using pod = createPod();
  const first = await pod.start("");
  const exec = first.sh("sleep 3600");
  await first.sh("until [ $(pidof sleep | wc -w) = 2 ]; do sleep 0.1; done");
  const [vmm = 0] = markedProcesses({ marks: [pod.dir.token] }, new RegExp(vmmProgram));
  assert.notEqual(vmm, 0);

  const begin = performance.now();
  process.kill(vmm, "SIGKILL");
  const [{ exitCode }] = await Promise.all([exec, first.container.init.wait()]);
  const tookMs = performance.now() - begin;
  await pod.sandbox.close();

  console.log(`figure: exits ${Math.round(tookMs)} ms after SIGKILL of the VMM`);
  assert.equal(exitCode, 255);
  assert.ok(tookMs < patient(1_000), `they took ${Math.round(tookMs)} ms`);
});
