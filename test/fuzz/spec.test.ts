import { writeFileSync } from "node:fs";
import fc from "fast-check";
import { afterAll, expect, test } from "vitest";
import type { Spec } from "../../src/oci/spec.ts";
import { planContainer } from "../../src/sandbox/container-plan.ts";
import { SharedMemory } from "../../src/sandbox/shared-memory.ts";
import { RuntimeError } from "../../src/base/errors.ts";
import { configFor } from "../../src/config/annotations.ts";
import { loadConfig } from "../../src/config/load.ts";
import { loadSpec } from "../../src/oci/spec.ts";
import { consoleSizeOf, loadConsoleSize } from "../../src/sandbox/console-size.ts";
import { sizeOf } from "../../src/sandbox/sizing.ts";
import { checkMemoryLimit, planUpdate } from "../../src/sandbox/update.ts";
import { createTempDir } from "../support/temp-dir.ts";
import { fullSpec } from "./full-spec.ts";
import { nearly } from "./bytes.ts";

const dir = createTempDir();
afterAll(() => dir[Symbol.asyncDispose]());
const config = loadConfig({ environment: {}, executableDirectory: "/nowhere" });
const host = { cpuCount: 2, memoryMiB: 4096 };

/** An integer that is printed by its digits; missing from TypeScript's library. */
function rawJson(digits: string): unknown {
  return (JSON as unknown as { rawJSON(text: string): unknown }).rawJSON(digits);
}

/** What somebody might write in any place. */
const odd = fc.oneof(
  fc.constantFrom<unknown>(null, true, false, 0, -1, 1.5, 2 ** 31, 2 ** 32, "", "/", "..", "a\0b", [], {}, [
    null,
  ]),
  fc.constantFrom("18446744073709551615", "-9223372036854775808").map(rawJson),
  fc.string(),
  fc.jsonValue({ maxDepth: 3 }),
);

type Place = readonly (string | number)[];

/** Every place of a document. */
function placesOf(value: unknown, place: Place = []): Place[] {
  if (typeof value !== "object" || value === null) return [place];
  return [place, ...Object.entries(value).flatMap(([key, inner]) => placesOf(inner, [...place, key]))];
}

/** A copy with something else in one place; undefined removes it. */
function put(value: unknown, [key, ...rest]: Place, change: unknown): unknown {
  if (key === undefined) return change;
  if (Array.isArray(value))
    return value.map((item, index) => (String(index) === String(key) ? put(item, rest, change) : item));
  const { [key]: old, ...others } = value as Record<string, unknown>;
  const changed = put(old, rest, change);
  return changed === undefined ? others : { ...others, [key]: changed };
}

const places = placesOf(fullSpec);
const changed = fc
  .array(fc.tuple(fc.constantFrom(...places), fc.option(odd, { nil: undefined })), {
    minLength: 1,
    maxLength: 3,
  })
  .map((changes) =>
    changes.reduce<unknown>((spec, [place, value]) => {
      try {
        return put(spec, place, value);
      } catch {
        // An earlier change took the place away.
        return spec;
      }
    }, fullSpec),
  );

const refusals = ["invalid_argument", "unimplemented", "failed_precondition"];

function expectRefusal(error: unknown): void {
  expect(error).toBeInstanceOf(RuntimeError);
  expect(refusals).toContain((error as RuntimeError).code);
}

test("a full specification is accepted", async () => {
  writeFileSync(dir.join("config.json"), JSON.stringify(fullSpec));

  expect(await readAll()).toBeDefined();
});

test("a specification with anything anywhere is read, or refused and named", async () => {
  const document = fc.oneof(
    { weight: 4, arbitrary: changed.map((spec) => JSON.stringify(spec) ?? "") },
    { weight: 1, arbitrary: nearly(changed.map((spec) => Buffer.from(JSON.stringify(spec) ?? ""))) },
  );
  await fc.assert(
    fc.asyncProperty(document, async (text) => {
      writeFileSync(dir.join("config.json"), text);

      const read = await readAll().catch(expectRefusal);

      if (read === undefined) return;
      const { guest } = read;
      expect(guest.root.path).toBe("/run/caisson/shared/c1/rootfs");
      expect(guest.linux?.cgroupsPath).toBe("/containers/c1");
      expect(guest.annotations).toBeUndefined();
      for (const { type, path } of guest.linux?.namespaces ?? []) {
        expect(type).not.toBe("network");
        expect(path).toBeUndefined();
      }
      for (const { source, type } of guest.mounts ?? []) {
        if (type === "bind") expect(source).toMatch(/^\/run\/caisson\/shared\/\.volumes\/\d+$/);
      }
    }),
  );
});

/** Everything that is done with a specification before anything is made. */
async function readAll() {
  const spec = await loadSpec(dir.path);
  const own = configFor(spec.annotations, config);
  const plan = await planContainer(spec, {
    containerId: "c1",
    terminal: false,
    isIdle: false,
    sandboxPids: [],
    memory: new SharedMemory(),
    podMounts: [],
  });
  const guest = JSON.parse(
    Buffer.from(
      plan.guest(plan.binds.map((_, index) => ({ path: `.volumes/${index}`, hasMounts: false })))
        .ociConfigJson,
    ).toString(),
  ) as Spec;
  const size = sizeOf(spec, own, host);
  expect(size.vcpus).toBeGreaterThanOrEqual(1);
  expect(size.vcpus).toBeLessThanOrEqual(host.cpuCount);
  expect(size.memoryMiB).toBeGreaterThanOrEqual(64);
  expect(size.memoryMiB).toBeLessThanOrEqual(host.memoryMiB);
  expect(plan.binds.length).toBe((guest.mounts ?? []).filter(({ type }) => type === "bind").length);
  consoleSizeOf(spec.process?.consoleSize);
  return { guest };
}

test("the process of an exec: its terminal's size is one, whatever it says", () => {
  fc.assert(
    fc.property(
      nearly(fc.jsonValue().map((value) => Buffer.from(JSON.stringify({ consoleSize: value })))),
      (text) => {
        try {
          const { columns, rows } = loadConsoleSize(text);
          for (const size of [columns, rows])
            expect(Number.isInteger(size) && size >= 0 && size <= 0xffff).toBe(true);
        } catch (error) {
          expectRefusal(error);
        }
      },
    ),
  );
});

test("the resources of an update: an object for the guest without the host's CPUs, or a refusal", () => {
  const resources = fc.record(
    {
      cpu: fc.oneof(odd, fc.dictionary(fc.constantFrom("cpus", "mems", "shares"), odd)),
      memory: fc.oneof(odd, fc.record({ limit: odd })),
      pids: odd,
    },
    { requiredKeys: [] },
  );
  fc.assert(
    fc.property(
      nearly(fc.oneof(resources, odd).map((value) => Buffer.from(JSON.stringify(value)))),
      (text) => {
        try {
          const { limits, resourcesJson } = planUpdate(text, "c1");
          checkMemoryLimit(limits, "c1", { vmMiB: 512, mostMiB: 512, heldBytes: 1024 ** 2 });
          const { cpu } = JSON.parse(resourcesJson.toString()) as { cpu?: object };
          expect(Object.keys(cpu ?? {})).not.toContain("cpus");
        } catch (error) {
          expect(error).toBeInstanceOf(RuntimeError);
          expect([...refusals, "resource_exhausted"]).toContain((error as RuntimeError).code);
        }
      },
    ),
  );
});
