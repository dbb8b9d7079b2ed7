import { createHash, randomBytes } from "node:crypto";
import { mkdir, readdir, rename, stat } from "node:fs/promises";
import { join } from "node:path";
import { runChild } from "../base/child.ts";
import { errnoOf, RuntimeError } from "../base/errors.ts";
import { ignore, readRegularFile, systemErrorCode, writeFileAtomic } from "../base/files.ts";
import { parseObject, property } from "../base/json.ts";
import { identify, isAlive } from "../base/processes.ts";
import { removeTree } from "../storage/remove-tree.ts";
import { emptyImageConfig, type ImageConfig, parseImageConfig } from "./config.ts";
import { chooseEntry, readImageConfigText, readLayout } from "./layout.ts";
import { type ImageReference, parseImageReference, skopeoSource } from "./reference.ts";

/** An image that is ready to run. */
export interface Image {
  /** As the user named it. */
  readonly name: string;
  /** Its unpacked files. */
  readonly rootfs: string;
  /** `layered`: never written to, containers get a layer of their own; `direct`: a directory that is used as it is. */
  readonly kind: "layered" | "direct";
  readonly config: ImageConfig;
}

export interface ImageOptions {
  readonly imagesDirectory: string;
  readonly signal: AbortSignal;
  /** Tells the user what is going on. */
  readonly report: (text: string) => void;
  /** Shows the progress of a fetch on our stderr. */
  readonly showsProgress?: boolean;
  /** Our environment: a registry may need the user's proxy and login. */
  readonly environment: Readonly<Record<string, string | undefined>>;
}

const maxRecordBytes = 4 * 1024 * 1024;
const registryVariables = [
  "HOME",
  "XDG_RUNTIME_DIR",
  "REGISTRY_AUTH_FILE",
  "SSL_CERT_FILE",
  "SSL_CERT_DIR",
  "HTTP_PROXY",
  "HTTPS_PROXY",
  "NO_PROXY",
  "http_proxy",
  "https_proxy",
  "no_proxy",
];

/**
 * Makes an image ready: copies it (skopeo) and unpacks it (umoci) unless that was done before. Unpacked images are
 * kept under their manifest's digest, `<imagesDirectory>/<digest>/{rootfs,config.json}`; an image from a registry is
 * fetched once per name.
 *
 * @throws invalid_argument, not_found, unavailable (skopeo or umoci failed), canceled
 */
export async function openImage(name: string, options: ImageOptions): Promise<Image> {
  const reference = parseImageReference(name);
  if (reference.transport === "rootfs") return openDirectory(name, reference.directory);
  if (/[:,\\]/.test(options.imagesDirectory)) {
    throw new RuntimeError(
      "invalid_argument",
      `Cannot keep images in "${options.imagesDirectory}": the path must not hold a colon, comma or backslash`,
    );
  }
  const known = await knownDigest(name, reference, options.imagesDirectory);
  if (known !== undefined) {
    const image = await openUnpacked(name, known, options.imagesDirectory);
    if (image !== undefined) return image;
  }
  const digest = await fetchImage(name, reference, options);
  if (reference.transport === "docker") await rememberDigest(reference.name, digest, options.imagesDirectory);
  const image = await openUnpacked(name, digest, options.imagesDirectory);
  if (image === undefined)
    throw new RuntimeError("internal", `Cannot use image "${name}": it vanished after it was unpacked`);
  return image;
}

async function openDirectory(name: string, directory: string): Promise<Image> {
  const status = await stat(directory).catch((cause: unknown) => {
    throw new RuntimeError(systemErrorCode(cause), `Cannot use image "${name}"`, { cause });
  });
  if (!status.isDirectory())
    throw new RuntimeError("invalid_argument", `Cannot use image "${name}": it is not a directory`);
  return { name, rootfs: directory, kind: "direct", config: emptyImageConfig };
}

/** The manifest's digest where it can be told without copying the image. */
async function knownDigest(name: string, reference: ImageReference, imagesDirectory: string) {
  if (reference.transport === "oci") {
    const entries = await readLayout(reference.directory).catch((cause: unknown) => {
      const code = cause instanceof RuntimeError ? cause.code : "internal";
      throw new RuntimeError(code, `Cannot use image "${name}"`, { cause });
    });
    const entry = chooseEntry(entries, reference.tag, name);
    return entry.isManifest ? entry.digest : undefined;
  }
  if (reference.transport !== "docker") return undefined;
  const text = await readRegularFile(referencePath(reference.name, imagesDirectory), maxRecordBytes).catch(
    ifMissing,
  );
  const digest = property(parseObject(text?.toString("utf8") ?? ""), "digest");
  return typeof digest === "string" && /^[a-f0-9]{64}$/.test(digest) ? digest : undefined;
}

async function rememberDigest(name: string, digest: string, imagesDirectory: string): Promise<void> {
  await mkdir(join(imagesDirectory, "references"), { recursive: true, mode: 0o700 });
  await writeFileAtomic(referencePath(name, imagesDirectory), JSON.stringify({ name, digest }));
}

function referencePath(name: string, imagesDirectory: string): string {
  return join(imagesDirectory, "references", `${createHash("sha256").update(name).digest("hex")}.json`);
}

async function openUnpacked(
  name: string,
  digest: string,
  imagesDirectory: string,
): Promise<Image | undefined> {
  const directory = join(imagesDirectory, digest);
  const config = await readRegularFile(join(directory, "config.json"), maxRecordBytes).catch(ifMissing);
  if (config === undefined) return undefined;
  const rootfs = join(directory, "rootfs");
  return { name, rootfs, kind: "layered", config: parseImageConfig(config.toString("utf8"), name) };
}

/** Copies and unpacks into a directory of our own, then moves it into place in one step; returns the digest. */
async function fetchImage(
  name: string,
  reference: Exclude<ImageReference, { transport: "rootfs" }>,
  options: ImageOptions,
): Promise<string> {
  const { imagesDirectory, signal, report } = options;
  await mkdir(imagesDirectory, { recursive: true, mode: 0o700 });
  await removeAbandoned(imagesDirectory);
  const temporary = join(imagesDirectory, temporaryName());
  await mkdir(temporary, { mode: 0o700 });
  try {
    report(`fetching ${name}`);
    const isRemote = reference.transport === "docker";
    await runChild(
      // Signatures are a matter between the user and a registry; the user's own files need none.
      [
        "skopeo",
        ...(isRemote ? [] : ["--insecure-policy"]),
        "copy",
        skopeoSource(reference),
        "oci:layout:image",
      ],
      {
        action: `fetch image "${name}"`,
        cwd: temporary,
        showsProgress: options.showsProgress ?? false,
        signal,
        environment: isRemote ? pick(options.environment, registryVariables) : {},
      },
    );
    const layout = join(temporary, "layout");
    const { digest } = chooseEntry(await readLayout(layout), "image", name);
    const destination = join(imagesDirectory, digest);
    if (await exists(join(destination, "config.json"))) return digest;
    const config = await readImageConfigText(layout, digest);
    parseImageConfig(config, name);
    report(`unpacking ${name}`);
    const action = `unpack image "${name}"`;
    await runChild(["umoci", "raw", "unpack", "--image", "layout:image", "rootfs"], {
      action,
      cwd: temporary,
      signal,
    });
    await removeTree(layout);
    await writeFileAtomic(join(temporary, "config.json"), config);
    // Somebody else may have been faster with the same image: then theirs stays.
    await rename(temporary, destination).catch(ignore("ENOTEMPTY", "EEXIST"));
    return digest;
  } finally {
    await removeTree(temporary);
  }
}

/** Names the process that works there, so that what a killed one left can be told from what is in use. */
function temporaryName(): string {
  const startTicks = identify(process.pid)?.startTicks ?? "0";
  return `.tmp-${process.pid}-${startTicks}-${randomBytes(4).toString("hex")}`;
}

async function removeAbandoned(imagesDirectory: string): Promise<void> {
  for (const entry of await readdir(imagesDirectory)) {
    const match = /^\.tmp-(\d+)-(\d+)-[0-9a-f]+$/.exec(entry);
    const [, pid, startTicks] = match ?? [];
    if (pid === undefined || startTicks === undefined || isAlive({ pid: Number(pid), startTicks })) continue;
    await removeTree(join(imagesDirectory, entry));
  }
}

function pick(from: ImageOptions["environment"], names: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    names.flatMap((name) => {
      const value = from[name];
      return value === undefined ? [] : [[name, value]];
    }),
  );
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    (error: unknown) => {
      if (errnoOf(error) === "ENOENT") return false;
      throw error;
    },
  );
}

function ifMissing(error: unknown): undefined {
  if (error instanceof RuntimeError && error.code === "not_found") return undefined;
  throw error;
}
