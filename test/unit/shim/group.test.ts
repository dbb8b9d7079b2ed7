import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { groupOf } from "../../../src/shim/group.ts";
import { createTempDir } from "../../support/temp-dir.ts";

async function groupOfSpec(text: string | undefined): Promise<string> {
  await using dir = createTempDir();
  if (text !== undefined) writeFileSync(dir.join("config.json"), text);
  // Awaited here: the directory goes when this returns.
  return await groupOf(dir.path, "own");
}

const annotated = (annotations: object) => JSON.stringify({ annotations });

test.for([
  ["no config.json", undefined, "own"],
  ["no annotations", "{}", "own"],
  ["the CRI sandbox", annotated({ "io.kubernetes.cri.sandbox-id": "pod" }), "pod"],
  ["the sandbox of CRI-O", annotated({ "io.kubernetes.cri-o.SandboxID": "pod" }), "pod"],
  [
    "the group before the CRI sandbox",
    annotated({ "io.kubernetes.cri.sandbox-id": "pod", "io.containerd.runc.v2.group": "group" }),
    "group",
  ],
  ["an empty value", annotated({ "io.containerd.runc.v2.group": "" }), "own"],
  ["a value that is no text", annotated({ "io.containerd.runc.v2.group": 3 }), "own"],
  ["annotations that are no object", '{"annotations":[]}', "own"],
  ["a prototype", '{"__proto__":{"annotations":{"io.containerd.runc.v2.group":"x"}}}', "own"],
] as const)("groupOf() with %s", async ([, text, want]) => {
  expect(await groupOfSpec(text)).toBe(want);
});

test.for([
  ["a path as group", annotated({ "io.kubernetes.cri.sandbox-id": "../x" })],
  ["what is not JSON", "{"],
  ["a file that is too large", " ".repeat(4 * 1024 * 1024 + 1)],
] as const)("groupOf() refuses %s", async ([, text]) => {
  await expect(groupOfSpec(text)).rejects.toMatchObject({ code: "invalid_argument" });
});

test("groupOf() refuses a symbolic link and a directory", async () => {
  await using link = createTempDir();
  await using directory = createTempDir();
  symlinkSync("/etc/passwd", link.join("config.json"));
  mkdirSync(directory.join("config.json"));

  await expect(groupOf(link.path, "own")).rejects.toMatchObject({ code: "invalid_argument" });
  await expect(groupOf(directory.path, "own")).rejects.toMatchObject({ code: "invalid_argument" });
});
