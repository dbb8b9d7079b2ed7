import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { readSkips } from "../cri/critest-skips.ts";

test("the specs of critest that are not run stand in the limitations, with the same reasons", () => {
  const page = readFileSync(join(import.meta.dirname, "../../docs/limitations.md"), "utf8");
  const rows = [...page.matchAll(/^\| (.+) \| (.+) \|$/gm)].map(([, spec, reason]) => ({ spec, reason }));

  expect(rows).toEqual([{ spec: "Spec", reason: "Reason" }, ...readSkips()]);
});
