import { readFileSync } from "node:fs";
import { join } from "node:path";

/** A spec of critest that is not run. */
export interface Skip {
  /** The end of its name. */
  readonly spec: string;
  readonly reason: string;
}

/** The lines of critest-skip.txt. */
export function readSkips(): Skip[] {
  return readFileSync(join(import.meta.dirname, "critest-skip.txt"), "utf8")
    .split("\n")
    .filter((line) => line !== "" && !line.startsWith("#"))
    .map((line) => {
      const [spec = "", reason = ""] = line.split(" | ");
      if (spec === "" || reason === "") throw new Error(`Not "spec | reason": ${JSON.stringify(line)}`);
      return { spec, reason };
    });
}
