import { execFile } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect, test } from "vitest";
import { parseAllDocuments } from "yaml";

const root = join(import.meta.dirname, "../../..");
const kubernetes = join(root, "deploy/kubernetes");

/** Where the type of an API version and kind is (kubernetes-types, made from Kubernetes' own OpenAPI document). */
const modules: Readonly<Record<string, string>> = {
  v1: "core/v1",
  "apps/v1": "apps/v1",
  "node.k8s.io/v1": "node/v1",
  "rbac.authorization.k8s.io/v1": "rbac/v1",
};

interface Manifest {
  readonly apiVersion: string;
  readonly kind: string;
}

function manifestsOf(file: string): Manifest[] {
  return parseAllDocuments(readFileSync(join(kubernetes, file), "utf8")).map((document) => {
    expect(document.errors).toEqual([]);
    return document.toJS() as Manifest;
  });
}

/** What the compiler says of the manifests as literals of their types: unknown fields, wrong and missing ones. */
async function check(manifests: readonly Manifest[]): Promise<string> {
  // Below the project, where the types are found.
  const directory = join(root, `build/test/manifests-${process.pid}`);
  const lines = manifests.map(
    (manifest, index) =>
      `export const m${index}: import("kubernetes-types/${modules[manifest.apiVersion]}").${manifest.kind} = ${JSON.stringify(manifest)};`,
  );
  mkdirSync(directory, { recursive: true });
  try {
    const file = join(directory, "manifests.ts");
    writeFileSync(file, lines.join("\n"));
    const flags = ["--ignoreConfig", "--noEmit", "--strict", "--skipLibCheck", "--module", "esnext"];
    const tsc = join(root, "node_modules/.bin/tsc");
    await promisify(execFile)(tsc, [...flags, "--moduleResolution", "bundler", "--types", "", file]);
    return "";
  } catch (error) {
    return (error as { stdout?: string }).stdout ?? String(error);
  } finally {
    rmSync(directory, { recursive: true });
  }
}

test("deploy/kubernetes: every manifest is what Kubernetes' schema says", async () => {
  const files = readdirSync(kubernetes).filter((name) => name.endsWith(".yaml"));
  const manifests = files.flatMap(manifestsOf);

  expect(manifests.map(({ kind }) => kind).sort()).toEqual(
    ["ClusterRole", "ClusterRoleBinding", "DaemonSet", "Namespace", "RuntimeClass", "ServiceAccount"].sort(),
  );
  expect(await check(manifests)).toBe("");
});

test("the check finds a field that is not there, and a wrong one", async () => {
  const [runtimeClass] = manifestsOf("runtime-class.yaml");
  const unknown = { ...runtimeClass, handlers: ["caisson"] } as unknown as Manifest;
  const wrong = { ...runtimeClass, handler: 5 } as unknown as Manifest;

  expect(await check([unknown])).toMatch(/handlers.*does not exist in type 'RuntimeClass'/);
  expect(await check([wrong])).toContain("'number' is not assignable to type 'string'");
});
