import { expect, test } from "vitest";
import { type Flags, parseFlags } from "../../../src/shim/flags.ts";

const none: Flags = {
  namespace: "",
  id: "",
  address: "",
  publishBinary: "",
  bundle: "",
  debug: false,
  action: "",
};

interface Row {
  readonly name: string;
  readonly argv: readonly string[];
  readonly want: Partial<Flags>;
}

const rows: readonly Row[] = [
  { name: "nothing", argv: [], want: {} },
  {
    name: "containerd's start",
    argv: "-namespace k8s.io -address /run/c.sock -publish-binary /usr/bin/containerd -id abc start".split(
      " ",
    ),
    want: {
      namespace: "k8s.io",
      address: "/run/c.sock",
      publishBinary: "/usr/bin/containerd",
      id: "abc",
      action: "start",
    },
  },
  {
    name: "containerd's delete, debug",
    argv: "-namespace a -address b -publish-binary c -id d -bundle /e -debug delete".split(" "),
    want: {
      namespace: "a",
      address: "b",
      publishBinary: "c",
      id: "d",
      bundle: "/e",
      debug: true,
      action: "delete",
    },
  },
  {
    name: "values with =",
    argv: ["-id=x=y", "--namespace=n", "start"],
    want: { id: "x=y", namespace: "n", action: "start" },
  },
  { name: "an empty value", argv: ["-address", "", "-id", "x", "start"], want: { id: "x", action: "start" } },
  {
    name: "a value that looks like a flag",
    argv: ["-id", "-rf", "start"],
    want: { id: "-rf", action: "start" },
  },
  { name: "switches with a value", argv: ["-debug=false", "start"], want: { action: "start" } },
  { name: "unknown flags", argv: ["-later", "--more=1", "-socket", "s", "start"], want: { action: "start" } },
  { name: "what follows the action is not a flag", argv: ["start", "-id", "x"], want: { action: "start" } },
  { name: "a flag that ends without its value", argv: ["-id"], want: {} },
  { name: "--", argv: ["-id", "x", "--", "delete"], want: { id: "x", action: "delete" } },
];

test.for(rows)("parseFlags() reads $name", ({ argv, want }) => {
  expect(parseFlags(argv)).toEqual({ ...none, ...want });
});
