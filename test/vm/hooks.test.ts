/** OCI hooks around a container in a VM: which run where, in which order, and what their failure means. */
import { existsSync, readFileSync } from "node:fs";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createPod, type Pod } from "../support/model-pod.ts";

let pod: Pod;
beforeAll(async () => {
  pod = createPod();
  await pod.start("");
});
afterAll(() => pod[Symbol.asyncDispose]());

const hook = (script: string) => ({ path: "/bin/sh", args: ["sh", "-c", script], env: ["WORD=of-the-hook"] });

test("a life with hooks: on the host in the specification's order, and in the guest before the program", async () => {
  const log = pod.dir.join("order");
  const note = (stage: string) =>
    hook(`echo ${stage} $WORD $(sed 's/.*"status":"\\([a-z]*\\)".*/\\1/') >>${log}`);
  const noted = () => readFileSync(log, "utf8");
  const app = await pod.create("life", ["cat", "/tmp/of-the-guest"], {
    hooks: {
      prestart: [note("prestart")],
      createRuntime: [note("createRuntime")],
      startContainer: [hook("cat >/tmp/of-the-guest; echo $WORD >>/tmp/of-the-guest")],
      poststart: [note("poststart")],
      poststop: [note("poststop")],
    },
  });
  const created = "prestart of-the-hook creating\ncreateRuntime of-the-hook creating\n";
  expect(noted()).toBe(created);

  await app.container.start("");
  await app.container.init.wait();
  expect(noted()).toBe(`${created}poststart of-the-hook running\n`);
  expect(app.output()).toMatch(/"id":".*-life".*of-the-hook\n$/);
  expect(existsSync(pod.dir.join("rootfs/tmp/of-the-guest"))).toBe(true);

  await app.container.delete("");
  expect(noted()).toBe(`${created}poststart of-the-hook running\npoststop of-the-hook stopped\n`);
});

test("a failing hook aborts the create or the start, unless it comes after it", async () => {
  const failing = hook("echo problem; exit 3");
  for (const stage of ["prestart", "createRuntime"]) {
    await expect(pod.create(stage, ["true"], { hooks: { [stage]: [failing] } })).rejects.toThrow(
      `Cannot run ${stage} hook "/bin/sh": exit code 3, "problem"`,
    );
  }
  // It runs in the guest, where its program is not.
  await expect(
    pod.create("createContainer", ["true"], { hooks: { createContainer: [failing] } }),
  ).rejects.toThrow();
  // As with runc, whose hook runs after its start has answered, too.
  const unstarted = await pod.run("startContainer", "echo works", { hooks: { startContainer: [failing] } });
  expect(unstarted.exitCode).not.toBe(0);
  expect(unstarted.output).not.toContain("works");

  const hooks = { poststart: [failing], poststop: [failing] };
  expect(await pod.run("after", "echo works", { hooks })).toEqual({ exitCode: 0, output: "works\n" });
});
