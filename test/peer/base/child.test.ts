import { expect, test } from "vitest";
import { runChild } from "../../../src/base/child.ts";

test("runChild() returns every byte of the output, also what looks like the end of a line", async () => {
  const output = await runChild(["printf", "\\010\\r\\n"], { action: "print bytes", cwd: "/" });

  expect([...output]).toEqual([8, 13, 10]);
});
