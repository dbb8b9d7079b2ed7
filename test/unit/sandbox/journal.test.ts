import { execFileSync } from "node:child_process";
import { appendFileSync, mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { Journal, type JournalEntry, journalName, readJournal } from "../../../src/sandbox/journal.ts";
import { createTempDir } from "../../support/temp-dir.ts";

const entries: readonly JournalEntry[] = [
  { kind: "daemon", identity: { pid: 5, startTicks: "123" } },
  { kind: "user", uid: 700_000_001 },
  { kind: "netns", path: '/run/a "b"\nc' },
  { kind: "process", name: "QEMU", identity: { pid: 6, startTicks: "18446744073709551615" } },
];

test("what was added is read back in its order, also while the journal is open", async () => {
  await using dir = createTempDir();
  using journal = new Journal(dir.path);

  for (const entry of entries) journal.add(entry);

  expect(readJournal(dir.path)).toEqual(entries);
});

test("no journal has no entries, a torn last line is left out, and so is what is no entry", async () => {
  await using dir = createTempDir();
  expect(readJournal(dir.path)).toEqual([]);
  expect(readJournal(dir.join("none"))).toEqual([]);

  {
    using journal = new Journal(dir.path);
    for (const entry of entries) journal.add(entry);
  }
  appendFileSync(dir.join(journalName), 'null\n{"kind":"user","ui');

  expect(readJournal(dir.path)).toEqual(entries);
});

test("a journal that is opened again goes on where it was", async () => {
  await using dir = createTempDir();
  for (const entry of entries) {
    using journal = new Journal(dir.path);
    journal.add(entry);
  }

  expect(readJournal(dir.path)).toEqual(entries);
});

test("a full disk is resource_exhausted, and what is added once there is room again is found", async () => {
  await using dir = createTempDir();
  mkdirSync(dir.join("disk"));
  execFileSync("mount", ["-t", "tmpfs", "-o", "size=16k,nr_inodes=10", "none", dir.join("disk")]);
  using journal = new Journal(dir.join("disk"));
  writeFileSync(dir.join("disk", "ballast"), Buffer.alloc(8 * 1024));
  let written = 0;
  const fill = () => {
    for (;;) {
      journal.add({ kind: "user", uid: written });
      written += 1;
    }
  };
  expect(fill).toThrow(expect.objectContaining({ code: "resource_exhausted" }));

  rmSync(dir.join("disk", "ballast"));
  journal.add({ kind: "netns", path: "/late" });

  const found = readJournal(dir.join("disk"));
  expect(found.at(-1)).toEqual({ kind: "netns", path: "/late" });
  expect(found.filter(({ kind }) => kind === "user")).toHaveLength(written);
});

test("a directory that is not there is named", async () => {
  await using dir = createTempDir();

  expect(() => new Journal(dir.join("none"))).toThrow(
    expect.objectContaining({ code: "not_found", message: expect.stringContaining(dir.join("none")) }),
  );
  expect(readdirSync(dir.path)).toEqual([]);
});
