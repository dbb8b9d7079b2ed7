/** Bundles the executables: one ESM file each in build/lib, and a launcher each in build/bin. */
import { chmod, mkdir, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { build } from "esbuild";

const root = dirname(import.meta.dirname);
const buildDirectory = join(root, "build");

interface Executable {
  readonly name: string;
  readonly entry: string;
  /** Chosen for each: the short-lived commands need little, the daemon must not grow. */
  readonly nodeOptions: readonly string[];
}

const commonOptions = ["--no-warnings", "--disable-proto=delete", "--disable-sigusr1"];

const executables: readonly Executable[] = [
  {
    name: "containerd-shim-caisson-v2",
    entry: "src/shim/main.ts",
    nodeOptions: [...commonOptions, "--max-semi-space-size=1", "--max-old-space-size=256"],
  },
  { name: "caisson", entry: "src/cli/main.ts", nodeOptions: commonOptions },
];

/**
 * The launcher finds its parts beside itself, also through symbolic links, whatever PATH and the working directory are. The
 * environment's NODE_* settings are those of containerd or the user, not meant for us.
 */
function launcher({ name, nodeOptions }: Executable): string {
  return `#!/bin/sh
self=$0
while [ -L "$self" ]; do
  link=$(readlink "$self")
  case $link in /*) self=$link ;; *) self=\${self%/*}/$link ;; esac
done
parts=\${self%/*}/..
unset NODE_OPTIONS NODE_DEBUG NODE_V8_COVERAGE
exec "$parts/libexec/node" ${nodeOptions.join(" ")} "$parts/lib/${name}.js" "$@"
`;
}

await mkdir(join(buildDirectory, "bin"), { recursive: true });
// Their names change with their content: without this, old ones would pile up.
await rm(join(buildDirectory, "lib", "chunks"), { recursive: true, force: true });
await build({
  entryPoints: Object.fromEntries(executables.map(({ name, entry }) => [name, join(root, entry)])),
  outdir: join(buildDirectory, "lib"),
  bundle: true,
  splitting: true,
  chunkNames: "chunks/[name]-[hash]",
  platform: "node",
  format: "esm",
  target: "node24",
  sourcemap: "linked",
  minifySyntax: true,
  legalComments: "none",
  // CommonJS dependencies call require() for Node's own modules.
  banner: {
    js: 'import { createRequire as __createRequire } from "node:module"; const require = __createRequire(import.meta.url);',
  },
  logLevel: "warning",
});
for (const executable of executables) {
  const path = join(buildDirectory, "bin", executable.name);
  await writeFile(path, launcher(executable));
  await chmod(path, 0o755);
}
