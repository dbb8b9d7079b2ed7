import { execFileSync } from "node:child_process";
import {
  appendFileSync,
  closeSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { loadNative } from "../../src/base/native.ts";
import { createPod, makeBusyboxRoot, type Pod } from "../support/model-pod.ts";
import { patient } from "../support/patience.ts";

/** For what the guest's caches may keep for a second. */
const waitFor = { timeout: patient(30_000), interval: 200 };

let pod: Pod;
beforeAll(async () => {
  pod = createPod();
  await pod.start("");
});
afterAll(() => pod[Symbol.asyncDispose]());

const bind = (source: string, destination: string, ...options: string[]) => ({
  destination,
  type: "bind",
  source,
  options: ["rbind", ...options],
});

/** A directory of the host with these files. */
function volume(name: string, files: Readonly<Record<string, string>> = {}): string {
  const path = pod.dir.join(name);
  mkdirSync(path);
  for (const [file, content] of Object.entries(files)) writeFileSync(`${path}/${file}`, content);
  return path;
}

test("a bind of one file shows that file, not its directory, and changes reach both sides", async () => {
  const source = volume("files", { one: "1\n", secret: "x" });
  const app = await pod.start("file", { mounts: [bind(`${source}/one`, "/etc/one")] });

  expect((await app.sh("cat /etc/one; ls /etc; echo 2 >>/etc/one")).output).toBe("1\none\n");
  expect(readFileSync(`${source}/one`, "utf8")).toBe("1\n2\n");
  appendFileSync(`${source}/one`, "3\n");
  await vi.waitFor(async () => expect((await app.sh("cat /etc/one")).output).toBe("1\n2\n3\n"), waitFor);
  expect((await app.sh("ls /etc/one/..; ls /etc/../secret 2>&1")).output).not.toMatch(/^secret$/m);
  await app.remove();
});

test("ro holds on the host, also when the guest's mount is made writable; mounts below it with rro", async () => {
  const source = volume("read-only", { kept: "kept" });
  mkdirSync(`${source}/below`);
  execFileSync("mount", ["-t", "tmpfs", "none", `${source}/below`]);
  const everything = { capabilities: capabilities("CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE", "CAP_CHOWN") };
  const app = await pod.start("ro", {
    mounts: [bind(source, "/ro", "ro"), bind(source, "/rro", "rro"), bind(`${source}/kept`, "/one", "ro")],
    process: everything,
  });

  const attempts = ["echo x >F", "rm F", "chmod 777 F", "ln F F2", "mv F F3", "touch F"];
  const script = ["/ro/kept", "/rro/kept", "/one", "/rro/below/new"]
    .flatMap((file) => [
      `mount -o remount,bind,rw ${file.replace(/\/(kept|new)$/, "")}`,
      ...attempts.map((attempt) => `(${attempt.replaceAll("F", file)}) 2>/dev/null && echo WRITTEN ${file}`),
    ])
    .join("; ");
  expect((await app.sh(script, everything)).output).not.toContain("WRITTEN");
  expect(readdirSync(source).sort()).toEqual(["below", "kept"]);
  expect(readFileSync(`${source}/kept`, "utf8")).toBe("kept");
  expect(readdirSync(`${source}/below`)).toEqual([]);
  // As with runc, it holds for the mount only.
  expect(await app.sh("touch /ro/below/new", everything)).toMatchObject({ exitCode: 0 });
  expect(readdirSync(`${source}/below`)).toEqual(["new"]);
  await app.remove();
});

test("mounts below the source are seen with rbind and not with bind; rslave follows what the host mounts later", async () => {
  const source = volume("nested");
  mkdirSync(`${source}/disk`);
  mkdirSync(`${source}/later`);
  execFileSync("mount", ["--bind", "--make-private", source, source]);
  execFileSync("mount", ["--make-shared", source]);
  execFileSync("mount", ["-t", "tmpfs", "none", `${source}/disk`]);
  writeFileSync(`${source}/disk/file`, "below\n");
  const app = await pod.start("nested", {
    mounts: [
      bind(source, "/with", "rprivate"),
      { destination: "/without", type: "bind", source, options: ["bind"] },
      bind(source, "/slave", "rslave"),
    ],
  });

  const seen = await app.sh("cat /with/disk/file /slave/disk/file; ls /without/disk; ls /slave/later");
  expect(seen.output).toBe("below\nbelow\n");
  execFileSync("mount", ["-t", "tmpfs", "none", `${source}/later`]);
  writeFileSync(`${source}/later/file`, "late\n");
  await vi.waitFor(
    async () => expect((await app.sh("cat /slave/later/file; ls /with/later")).output).toBe("late\n"),
    waitFor,
  );
  // What the guest has looked at is in use.
  execFileSync("umount", ["--lazy", `${source}/later`]);
  await vi.waitFor(async () => expect((await app.sh("ls /slave/later")).output).toBe(""), waitFor);
  await app.remove();
});

test("the atomic update of a configMap becomes visible; a subPath file stays what it was", async () => {
  // As the kubelet writes it.
  const source = volume("config-map");
  const write = (version: string) => {
    mkdirSync(`${source}/..${version}`);
    writeFileSync(`${source}/..${version}/key`, `${version}\n`);
    symlinkSync(`..${version}`, `${source}/..data_tmp`);
    renameSync(`${source}/..data_tmp`, `${source}/..data`);
  };
  write("v1");
  symlinkSync("..data/key", `${source}/key`);
  const app = await pod.start("config-map", {
    mounts: [bind(source, "/config", "ro"), bind(`${source}/key`, "/subpath", "ro")],
  });

  expect((await app.sh("cat /config/key /subpath")).output).toBe("v1\nv1\n");
  write("v2");
  await vi.waitFor(
    async () => expect((await app.sh("cat /config/key /subpath")).output).toBe("v2\nv1\n"),
    waitFor,
  );
  await app.remove();
});

test("200 binds in one container, directories and files", async () => {
  const numbers = Array.from({ length: 200 }, (_, index) => index);
  const source = volume("many");
  for (const number of numbers) {
    if (number % 2 === 0) mkdirSync(`${source}/${number}`);
    writeFileSync(number % 2 === 0 ? `${source}/${number}/name` : `${source}/${number}`, `${number}\n`);
  }
  const files = numbers.map((number) => `/many/${number}${number % 2 === 0 ? "/name" : ""}`);
  const beginMs = performance.now();
  const app = await pod.create("many", ["cat", ...files], {
    mounts: numbers.map((number) =>
      bind(`${source}/${number}`, `/many/${number}`, number % 4 < 2 ? "ro" : "rw"),
    ),
  });
  console.info(`200 binds: created in ${Math.round(performance.now() - beginMs)} ms`);
  await app.container.start("");

  expect(await app.container.init.wait()).toMatchObject({ exitCode: 0 });
  expect(app.output()).toBe(numbers.map((number) => `${number}\n`).join(""));
  const endMs = performance.now();
  await app.container.delete("");
  console.info(`deleted in ${Math.round(performance.now() - endMs)} ms`);
});

test("an image volume: a read-only overlay, as containerd mounts it", async () => {
  const lower = ["lower-a", "lower-b"].map((name) => volume(name, { [name]: `${name}\n` }));
  const source = volume("image-volume");
  execFileSync("mount", ["-t", "overlay", "-o", `ro,lowerdir=${lower.join(":")}`, "overlay", source]);

  const result = await pod.run("image-volume", "cat /image/*; touch /image/x", {
    mounts: [bind(source, "/image", "ro")],
  });
  expect(result.output).toMatch(/^lower-a\nlower-b\ntouch: .*Read-only file system\n$/);
});

test("tmpfs has its size and mode; mounts lie below each other, on new and existing places", async () => {
  const source = volume("outer", { file: "outer\n" });
  mkdirSync(`${source}/inner`);
  const inner = volume("inner", { file: "inner\n" });
  const result = await pod.run(
    "tmpfs",
    "df -k /scratch | tail -1; stat -c %a /scratch; cat /outer/file /outer/inner/file /scratch/in/file; ls /new/place",
    {
      mounts: [
        { destination: "/scratch", type: "tmpfs", source: "tmpfs", options: ["size=1m", "mode=1700"] },
        bind(source, "/outer"),
        bind(inner, "/outer/inner"),
        bind(inner, "/scratch/in"),
        bind(inner, "/new/place"),
      ],
    },
  );

  expect(result.output).toMatch(/tmpfs\s+1024\s/);
  expect(result.output).toContain("1700\nouter\ninner\ninner\nfile\n");
});

test("emptyDir: on disk and in memory, one for all containers of the pod", async () => {
  const disk = volume("empty-disk");
  const memory = volume("empty-memory");
  execFileSync("mount", ["-t", "tmpfs", "-o", "size=4m", "none", memory]);
  const mounts = [bind(disk, "/disk"), bind(memory, "/memory")];
  const a = await pod.start("empty-a", { mounts });
  const b = await pod.start("empty-b", { mounts });

  await a.sh("echo d >/disk/file; echo m >/memory/file");
  await vi.waitFor(
    async () => expect((await b.sh("cat /disk/file /memory/file")).output).toBe("d\nm\n"),
    waitFor,
  );
  expect((await b.sh("dd if=/dev/zero of=/memory/big bs=1M count=5 2>&1")).output).toContain("No space left");
  await a.remove();
  await b.remove();
});

test("containers of a pod meet in a volume: what one listens on, the other connects to", async () => {
  const source = volume("meeting");
  const a = await pod.start("meet-a", { mounts: [bind(source, "/vol")] });
  const b = await pod.start("meet-b", { mounts: [bind(source, "/other/vol")] });

  // syslogd makes its socket where the link leads.
  await a.sh("ln -s /vol/log /dev/log; syslogd -O /vol/messages");
  expect(await b.sh("ln -s /other/vol/log /dev/log; logger met")).toEqual({ exitCode: 0, output: "" });
  await vi.waitFor(
    async () => expect((await b.sh("cat /other/vol/messages")).output).toMatch(/met\n$/),
    waitFor,
  );
  await a.remove();
  expect((await b.sh("cat /other/vol/messages")).output).toMatch(/met\n$/);
  await b.remove();
  expect(readdirSync(source).sort()).toEqual(["log", "messages"]);
});

test("a hostile root file system: no mount, file or directory is made outside of it", async () => {
  const root = pod.dir.join("hostile");
  makeBusyboxRoot(root);
  const victim = volume("victim", { precious: "host" });
  const source = volume("payload", { file: "payload\n" });
  for (const [link, target] of [
    ["climbing", "../../../../../../../../../../tmp"],
    ["root", "/"],
    ["volume", victim],
    ["agent", "/run/caisson/shared"],
    ["loop", "loop"],
  ])
    symlinkSync(target ?? "", `${root}/${link}`);
  const hostile = (path: string) => ({ root: { path: root }, mounts: [bind(source, path)] });

  // Links are resolved inside, as with runc.
  for (const [path, seen] of [
    ["/climbing/a", "/tmp/a"],
    ["/root/b", "/b"],
  ] as const) {
    const result = await pod.run(
      `hostile${seen.replace("/", "-").replace("/", "-")}`,
      `cat ${seen}/file`,
      hostile(path),
    );
    expect(result.output).toBe("payload\n");
  }
  for (const link of ["volume", "agent", "loop"]) {
    await expect(pod.run(`hostile-${link}`, "true", hostile(`/${link}`))).rejects.toThrow(`\`${link}\``);
  }
  expect(readdirSync(victim)).toEqual(["precious"]);
  expect((await pod.run("after", "echo works")).output).toBe("works\n");
});

test("a source that is swapped for a link to the host's secrets is mounted as what it was, or refused", async () => {
  const secret = volume("secret", { key: "SECRET\n" });
  const source = pod.dir.join("racing");
  symlinkSync(secret, source);
  // The link itself is the operator's: it is followed once, and what it named stays mounted.
  const app = await pod.start("racing", { mounts: [bind(source, "/racing")] });
  execFileSync("ln", ["-sfn", "/etc", source]);

  expect((await app.sh("ls /racing")).output).toBe("key\n");
  await app.remove();
});

test.each([
  {
    what: "a socket",
    make: (path: string) => closeSync(loadNative().listenUnix(path)),
  },
  { what: "a FIFO", make: (path: string) => execFileSync("mkfifo", [path]) },
])("$what is refused by name", async ({ what, make }) => {
  const path = pod.dir.join(what.replace(" ", "-"));
  make(path);

  await expect(pod.start("refused", { mounts: [bind(path, "/x")] })).rejects.toMatchObject({
    code: "invalid_argument",
    message: expect.stringContaining(path),
  });
  execFileSync("rm", ["-r", pod.dir.join("bundles/b-refused")]);
});

function capabilities(...names: string[]) {
  return { bounding: names, effective: names, permitted: names };
}
