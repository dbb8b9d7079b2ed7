import { resolve } from "node:path";
import { RuntimeError } from "../base/errors.ts";

/** Where an image comes from, as the user named it; paths are absolute. */
export type ImageReference =
  | { readonly transport: "oci"; readonly directory: string; readonly tag: string | undefined }
  | { readonly transport: "oci-archive"; readonly file: string }
  | { readonly transport: "docker-archive"; readonly file: string }
  | { readonly transport: "rootfs"; readonly directory: string }
  | { readonly transport: "docker"; readonly name: string };

const tagPattern = /^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$/;

// The grammar of distribution/reference: [host[:port]/]path[:tag][@digest]; skopeo fills in Docker Hub and "latest".
const component = "[a-z0-9]+(?:(?:\\.|_|__|-+)[a-z0-9]+)*";
const host = "(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\\[[0-9a-fA-F:]+\\])(?::[0-9]{1,5})?";
const registryPattern = new RegExp(
  `^(?:${host}/)?${component}(?:/${component})*(?::[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(?:@sha256:[a-f0-9]{64})?$`,
);

/**
 * Parses IMAGE: `oci:DIR[:TAG]`, `oci-archive:FILE`, `docker-archive:FILE`, `rootfs:DIR`, or the name of an image in
 * a registry, with or without `docker://`.
 *
 * @throws invalid_argument
 */
export function parseImageReference(text: string): ImageReference {
  const refuse = (fact: string) =>
    new RuntimeError("invalid_argument", `Cannot use image ${JSON.stringify(text.slice(0, 300))}: ${fact}`);
  const [, transport = "", rest = ""] = /^(oci|oci-archive|docker-archive|rootfs):(.*)$/s.exec(text) ?? [];
  // oxlint-disable-next-line no-control-regex -- they are what is looked for
  if (/[\0-\x1f\x7f]/.test(text)) throw refuse("it holds a control character");
  switch (transport) {
    case "oci": {
      const [directory = "", tag, ...more] = rest.split(":");
      if (directory === "" || more.length > 0)
        throw refuse("expected oci:DIRECTORY[:TAG], the directory without a colon");
      if (tag !== undefined && !tagPattern.test(tag)) throw refuse(`"${tag}" is not a tag`);
      return { transport, directory: resolve(directory), tag };
    }
    case "oci-archive":
    case "docker-archive":
      if (rest === "" || rest.includes(":"))
        throw refuse(`expected ${transport}:FILE, the file without a colon`);
      return { transport, file: resolve(rest) };
    case "rootfs":
      if (rest === "") throw refuse("expected rootfs:DIRECTORY");
      return { transport, directory: resolve(rest) };
    default: {
      const name = text.replace(/^docker:\/\//, "");
      if (name.length > 400 || !registryPattern.test(name)) {
        throw refuse(
          "expected oci:DIR[:TAG], oci-archive:FILE, docker-archive:FILE, rootfs:DIR or a name such as busybox:latest",
        );
      }
      return { transport: "docker", name };
    }
  }
}

/** The reference in skopeo's words (containers-transports(5)). */
export function skopeoSource(reference: Exclude<ImageReference, { transport: "rootfs" }>): string {
  switch (reference.transport) {
    case "oci":
      return `oci:${reference.directory}${reference.tag === undefined ? "" : `:${reference.tag}`}`;
    case "oci-archive":
    case "docker-archive":
      return `${reference.transport}:${reference.file}`;
    case "docker":
      return `docker://${reference.name}`;
  }
}
