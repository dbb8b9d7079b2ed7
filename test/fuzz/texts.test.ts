import { join } from "node:path";
import fc from "fast-check";
import { expect, test } from "vitest";
import { RuntimeError } from "../../src/base/errors.ts";
import { checkId } from "../../src/base/ids.ts";
import { foreignText } from "../../src/base/log.ts";
import { configFor } from "../../src/config/annotations.ts";
import { annotationKeys } from "../../src/config/fields.ts";
import { loadConfig } from "../../src/config/load.ts";
import { containerd, google } from "../../src/gen/bootstrap.js";
import { readBootstrap } from "../../src/shim/bootstrap.ts";
import { readOptions } from "../../src/shim/options.ts";
import { parseMountInfo } from "../../src/storage/mount.ts";
import { bytes, nearly } from "./bytes.ts";

const { BootstrapParams } = containerd.runtime.bootstrap.v1;
const { Any } = google.protobuf;
const [id, namespace] = ["c1", "ns"];

const any = fc.record({
  type_url: fc.oneof(
    fc.constantFrom("containerd.runc.v1.Options", "type.googleapis.com/runtimeoptions.v1.Options", id),
    fc.string({ minLength: 1 }),
  ),
  value: bytes(60),
});
const params = fc.record({
  instanceId: fc.constant(id),
  namespace: fc.constant(namespace),
  socketDir: fc.string(),
  containerdTtrpcAddress: fc.string(),
  logLevel: fc.integer({ min: -100, max: 100 }),
  extensions: fc.array(fc.record({ value: any }), { maxLength: 3 }),
});

test("BootstrapParams of these ids are never taken for options, nor options for them", () => {
  fc.assert(
    fc.property(params, (fields) => {
      const read = readBootstrap(BootstrapParams.encode(fields as never).finish(), id, namespace);

      expect(read.ttrpcAddress).toBe(fields.containerdTtrpcAddress);
      expect(read.socketDirectory).toBe(fields.socketDir || undefined);
    }),
  );
  fc.assert(
    fc.property(any, (fields) => {
      const encoded = Any.encode(fields).finish();
      // The one that says these ids in the other's fields cannot be told apart.
      fc.pre(!(fields.type_url === id && fields.value.toString() === namespace));

      const { options } = readBootstrap(encoded, id, namespace);

      expect(options?.typeUrl).toBe(fields.type_url);
      expect(Buffer.from(options?.value ?? [])).toEqual(fields.value);
    }),
  );
});

test("stdin of start: anything is read or refused as invalid_argument, the options in it too", () => {
  const stdin = fc.oneof(
    bytes(200),
    nearly(any.map((fields) => Any.encode(fields).finish())),
    nearly(params.map((fields) => BootstrapParams.encode(fields as never).finish())),
  );
  fc.assert(
    fc.property(stdin, (data) => {
      try {
        const { options } = readBootstrap(data, id, namespace);
        if (options !== undefined) readOptions(options);
      } catch (error) {
        expect(error).toBeInstanceOf(RuntimeError);
        expect(error).toMatchObject({ code: "invalid_argument" });
      }
    }),
  );
});

/** As seq_path() of the kernel writes a path. */
function mangle(path: string): string {
  return path.replaceAll(
    /[ \t\n\\]/g,
    (character) => `\\${character.charCodeAt(0).toString(8).padStart(3, "0")}`,
  );
}

const path = fc
  .array(fc.oneof(fc.string({ minLength: 1 }), fc.constantFrom("-", " ", "\\040", "\\134", "a\nb", "\t")), {
    maxLength: 4,
  })
  .map((names) => `/${names.map((name) => name.replaceAll(/[\0/]/g, "_")).join("/")}`)
  // Mountinfo is read as UTF-8; halves of surrogate pairs do not exist in a file name that is.
  .map((text) => Buffer.from(text).toString());
const mountEntry = fc.record({
  mountId: fc.nat(),
  mountPoint: path,
  root: fc.oneof(path, fc.constantFrom("net:[4026531840]", "/-")),
  optional: fc.array(fc.constantFrom("shared:1", "master:2", "propagate_from:3", "unbindable")),
  fileSystem: fc.constantFrom("ext4", "overlay", "fuse.x-y", "nsfs"),
  source: fc.oneof(path, fc.constantFrom("none", "-", "")),
});

test("mountinfo: mount points come out as they went in", () => {
  fc.assert(
    fc.property(fc.array(mountEntry, { maxLength: 5 }), (entries) => {
      const text = entries
        .map(({ mountId, mountPoint, root, optional, fileSystem, source }) =>
          [
            mountId,
            1,
            "0:1",
            mangle(root),
            mangle(mountPoint),
            "rw",
            ...optional,
            "-",
            fileSystem,
            mangle(source),
            "rw",
          ]
            .join(" ")
            .concat("\n"),
        )
        .join("");

      expect(parseMountInfo(text)).toEqual(
        entries.map(({ mountId, mountPoint, fileSystem }) => ({ mountId, mountPoint, fileSystem })),
      );
    }),
  );
  fc.assert(fc.property(fc.string(), (text) => void parseMountInfo(text)));
});

test("an id that is accepted is one path component and nothing else", () => {
  const candidate = fc.oneof(
    fc.string(),
    fc.string({ unit: "binary" }),
    fc.stringMatching(/^[A-Za-z0-9._-]{0,80}$/),
  );
  fc.assert(
    fc.property(candidate, (text) => {
      try {
        checkId("id", text);
      } catch (error) {
        expect(error).toMatchObject({ code: "invalid_argument" });
        // oxlint-disable-next-line no-control-regex -- they are what is looked for
        expect((error as Error).message).not.toMatch(/[\0-\x1f]/);
        return;
      }
      expect(text).toMatch(/^[A-Za-z0-9][A-Za-z0-9._-]*$/);
      expect(join("/d", text)).toBe(`/d/${text}`);
      expect(text.length).toBeLessThanOrEqual(76);
    }),
  );
});

test("foreign text is one bounded line without a character that could change how it reads", () => {
  fc.assert(
    fc.property(fc.string({ unit: "binary", maxLength: 3_000, size: "max" }), (text) => {
      const shown = foreignText(text);

      expect(shown).not.toMatch(/[\p{Cc}\p{Bidi_Control}\u2028\u2029]/u);
      expect(shown.length).toBeLessThanOrEqual(6 * 1024 + 1);
    }),
  );
});

test("annotations set what they are for to a value that its setting takes, or are refused", () => {
  const defaults = loadConfig({ environment: {}, executableDirectory: "/nowhere" });
  const config = { ...defaults, guestDirectory: "/guest", allowedAnnotations: [...annotationKeys.keys()] };
  const name = fc.oneof(
    fc.constantFrom(...annotationKeys.keys()),
    fc.string().map((text) => `io.caisson.${text}`),
    fc.string(),
  );
  const value = fc.oneof(
    fc.string(),
    fc.integer().map(String),
    fc.constantFrom("q35", "tcg", "kvm", "true", "/guest/vmlinux", "/guest/../x", "0x10", "1e3"),
  );
  fc.assert(
    fc.property(fc.dictionary(name, value), (annotations) => {
      let changed: typeof config;
      try {
        changed = configFor(annotations, config) as typeof config;
      } catch (error) {
        expect(error).toBeInstanceOf(RuntimeError);
        expect(error).toMatchObject({ code: "invalid_argument" });
        return;
      }
      expect(changed.vcpus).toBeLessThanOrEqual(config.maxVcpus);
      expect(`${changed.machine} ${changed.accel} ${changed.debugGuest}`).toMatch(
        /^(microvm|q35) (kvm|tcg|auto) (true|false)$/,
      );
      expect(changed.kernelPath).toMatch(/^$|^\/guest\//);
      const { memoryMiB, vcpus, kernelPath, machine, accel, debugGuest } = config;
      const settable = { memoryMiB, vcpus, kernelPath, machine, accel, debugGuest };
      expect({ ...changed, ...settable }).toEqual(config);
    }),
  );
});
