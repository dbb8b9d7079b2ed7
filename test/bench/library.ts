import { glob, rm } from "node:fs/promises";
import { Sandbox, type SandboxOptions } from "../../src/index.ts";
import { image } from "../support/cli.ts";
import { type Bench, type Benchmark, eachRound } from "./bench.ts";
import { makeRow } from "./rows.ts";

const group = "the library: root file system by virtio-fs and as an EROFS disk";
const storages = ["virtiofs", "erofs"] as const;
/** Per sandbox. */
const execs = 5;
const fileMiB = 16;
const readScript = "for f in /bin/* /etc/*; do cat $f; done >/dev/null";

/** The life of a sandbox in this process, and its files, for both kinds of root in turn. */
export const library: Benchmark = {
  name: "library",
  async run(bench) {
    process.env["CAISSON_CONFIG"] = bench.cli.dir.join("caisson.toml");
    const samples = new Map<string, number[]>();
    const add = (name: string, value: number) =>
      void samples.set(name, [...(samples.get(name) ?? []), value]);
    const timed = async <T>(name: string, work: () => Promise<T>): Promise<T> => {
      const beginMs = performance.now();
      const result = await work();
      add(name, performance.now() - beginMs);
      return result;
    };
    const content = Buffer.alloc(fileMiB * 1024 ** 2, "0123456789abcdef");
    // The image is made before anything is measured.
    for (const storage of storages) await (await Sandbox.create(optionsOf(storage))).close();
    await eachRound(bench, group, bench.runs, async () => {
      for (const storage of storages) {
        await timed(`${storage}: create, run("true"), close`, async () => {
          await using sandbox = await Sandbox.create(optionsOf(storage));
          await sandbox.run("true");
        });
        await using sandbox = await timed(`${storage}: create`, () => Sandbox.create(optionsOf(storage)));
        await timed(`${storage}: first read of the image's files`, () =>
          sandbox.run("sh", ["-c", readScript]),
        );
        for (let exec = 0; exec < execs; exec++)
          await timed(`${storage}: run("true")`, () => sandbox.run("true"));
        const beginMs = performance.now();
        await sandbox.writeFile("/tmp/file", content);
        const writtenMs = performance.now();
        await sandbox.readFile("/tmp/file");
        add(`${storage}: into the sandbox`, (fileMiB * 1000) / (writtenMs - beginMs));
        add(`${storage}: out of the sandbox`, (fileMiB * 1000) / (performance.now() - writtenMs));
      }
      return `${samples.get(`erofs: create`)?.at(-1)?.toFixed(0)} ms to create`;
    });
    await removeErofs(bench);
    return [...samples].map(([name, values]) =>
      makeRow(group, name, name.includes("the sandbox") ? "MiB/s" : "ms", values),
    );
  },
};

function optionsOf(storage: NonNullable<SandboxOptions["storage"]>): SandboxOptions {
  return { image, storage, onLog: () => {} };
}

/** The disk of an image is kept with it on purpose. */
export async function removeErofs({ cli }: Pick<Bench, "cli">): Promise<void> {
  for await (const disk of glob(cli.dir.join("data/images/*/rootfs.erofs"))) await rm(disk);
}
