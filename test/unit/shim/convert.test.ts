import { expect, test } from "vitest";
import { containerd } from "../../../src/gen/containerd.js";
import { containerd as runc } from "../../../src/gen/options.js";
import { toBigInt } from "../../../src/gen/int64.ts";
import type { ProcessState } from "../../../src/sandbox/model.ts";
import {
  toCreateRequest,
  toExecRequest,
  toLinuxResources,
  toProcessInfos,
  toSignal,
  toStateResponse,
  toTimestamp,
} from "../../../src/shim/convert.ts";

const { CreateTaskRequest, ExecProcessRequest } = containerd.task.v2;
const { Status } = containerd.v1.types;
const options = { own: undefined, noPivotRoot: false };
const processType = "types.containerd.io/opencontainers/runtime-spec/1/Process";

function create(fields: containerd.task.v2.CreateTaskRequest.$Properties) {
  const bytes = CreateTaskRequest.encode({ id: "c1", bundle: "/b", ...fields }).finish();
  return toCreateRequest(CreateTaskRequest.decode(bytes), options);
}

function exec(fields: containerd.task.v2.ExecProcessRequest.$Properties) {
  const spec = { type_url: processType, value: Buffer.from("{}") };
  const bytes = ExecProcessRequest.encode({ id: "c1", execId: "e1", spec, ...fields }).finish();
  return toExecRequest(ExecProcessRequest.decode(bytes));
}

test("toCreateRequest() carries everything over as it came", () => {
  const request = create({
    rootfs: [{ type: "overlay", source: "overlay", options: ["ro", "X-containerd.a=b"] }],
    terminal: true,
    stdin: "/f/in",
    stdout: "binary:///x?a=b",
  });

  expect(request).toEqual({
    containerId: "c1",
    bundle: "/b",
    rootfs: [{ type: "overlay", source: "overlay", target: "", options: ["ro", "X-containerd.a=b"] }],
    stdio: { stdin: "/f/in", stdout: "binary:///x?a=b", stderr: "", terminal: true },
    noPivotRoot: false,
    notify: false,
    environment: [],
  });
});

test.for([
  ["an id with a path", { id: "../x" }, "invalid_argument"],
  ["an empty id", { id: "" }, "invalid_argument"],
  ["a long id", { id: "a".repeat(77) }, "invalid_argument"],
  ["a relative bundle", { bundle: "b" }, "invalid_argument"],
  ["a bundle with NUL", { bundle: "/b\0" }, "invalid_argument"],
  ["a checkpoint", { checkpoint: "/c" }, "unimplemented"],
] as const)("toCreateRequest() refuses %s", ([, fields, code]) => {
  expect(() => create(fields)).toThrowError(expect.objectContaining({ code }) as Error);
});

test("toCreateRequest() accepts an id that is a name of every object", () => {
  expect(create({ id: "constructor" }).containerId).toBe("constructor");
});

test("toExecRequest() keeps the bytes of the spec", () => {
  const value = Buffer.from('{"args":["a"],  "x":9223372036854771712}');

  const request = exec({ spec: { type_url: processType, value }, terminal: true, stdout: "/o" });

  expect(request.execId).toBe("e1");
  expect(request.stdio).toEqual({ stdin: "", stdout: "/o", stderr: "", terminal: true });
  expect(Buffer.from(request.processJson)).toEqual(value);
});

test.for([
  ["another type of spec", { spec: { type_url: "x.Y", value: Buffer.from("{}") } }, "invalid_argument"],
  ["no spec", { spec: null }, "invalid_argument"],
  ["an empty spec", { spec: { type_url: processType } }, "invalid_argument"],
  ["a bad exec id", { execId: "a/b" }, "invalid_argument"],
  ["an empty exec id", { execId: "" }, "invalid_argument"],
  ["the container's id", { execId: "c1" }, "already_exists"],
] as const)("toExecRequest() refuses %s", ([, fields, code]) => {
  expect(() => exec(fields)).toThrowError(expect.objectContaining({ code }) as Error);
});

const resourcesType = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

test("toLinuxResources() keeps the bytes, whatever the annotations", () => {
  const value = Buffer.from('{"memory":{"limit":9223372036854771712}}');
  const { UpdateTaskRequest } = containerd.task.v2;
  const request = { id: "c1", resources: { type_url: resourcesType, value }, annotations: { a: "b" } };

  expect(
    Buffer.from(toLinuxResources(UpdateTaskRequest.decode(UpdateTaskRequest.encode(request).finish()))),
  ).toEqual(value);
});

test.for([
  ["of another type", { type_url: "x.Y", value: Buffer.from("{}") }],
  ["of Windows", { type_url: resourcesType.replace("Linux", "Windows"), value: Buffer.from("{}") }],
  ["without a value", { type_url: resourcesType }],
  ["that are absent", null],
] as const)("toLinuxResources() refuses resources %s", ([, resources]) => {
  const { UpdateTaskRequest } = containerd.task.v2;
  const request = UpdateTaskRequest.decode(UpdateTaskRequest.encode({ id: "c1", resources }).finish());

  expect(() => toLinuxResources(request)).toThrowError(
    expect.objectContaining({ code: "invalid_argument" }) as Error,
  );
});

test("toProcessInfos() has init, and each exec by its id, all with the sandbox's pid", () => {
  const init = { pid: 5 };
  const runningExecs = [{ execId: "e1" }, { execId: "e2" }];

  const infos = toProcessInfos({ init, runningExecs } as never);

  expect(infos.map(({ pid }) => pid)).toEqual([5, 5, 5]);
  expect(infos[0]?.info).toBeUndefined();
  expect(infos.slice(1).map(({ info }) => info?.type_url)).toEqual(
    Array.from({ length: 2 }, () => "containerd.runc.v1.ProcessDetails"),
  );
  expect(
    infos.slice(1).map(({ info }) => runc.runc.v1.ProcessDetails.decode(info?.value ?? Buffer.of()).execId),
  ).toEqual(["e1", "e2"]);
});

test("toSignal() takes Linux signals, real-time ones included", () => {
  expect([1, 9, 64].map(toSignal)).toEqual([1, 9, 64]);
  for (const signal of [0, 65, 4_294_967_295])
    expect(() => toSignal(signal)).toThrowError(/expected 1 to 64/);
});

const exit = { exitCode: 137, exitedAt: new Date(1_700_000_000_123) };

test.for<[ProcessState, containerd.v1.types.Status]>([
  [{ tag: "created" }, Status.CREATED],
  [{ tag: "starting" }, Status.CREATED],
  [{ tag: "running" }, Status.RUNNING],
  [{ tag: "paused" }, Status.PAUSED],
  [{ tag: "stopped", exit }, Status.STOPPED],
  [{ tag: "deleted", exit }, Status.STOPPED],
])("toStateResponse() of %o", ([state, status]) => {
  const stdio = { stdin: "i", stdout: "o", stderr: "e", terminal: false };
  const process = { execId: "e1", state, stdio, pid: 5 };
  const container = { id: "c1", bundle: "/b" };

  const response = toStateResponse(container as never, process as never);

  expect(response).toMatchObject({ id: "c1", bundle: "/b", pid: 5, status, ...stdio, execId: "e1" });
  // Absent until the exit, as a client tells the two apart by it.
  expect(response.exitedAt === null).toBe(!("exit" in state));
  expect(response.exitStatus).toBe("exit" in state ? 137 : 0);
});

test.for([
  [1_700_000_000_123, 1_700_000_000n, 123_000_000],
  [0, 0n, 0],
  [-1, -1n, 999_000_000],
  [253_402_300_799_999, 253_402_300_799n, 999_000_000],
] as const)("toTimestamp() of %d ms", ([milliseconds, seconds, nanos]) => {
  const timestamp = toTimestamp(new Date(milliseconds));

  expect(toBigInt(timestamp.seconds)).toBe(seconds);
  expect(timestamp.nanos).toBe(nanos);
});
