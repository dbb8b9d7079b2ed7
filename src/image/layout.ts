import { join } from "node:path";
import { RuntimeError } from "../base/errors.ts";
import { readRegularFile } from "../base/files.ts";
import { parseObject, property } from "../base/json.ts";

/** An entry of an OCI layout's index (image-spec, image-layout.md). */
export interface LayoutEntry {
  readonly tag: string | undefined;
  /** 64 hexadecimal digits: only SHA-256 is in use. */
  readonly digest: string;
  /** False for an index of images for several machines. */
  readonly isManifest: boolean;
}

const manifestType = "application/vnd.oci.image.manifest.v1+json";
const maxDocumentBytes = 4 * 1024 * 1024;

/** Reads the index of an OCI layout. @throws not_found, invalid_argument */
export async function readLayout(directory: string): Promise<LayoutEntry[]> {
  const path = join(directory, "index.json");
  const manifests = property(parseObject(await readDocument(path)), "manifests");
  if (!Array.isArray(manifests)) throw invalid(path, 'it has no list "manifests"');
  return manifests.map((entry: unknown) => {
    const tag = property(property(entry, "annotations"), "org.opencontainers.image.ref.name");
    return {
      tag: typeof tag === "string" ? tag : undefined,
      digest: digestOf(entry, path),
      isManifest: property(entry, "mediaType") === manifestType,
    };
  });
}

/**
 * The entry that `tag` names; without a tag the only entry, or the one called "latest".
 *
 * @throws not_found
 */
export function chooseEntry(
  entries: readonly LayoutEntry[],
  tag: string | undefined,
  image: string,
): LayoutEntry {
  const [only, second] = entries;
  if (tag === undefined && only !== undefined && second === undefined) return only;
  const found = entries.find((entry) => entry.tag === (tag ?? "latest"));
  if (found !== undefined) return found;
  const tags = entries.flatMap((entry) => (entry.tag === undefined ? [] : [JSON.stringify(entry.tag)]));
  throw new RuntimeError(
    "not_found",
    `Cannot use image "${image}": no image is tagged "${tag ?? "latest"}", ${tags.length === 0 ? "none has a tag" : `the tags are ${tags.slice(0, 20).join(", ")}`}`,
  );
}

/** The text of the image configuration that a manifest of the layout names. @throws not_found, invalid_argument */
export async function readImageConfigText(directory: string, manifestDigest: string): Promise<string> {
  const path = blobPath(directory, manifestDigest);
  const config = property(parseObject(await readDocument(path)), "config");
  return readDocument(blobPath(directory, digestOf(config, path)));
}

function blobPath(directory: string, digest: string): string {
  return join(directory, "blobs/sha256", digest);
}

async function readDocument(path: string): Promise<string> {
  return (await readRegularFile(path, maxDocumentBytes)).toString("utf8");
}

function digestOf(descriptor: unknown, path: string): string {
  const digest = property(descriptor, "digest");
  const hex = typeof digest === "string" ? /^sha256:([a-f0-9]{64})$/.exec(digest)?.[1] : undefined;
  if (hex === undefined)
    throw invalid(path, `the digest ${JSON.stringify(digest)?.slice(0, 100)} is not a SHA-256 one`);
  return hex;
}

function invalid(path: string, fact: string): RuntimeError {
  return new RuntimeError("invalid_argument", `Cannot use the OCI layout file "${path}": ${fact}`);
}
