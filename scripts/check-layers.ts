/**
 * Checks the order of the folders in src/: a folder imports only from rows below its own, and from itself.
 * Prints every import that breaks the order as file:line and exits with 1.
 */
import { globSync, readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";

/** Top first. Folders of one row know nothing of each other. */
const rows: readonly (readonly string[])[] = [
  ["cli", "oci-cli", "library"],
  ["tasks"],
  ["client"],
  ["shim", "doctor"],
  ["sandbox", "image"],
  ["hypervisor", "network", "storage", "agent-client"],
  ["oci", "config", "ttrpc"],
  ["base"],
];

/** Who may import generated code: the edges that translate it, and ttrpc its own messages and their integers. */
const generatedCodeUsers: ReadonlyMap<string, (file: string) => boolean> = new Map([
  ["shim", () => true],
  ["client", () => true],
  ["cli", () => true],
  ["oci-cli", () => true],
  ["agent-client", () => true],
  ["ttrpc", (file: string) => /^gen\/(ttrpc|int64)\b/.test(file)],
]);

const importPattern = /(?:\bfrom\s*|\bimport\s*\(?\s*|\brequire\s*\(\s*)["'](\.{1,2}\/[^"']+)["']/g;

/** What is wrong with an import, or undefined. Paths are relative to src/. */
function objection(from: string, to: string): string | undefined {
  const [source, target] = [folderOf(from), folderOf(to)];
  // Files directly in src/ are entries: they may use everything, nothing may use them.
  if (source === undefined || source === target) return undefined;
  if (target === undefined) return `an entry file is not for others to import`;
  if (to.startsWith("..")) return "it lies outside of src/";
  if (source === "gen") return "generated code imports nothing of ours";
  if (target === "gen") {
    return generatedCodeUsers.get(source)?.(to) === true ? undefined : `generated code is not for ${source}/`;
  }
  const [sourceRow, targetRow] = [rowOf(source), rowOf(target)];
  if (sourceRow === -1) return `${source}/ has no row in scripts/check-layers.ts`;
  if (targetRow === -1) return `${target}/ has no row in scripts/check-layers.ts`;
  if (sourceRow === targetRow) return `${source}/ and ${target}/ are in one row`;
  return sourceRow < targetRow ? undefined : `${target}/ is above ${source}/`;
}

function folderOf(path: string): string | undefined {
  const [folder, rest] = path.split("/");
  return rest === undefined ? undefined : folder;
}

function rowOf(folder: string): number {
  return rows.findIndex((row) => row.includes(folder));
}

const root = join(import.meta.dirname, "..", "src");
const files = globSync("**/*.{ts,js,mts,cts}", { cwd: root });
const problems = files.flatMap((file) => {
  const text = readFileSync(join(root, file), "utf8");
  return [...text.matchAll(importPattern)].flatMap((match) => {
    const target = normalize(join(dirname(file), match[1] ?? ""));
    const reason = objection(file, target);
    const line = text.slice(0, match.index).split("\n").length;
    return reason === undefined ? [] : [`src/${file}:${line}: Cannot import "${match[1]}": ${reason}`];
  });
});

if (files.length === 0) problems.push("Cannot check src/: it has no files");
for (const problem of problems) console.error(problem);
console.log(`${files.length} files, ${problems.length} imports against the order of the layers`);
process.exitCode = problems.length > 0 ? 1 : 0;
