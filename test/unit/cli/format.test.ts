import { mkdirSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { formatConfig } from "../../../src/client/settings.ts";
import { type ContainerRow, format } from "../../../src/cli/ps.ts";
import { formatTimeline, readDaemonPhases } from "../../../src/cli/timeline-report.ts";
import { loadConfig } from "../../../src/config/load.ts";
import { createTempDir } from "../../support/temp-dir.ts";

test("a configuration that is written is the one that is read", async () => {
  await using directory = createTempDir();
  const load = (path: string) =>
    loadConfig({ environment: { CAISSON_CONFIG: path }, executableDirectory: "/usr/bin" });
  writeFileSync(directory.join("base.toml"), 'accel = "tcg"\ndefault_memory_mib = 300\ndebug_guest = true\n');
  const config = { ...load(directory.join("base.toml")), kernelPath: "/boot/x y" };
  mkdirSync(directory.join("own"));
  writeFileSync(directory.join("own/config.toml"), formatConfig(config));
  expect(load(directory.join("own/config.toml"))).toEqual(config);
});

test("ps", () => {
  const now = new Date("2026-01-01T12:00:00Z");
  const row = { image: "oci:/x", command: ["sh", "-c", "echo \u001b[2J"], createdAt: "2026-01-01T11:00:00Z" };
  const rows: ContainerRow[] = [
    { ...row, id: "a", status: "running" },
    { ...row, id: "bb", status: "exited", exitCode: 137, exitedAt: "2026-01-01T11:59:59Z" },
    { ...row, id: "c", status: "unknown", problem: "no answer" },
    { ...row, id: "d", status: "dead", createdAt: "" },
  ];
  const plain = { quiet: false, json: false };
  expect(format(rows, plain, now)).toBe(
    [
      "CONTAINER ID   IMAGE    COMMAND                CREATED      STATUS",
      "a              oci:/x   sh -c echo \\u001b[2J   1 hour ago   running",
      "bb             oci:/x   sh -c echo \\u001b[2J   1 hour ago   exited (137) 1 second ago",
      "c              oci:/x   sh -c echo \\u001b[2J   1 hour ago   unknown: no answer",
      "d              oci:/x   sh -c echo \\u001b[2J                dead",
      "",
    ].join("\n"),
  );
  expect(format(rows, { ...plain, quiet: true }, now)).toBe("a\nbb\nc\nd\n");
  expect(JSON.parse(format(rows, { ...plain, json: true }, now))).toEqual(rows);
});

test("timeline", async () => {
  const own = [
    { name: "image", startMs: 10, durationMs: 1.25 },
    { name: "shim", startMs: 12, durationMs: 100 },
    { name: "create", startMs: 112, durationMs: 1000 },
  ];
  expect(formatTimeline(own, [{ name: "VMM", startMs: 120, durationMs: 800 }])).toBe(
    [
      "phase       start ms        ms",
      "image           10.0       1.3",
      "shim            12.0     100.0",
      "create         112.0    1000.0",
      "  VMM          132.0     800.0",
      "",
    ].join("\n"),
  );
  expect(formatTimeline(own.slice(1), [], 1150).split("\n").slice(-4)).toEqual([
    "create          112.0    1000.0",
    "unaccounted                50.0",
    "total                    1150.0",
    "",
  ]);
  await using directory = createTempDir();
  const path = directory.join("timeline.json");
  expect(await readDaemonPhases(path)).toEqual([]);
  const phase = { name: "a", startMs: 1, durationMs: 2 };
  writeFileSync(path, JSON.stringify([phase, { name: "b" }, null, 7]));
  expect(await readDaemonPhases(path)).toEqual([phase]);
  writeFileSync(path, "[");
  expect(await readDaemonPhases(path)).toEqual([]);
});
