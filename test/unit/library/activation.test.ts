import { expect, test } from "vitest";
import { needsActivation, planActivation } from "../../../src/tasks/activation.ts";
import type { Mount } from "../../../src/sandbox/model.ts";

const mount = (type: string, source: string, ...options: string[]): Mount => ({
  type,
  source,
  target: "",
  options,
});
const erofs = [mount("erofs", "/images/base", "ro"), mount("erofs", "/images/top", "ro")];
const overlay = mount(
  "format/mkdir/overlay",
  "overlay",
  "X-containerd.mkdir.path=/task/upper:0755",
  "X-containerd.mkdir.path=/task/work",
  "lowerdir={{ overlay 1 0 }}",
  "upperdir=/task/upper",
  "workdir=/task/work",
);

test("plain mounts are the runtime's", () => {
  expect(needsActivation(erofs)).toBe(false);
  expect(needsActivation([...erofs, overlay])).toBe(true);
});

test("what a format refers to is mounted on the host, and the runtime gets a plain mount", () => {
  const { mounted, rest } = planActivation([...erofs, overlay], "/active", new Set());

  expect(mounted.map((planned) => planned.mount)).toEqual(erofs);
  expect(rest).toEqual([
    {
      mount: mount(
        "overlay",
        "overlay",
        "lowerdir=/active/1:/active/0",
        "upperdir=/task/upper",
        "workdir=/task/work",
      ),
      directories: [
        { path: "/task/upper", mode: 0o755 },
        { path: "/task/work", mode: 0o700 },
      ],
    },
  ]);
});

test("what the runtime takes itself is left as it is", () => {
  const { mounted, rest } = planActivation([...erofs, overlay], "/active", new Set(["format/*", "mkdir/*"]));

  expect(mounted).toEqual([]);
  expect(rest.map((planned) => planned.mount)).toEqual([...erofs, overlay]);
});

test.for([
  { what: "a mount behind it", entry: mount("format/bind", "{{ mount 2 }}"), code: "invalid_argument" },
  { what: "itself", entry: mount("format/bind", "{{ mount 1 }}"), code: "invalid_argument" },
  { what: "an unknown function", entry: mount("format/bind", "{{ exec 0 }}"), code: "invalid_argument" },
  { what: "an unknown transformation", entry: mount("mkfs/ext4", "x"), code: "unimplemented" },
  {
    what: "a directory that is no path",
    entry: mount("mkdir/bind", "x", "X-containerd.mkdir.path=/a/../b"),
    code: "invalid_argument",
  },
])("planActivation refuses $what", ({ entry, code }) => {
  expect(() => planActivation([mount("bind", "/x"), entry], "/active", new Set())).toThrow(
    expect.objectContaining({ code }) as Error,
  );
});
