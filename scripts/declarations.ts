/**
 * Writes the types of the library to build/dist: the declarations of src/index.ts and of what they refer to, nothing else.
 */
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";

const root = dirname(import.meta.dirname);
const dist = join(root, "build/dist");
mkdirSync(dist, { recursive: true });
const all = mkdtempSync(join(dist, ".all-"));
try {
  const flags = [
    "--noEmit",
    "false",
    "--declaration",
    "--emitDeclarationOnly",
    "--rootDir",
    "src",
    "--outDir",
    all,
  ];
  execFileSync(
    process.execPath,
    [join(root, "node_modules/typescript/bin/tsc"), ...flags, "--project", "tsconfig.library.json"],
    {
      cwd: root,
      stdio: "inherit",
    },
  );
  const files = referred("index.d.ts");
  for (const file of files) {
    const target = join(dist, file);
    mkdirSync(dirname(target), { recursive: true });
    // A declaration is found by the name of the module that it describes.
    const text = readFileSync(join(all, file), "utf8");
    const named = text.replace(/(from "\.{1,2}\/[^"]+)\.ts"/g, '$1.js"');
    writeFileSync(target, isWhole(text) ? named : `// @ts-nocheck\n${named}`);
  }
} finally {
  rmSync(all, { recursive: true });
}

/**
 * Whether all that a declaration names is in the package. Dependencies and generated code are not: no part of the library's interface is
 * made of them, but files that it refers to are, and would not pass the checks of a program that uses it.
 */
function isWhole(text: string): boolean {
  const named = [...text.matchAll(/^(?:import|export) .*from "([^"]+)"/gm)].map(([, name = ""]) => name);
  return named.every((name) => name.startsWith("node:") || /^\.{1,2}\/.*\.ts$/.test(name));
}

/** The declaration files that can be reached from one, itself included. */
function referred(entry: string): string[] {
  const found = new Set([entry]);
  for (const file of found) {
    const text = readFileSync(join(all, file), "utf8");
    for (const [, target = ""] of text.matchAll(/from "(\.{1,2}\/[^"]+)\.ts"/g)) {
      found.add(relative(all, join(all, dirname(file), `${target}.d.ts`)));
    }
  }
  return [...found];
}
