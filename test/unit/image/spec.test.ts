import { expect, test } from "vitest";
import { planExec } from "../../../src/cli/exec.ts";
import { emptyImageConfig } from "../../../src/image/config.ts";
import { buildSpec, chooseArgs, mergeEnvironment, type SpecRequest } from "../../../src/image/spec.ts";
import {
  defaultCapabilities,
  defaultMounts,
  maskedPaths,
  readonlyPaths,
} from "../../../src/oci/spec-defaults.ts";

const path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const plain: SpecRequest = {
  containerId: "0123456789abcdef",
  image: emptyImageConfig,
  args: ["true"],
  env: [],
  volumes: [],
  user: { uid: 0, gid: 0, additionalGids: [] },
  terminal: false,
  workingDirectory: undefined,
  cpus: undefined,
  memoryBytes: undefined,
};

const plainSpec = {
  ociVersion: "1.1.0",
  process: {
    terminal: false,
    user: { uid: 0, gid: 0, additionalGids: [] },
    args: ["true"],
    env: [path],
    cwd: "/",
    capabilities: {
      bounding: defaultCapabilities,
      effective: defaultCapabilities,
      permitted: defaultCapabilities,
    },
    rlimits: [{ type: "RLIMIT_NOFILE", soft: 1024, hard: 524_288 }],
    noNewPrivileges: true,
  },
  root: { path: "rootfs", readonly: false },
  hostname: "0123456789ab",
  mounts: defaultMounts,
  linux: {
    cgroupsPath: "/caisson/0123456789abcdef",
    namespaces: ["pid", "ipc", "uts", "mount", "network", "cgroup"].map((type) => ({ type })),
    resources: { devices: [{ allow: false, access: "rwm" }] },
    maskedPaths,
    readonlyPaths,
  },
};

test("nothing asked for", () => {
  expect(buildSpec(plain)).toEqual(plainSpec);
});

test("everything asked for", () => {
  const spec = buildSpec({
    ...plain,
    image: { ...emptyImageConfig, env: ["PATH=/bin", "A=image", "B=image"], workingDirectory: "/image" },
    env: ["A=given", "C=given"],
    volumes: [
      { source: "/s", destination: "/d", readOnly: true },
      { source: "/s2", destination: "/d2", readOnly: false },
    ],
    user: { uid: 1, gid: 2, additionalGids: [3] },
    terminal: true,
    workingDirectory: "/given",
    cpus: 1.5,
    memoryBytes: 268_435_456,
  });
  expect(spec).toEqual({
    ...plainSpec,
    process: {
      ...plainSpec.process,
      terminal: true,
      user: { uid: 1, gid: 2, additionalGids: [3] },
      env: ["PATH=/bin", "TERM=xterm", "A=given", "B=image", "C=given"],
      cwd: "/given",
    },
    mounts: [
      ...defaultMounts,
      { destination: "/d", type: "bind", source: "/s", options: ["rbind", "rprivate", "ro"] },
      { destination: "/d2", type: "bind", source: "/s2", options: ["rbind", "rprivate", "rw"] },
    ],
    linux: {
      ...plainSpec.linux,
      resources: {
        devices: [{ allow: false, access: "rwm" }],
        memory: { limit: 268_435_456 },
        cpu: { quota: 150_000, period: 100_000 },
      },
    },
  });
});

test("a name that is special in JavaScript is an ordinary one", () => {
  expect(mergeEnvironment(["__proto__=a", "constructor=b", "__proto__=c"])).toEqual([
    "__proto__=c",
    "constructor=b",
  ]);
});

test("the command", () => {
  const image = { ...emptyImageConfig, entrypoint: ["/e", "-x"], command: ["c"] };
  expect(chooseArgs(image, [])).toEqual(["/e", "-x", "c"]);
  expect(chooseArgs(image, ["d"])).toEqual(["/e", "-x", "d"]);
  expect(chooseArgs(emptyImageConfig, [])).toEqual([]);
});

test("another process of the container", () => {
  const own = buildSpec({ ...plain, env: ["A=b"] }).process;
  const options = { containerId: "x", args: ["sh"], interactive: true, terminal: true, env: ["A=c"] };
  expect(planExec(own, options)).toEqual({
    ...own,
    terminal: true,
    args: ["sh"],
    env: [path, "A=c", "TERM=xterm"],
  });
  expect(planExec(own, { ...options, workingDirectory: "/w" }).cwd).toBe("/w");
});
