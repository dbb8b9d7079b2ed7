import { expect, test } from "vitest";
import { mergeMetrics } from "../../../src/cli/metrics-merge.ts";

const help =
  "# HELP caisson_sandbox_up 1 when the daemon of the sandbox gave its metrics, 0 when it lives but did not answer in time.\n# TYPE caisson_sandbox_up gauge\n";

/** The merged text of one sandbox without the lines of `caisson_sandbox_up`. */
function mergeOne(text: string): string {
  return mergeMetrics([{ namespace: "n", sandboxId: "s", text }])
    .replace(help, "")
    .replace('caisson_sandbox_up{namespace="n",sandbox="s"} 1\n', "");
}

test("without sandboxes there is only what the command adds", () => {
  expect(mergeMetrics([])).toBe(help);
});

test("every family appears once, with the lines of all sandboxes", () => {
  const text = (value: number) =>
    `# HELP a_total Help.\n# TYPE a_total counter\na_total ${value}\n\n# HELP b_seconds B.\n# TYPE b_seconds histogram\nb_seconds_bucket{x="y",le="+Inf"} ${value}\nb_seconds_sum{x="y"} 1e-7\nb_seconds_count{x="y"} ${value}\n`;

  const merged = mergeMetrics([
    { namespace: "n", sandboxId: "s", text: text(1) },
    { namespace: "n", sandboxId: "silent", text: undefined },
    { namespace: "m", sandboxId: "s", text: text(2) },
  ]);

  expect(merged).toBe(
    [
      `${help}caisson_sandbox_up{namespace="n",sandbox="s"} 1`,
      'caisson_sandbox_up{namespace="n",sandbox="silent"} 0',
      'caisson_sandbox_up{namespace="m",sandbox="s"} 1',
      "# HELP a_total Help.",
      "# TYPE a_total counter",
      'a_total{namespace="n",sandbox="s"} 1',
      'a_total{namespace="m",sandbox="s"} 2',
      "# HELP b_seconds B.",
      "# TYPE b_seconds histogram",
      'b_seconds_bucket{namespace="n",sandbox="s",x="y",le="+Inf"} 1',
      'b_seconds_sum{namespace="n",sandbox="s",x="y"} 1e-7',
      'b_seconds_count{namespace="n",sandbox="s",x="y"} 1',
      'b_seconds_bucket{namespace="m",sandbox="s",x="y",le="+Inf"} 2',
      'b_seconds_sum{namespace="m",sandbox="s",x="y"} 1e-7',
      'b_seconds_count{namespace="m",sandbox="s",x="y"} 2',
      "",
    ].join("\n"),
  );
});

test("label values keep their escapes, braces and commas", () => {
  expect(mergeOne('# HELP a A.\n# TYPE a gauge\na{x="\\"}, \\\\",y="{"} 1\n')).toBe(
    '# HELP a A.\n# TYPE a gauge\na{namespace="n",sandbox="s",x="\\"}, \\\\",y="{"} 1\n',
  );
});

test.each([
  ["of another family", "b 1"],
  ["without a value", "a"],
  ["with a value that is no number", "a one"],
  ["with labels that do not end", 'a{x="y 1'],
  ["with a time", "a 1 1700000000000"],
  ["that is a histogram's, of a gauge", "a_bucket 1"],
  ["that is something else", "<html>"],
])("a line %s is left out", (_, line) => {
  expect(mergeOne(`# HELP a A.\n# TYPE a gauge\n${line}\na 2\n`)).toBe(
    '# HELP a A.\n# TYPE a gauge\na{namespace="n",sandbox="s"} 2\n',
  );
});

test("of two types for one name the first counts", () => {
  const text = (type: string) => `# TYPE a ${type}\na 1\n`;

  const merged = mergeMetrics([
    { namespace: "n", sandboxId: "1", text: text("gauge") },
    { namespace: "n", sandboxId: "2", text: text("counter") },
  ]);

  expect(merged).toContain('# TYPE a gauge\na{namespace="n",sandbox="1"} 1\n');
  expect(merged).not.toContain('a{namespace="n",sandbox="2"}');
});

test("a daemon cannot speak for the command", () => {
  expect(mergeOne("# TYPE caisson_sandbox_up gauge\ncaisson_sandbox_up 7\n")).toBe("");
});
