import { mkdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { expect, test } from "vitest";
import { findGuestFiles } from "../../../src/sandbox/guest-files.ts";
import { createTempDir, type TempDir } from "../../support/temp-dir.ts";

const debian = { name: "debian-cloud", acpi: true, initrd: "initrd" };
const tuned = { name: "tuned", acpi: false, initrd: null };

function write(dir: TempDir, files: Readonly<Record<string, unknown>>): string {
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(dirname(dir.join("guest", name)), { recursive: true });
    writeFileSync(dir.join("guest", name), typeof content === "string" ? content : JSON.stringify(content));
  }
  return dir.join("guest");
}

const standard = { "image.erofs": "", vmlinux: "", initrd: "", "kernel.json": debian };

test("the default kernel with its initrd; the tuned one, without, once it is there", async () => {
  await using dir = createTempDir();
  const guestDirectory = write(dir, standard);

  expect(findGuestFiles({ machine: "microvm", guestDirectory, kernelPath: "" })).toEqual({
    kernelPath: `${guestDirectory}/vmlinux`,
    initrdPath: `${guestDirectory}/initrd`,
    imagePath: `${guestDirectory}/image.erofs`,
    acpi: true,
    kernelName: "debian-cloud",
  });

  write(dir, { "tuned/vmlinux": "", "tuned/kernel.json": tuned });
  expect(findGuestFiles({ machine: "microvm", guestDirectory, kernelPath: "" })).toEqual({
    kernelPath: `${guestDirectory}/tuned/vmlinux`,
    initrdPath: undefined,
    imagePath: `${guestDirectory}/image.erofs`,
    acpi: false,
    kernelName: "tuned",
  });
});

test("q35 takes the default kernel, which has the ACPI that it needs to grow", async () => {
  await using dir = createTempDir();
  const guestDirectory = write(dir, { ...standard, "tuned/vmlinux": "", "tuned/kernel.json": tuned });

  expect(findGuestFiles({ machine: "q35", guestDirectory, kernelPath: "" }).acpi).toBe(true);
});

test("kernel_path wins; a kernel of the user's own gets the initrd and ACPI", async () => {
  await using dir = createTempDir();
  const guestDirectory = write(dir, {
    ...standard,
    "tuned/vmlinux": "",
    "tuned/kernel.json": tuned,
    "mine/bzImage": "",
  });

  expect(
    findGuestFiles({ machine: "microvm", guestDirectory, kernelPath: `${guestDirectory}/mine/bzImage` }),
  ).toEqual({
    kernelPath: `${guestDirectory}/mine/bzImage`,
    initrdPath: `${guestDirectory}/initrd`,
    imagePath: `${guestDirectory}/image.erofs`,
    acpi: true,
    kernelName: "bzImage",
  });
  expect(
    findGuestFiles({ machine: "microvm", guestDirectory, kernelPath: `${guestDirectory}/vmlinux` })
      .kernelName,
  ).toBe("debian-cloud");
});

test.each(["image.erofs", "vmlinux", "initrd"])(
  "a missing %s is named, with the way to get it",
  async (missing) => {
    await using dir = createTempDir();
    const { [missing as keyof typeof standard]: _missing, ...files } = standard;
    const guestDirectory = write(dir, files);

    expect(() => findGuestFiles({ machine: "microvm", guestDirectory, kernelPath: "" })).toThrow(
      expect.objectContaining({
        code: "not_found",
        message: expect.stringMatching(new RegExp(`"${guestDirectory}/${missing}".*make guest`)),
      }),
    );
  },
);

test.each([
  "",
  "null",
  "[]",
  "{",
  '"text"',
  { ...debian, acpi: "yes" },
  { ...debian, name: undefined },
  { ...debian, initrd: "../initrd" },
  { ...debian, initrd: ".." },
  { ...debian, initrd: "" },
  { name: "x", acpi: true },
])("kernel.json with %j is invalid_argument", async (content) => {
  await using dir = createTempDir();
  const guestDirectory = write(dir, { ...standard, "kernel.json": content });

  expect(() => findGuestFiles({ machine: "microvm", guestDirectory, kernelPath: "" })).toThrow(
    expect.objectContaining({ code: "invalid_argument", message: expect.stringContaining("kernel.json") }),
  );
});
