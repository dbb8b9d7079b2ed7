/**
 * Bundles the executables: one ESM file each in build/lib, and for the command lines a launcher each in build/bin. And the library: one file with all that it
 * needs in build/dist.
 */
import { chmod, mkdir, rename, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { build, type BuildOptions, type OutputFile, type Plugin } from "esbuild";
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
export NODE_COMPILE_CACHE="$parts/lib/compile-cache" NODE_COMPILE_CACHE_PORTABLE=1
# The npm package brings no Node: there it is that of the program that has asked for it, else the one in PATH.
node=\${CAISSON_NODE:-$parts/libexec/node}
[ -x "$node" ] || node=node
exec "$node" ${nodeOptions.join(" ")} "$parts/lib/${name}.js" "$@"
`;
}

const libDirectory = join(buildDirectory, "lib");
const distDirectory = join(buildDirectory, "dist");

/** So that a program that starts in the meantime finds the old file or the new one. */
async function writeOutputs(outputs: readonly OutputFile[]): Promise<void> {
  for (const { path, contents } of outputs) {
    await writeFile(`${path}.new`, contents);
    await rename(`${path}.new`, path);
  }
}

/**
 * Node's own modules are loaded when the part that imports them is evaluated, and by require(): an import statement would load
 * them all at the start, with everything that they export (node:http brings a WebSocket).
 */
const lazyBuiltins: Plugin = {
  name: "lazy builtins",
  setup(bundler) {
    bundler.onResolve({ filter: /^node:/ }, ({ path, kind }) =>
      kind === "import-statement" ? { path, namespace: "builtin" } : { path, external: true },
    );
    bundler.onLoad({ filter: /.*/, namespace: "builtin" }, ({ path }) => ({
      contents: `module.exports = require(${JSON.stringify(path)})`,
    }));
  },
};

await mkdir(join(buildDirectory, "bin"), { recursive: true });
await mkdir(libDirectory, { recursive: true });
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
    // One file each, of which the parts that are imported later are evaluated later: every further file costs a start more than
    // what is not needed in this one.
    splitting: false,
    minifyWhitespace: true,
    plugins: [lazyBuiltins],
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
// Without it Node would look into the files for what they are.
await writeFile(join(libDirectory, "package.json"), '{ "type": "module" }\n');
await rm(join(libDirectory, "chunks"), { recursive: true, force: true });
for (const { name, nodeOptions } of executables) {
  if (nodeOptions === undefined) continue;
  const path = join(buildDirectory, "bin", name);
  await writeFile(`${path}.new`, launcher(name, nodeOptions));
  await chmod(`${path}.new`, 0o755);
  await rename(`${path}.new`, path);
}
// What the shim's launcher answers to -info.
const infoPath = join(libDirectory, "runtime-info.bin");
await writeFile(`${infoPath}.new`, runtimeInfo());
await rename(`${infoPath}.new`, infoPath);
