/**
 * Bundles the executables: one ESM file each in build/lib, and for the command lines a launcher each in build/bin. And the library: one file with all that it
 * needs in build/dist.
 */
import { chmod, mkdir, readdir, rename, rm, stat, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { build, type BuildOptions, type OutputFile } from "esbuild";
import { runtimeInfo } from "../src/shim/info.ts";

const root = dirname(import.meta.dirname);
const buildDirectory = join(root, "build");

interface Executable {
  readonly name: string;
  readonly entry: string;
  /** Of a shell script that runs Node; undefined: the launcher is a program of its own (launcher/). */
  readonly nodeOptions?: readonly string[];
}

const commonOptions = ["--no-warnings", "--disable-proto=delete"];

const executables: readonly Executable[] = [
  { name: "containerd-shim-caisson-v2", entry: "src/shim/main.ts" },
  // Not for this one: the flag blocks SIGUSR1, which belongs to the container.
  { name: "caisson", entry: "src/cli/main.ts", nodeOptions: commonOptions },
  {
    name: "caisson-oci",
    entry: "src/oci-cli/main.ts",
    nodeOptions: [...commonOptions, "--max-semi-space-size=1"],
  },
];

/**
 * The launcher finds its parts beside itself, also through symbolic links, whatever PATH and the working directory are. The
 * environment's NODE_* settings are those of containerd or the user, not meant for us.
 */
function launcher(name: string, nodeOptions: readonly string[]): string {
  return `#!/bin/sh
self=$0
while [ -L "$self" ]; do
  link=$(readlink "$self")
  case $link in /*) self=$link ;; *) self=\${self%/*}/$link ;; esac
done
parts=\${self%/*}/..
unset NODE_OPTIONS NODE_DEBUG NODE_V8_COVERAGE
# The npm package brings no Node: there it is that of the program that has asked for it, else the one in PATH.
node=\${CAISSON_NODE:-$parts/libexec/node}
[ -x "$node" ] || node=node
exec "$node" ${nodeOptions.join(" ")} "$parts/lib/${name}.js" "$@"
`;
}

const libDirectory = join(buildDirectory, "lib");
const distDirectory = join(buildDirectory, "dist");
const chunkDirectory = join(libDirectory, "chunks");
/** Chunks of earlier builds are kept this long for the programs that still run with them. */
const oldChunkMs = 30 * 60 * 1000;

/** So that a program that starts in the meantime finds the old files or the new ones, chunks always before their users. */
async function writeOutputs(outputs: readonly OutputFile[]): Promise<void> {
  const isChunk = ({ path }: OutputFile) => path.startsWith(chunkDirectory);
  for (const { path, contents } of outputs.toSorted((a, b) => Number(isChunk(b)) - Number(isChunk(a)))) {
    await writeFile(`${path}.new`, contents);
    await rename(`${path}.new`, path);
  }
}

/** Chunks have their content's hash in their names: without this, old ones would pile up. */
async function removeOldChunks(outputs: readonly OutputFile[]): Promise<void> {
  const current = new Set(outputs.map(({ path }) => path));
  for (const name of await readdir(chunkDirectory)) {
    const path = join(chunkDirectory, name);
    if (!current.has(path) && Date.now() - (await stat(path)).mtimeMs > oldChunkMs) await rm(path);
  }
}

await mkdir(join(buildDirectory, "bin"), { recursive: true });
await mkdir(chunkDirectory, { recursive: true });
await mkdir(distDirectory, { recursive: true });
const common = {
  write: false,
  bundle: true,
  platform: "node",
  format: "esm",
  sourcemap: "linked",
  minifySyntax: true,
  legalComments: "none",
  // CommonJS dependencies call require() for Node's own modules.
  banner: {
    js: 'import { createRequire as __createRequire } from "node:module"; const require = __createRequire(import.meta.url);',
  },
  logLevel: "warning",
} satisfies BuildOptions;
const [{ outputFiles }, library] = await Promise.all([
  build({
    ...common,
    entryPoints: Object.fromEntries(executables.map(({ name, entry }) => [name, join(root, entry)])),
    outdir: libDirectory,
    splitting: true,
    chunkNames: "chunks/[name]-[hash]",
    target: "node24",
  }),
  build({
    ...common,
    entryPoints: [join(root, "src/index.ts")],
    outdir: distDirectory,
    // The oldest that `engines` of package.json names.
    target: "node22.12",
  }),
]);
await writeOutputs(library.outputFiles);
await writeOutputs(outputFiles);
await removeOldChunks(outputFiles);
for (const { name, nodeOptions } of executables) {
  if (nodeOptions === undefined) continue;
  const path = join(buildDirectory, "bin", name);
  await writeFile(`${path}.new`, launcher(name, nodeOptions));
  await chmod(`${path}.new`, 0o755);
  await rename(`${path}.new`, path);
}
// What the shim's launcher answers to -info.
await writeFile(join(libDirectory, "runtime-info.bin"), runtimeInfo());
