import { expect, test } from "vitest";
import { containerd, google } from "../../../src/gen/bootstrap.js";
import { containerd as options } from "../../../src/gen/options.js";
import { readBootstrap } from "../../../src/shim/bootstrap.ts";

const { BootstrapParams } = containerd.runtime.bootstrap.v1;
const runcOptions = {
  type_url: "containerd.runc.v1.Options",
  value: options.runc.v1.Options.encode({ noPivotRoot: true }).finish(),
};
const params = { instanceId: "c1", namespace: "ns", containerdTtrpcAddress: "/run/c.sock.ttrpc" };

test("readBootstrap() accepts nothing at all", () => {
  expect(readBootstrap(new Uint8Array(), "c1", "ns")).toEqual({
    isCurrent: false,
    options: undefined,
    socketDirectory: undefined,
    ttrpcAddress: "",
    debug: false,
  });
});

test("readBootstrap() reads BootstrapParams of these ids", () => {
  const bytes = BootstrapParams.encode({
    ...params,
    logLevel: -4,
    socketDir: "/run/s",
    extensions: [{ value: { type_url: "unknown.Thing" } }, { value: runcOptions }],
  }).finish();

  const bootstrap = readBootstrap(bytes, "c1", "ns");

  expect(bootstrap).toMatchObject({
    socketDirectory: "/run/s",
    ttrpcAddress: "/run/c.sock.ttrpc",
    debug: true,
  });
  expect(bootstrap.options?.typeUrl).toBe("containerd.runc.v1.Options");
  expect(Buffer.from(bootstrap.options?.value ?? [])).toEqual(Buffer.from(runcOptions.value));
});

test.for([
  [0, false],
  [4, false],
  [-5, true],
  [-8, true],
  [12, false],
  [-100, true],
] as const)("readBootstrap() takes log level %d as debug: %s", ([logLevel, debug]) => {
  const bytes = BootstrapParams.encode({ ...params, logLevel: logLevel as never }).finish();

  expect(readBootstrap(bytes, "c1", "ns").debug).toBe(debug);
});

test("readBootstrap() reads the Any of older containerds, which parses as BootstrapParams too", () => {
  const bytes = google.protobuf.Any.encode(runcOptions).finish();

  expect(readBootstrap(bytes, "c1", "ns").options?.typeUrl).toBe("containerd.runc.v1.Options");
});

test("readBootstrap() does not take an Any with a type like the id for BootstrapParams", () => {
  const bytes = google.protobuf.Any.encode({ type_url: "c1", value: Buffer.from("other") }).finish();

  expect(readBootstrap(bytes, "c1", "ns").options?.typeUrl).toBe("c1");
});

test.for([
  ["random bytes", Buffer.from("ffffffffffffffff", "hex")],
  ["a field cut short", Buffer.from("0aff", "hex")],
  ["a message without a type", Buffer.from("1001", "hex")],
] as const)("readBootstrap() refuses %s", ([, bytes]) => {
  expect(() => readBootstrap(bytes, "c1", "ns")).toThrowError(
    expect.objectContaining({ code: "invalid_argument" }) as Error,
  );
});
