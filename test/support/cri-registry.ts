/**
 * A read-only registry for an OCI layout whose tags are whole references ("registry.k8s.io/pause:3.10"):
 *
 *     node cri-registry.ts LAYOUT PORT
 *
 * Serves at 127.0.0.1 what containerd asks a mirror for, and prints a line when it does. It is a program so that it can
 * be started in a network namespace.
 *
 * Source: https://github.com/opencontainers/distribution-spec/blob/main/spec.md (pull), and containerd's `ns` parameter.
 */
import { createReadStream, existsSync, readFileSync, statSync } from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { join } from "node:path";

interface Descriptor {
  readonly mediaType: string;
  readonly digest: string;
  readonly annotations?: Readonly<Record<string, string>>;
}

const [layout = "", port = ""] = process.argv.slice(2);
const { manifests } = JSON.parse(readFileSync(join(layout, "index.json"), "utf8")) as {
  manifests: Descriptor[];
};

function answer(request: IncomingMessage, response: ServerResponse): void {
  const url = new URL(request.url ?? "", "http://registry");
  const [, name = "", kind = "", reference = ""] =
    /^\/v2\/(.+)\/(manifests|blobs)\/([^/]+)$/.exec(url.pathname) ?? [];
  const path = `${url.searchParams.get("ns")}/${name}`;
  const found =
    kind === "manifests"
      ? manifests.find(
          ({ digest, annotations }) =>
            digest === reference ||
            annotations?.["org.opencontainers.image.ref.name"] === `${path}:${reference}`,
        )
      : { mediaType: "application/octet-stream", digest: reference };
  if (url.pathname === "/v2/") response.writeHead(200).end();
  else if (found === undefined || !existsSync(blob(found.digest))) response.writeHead(404).end();
  else send(request, response, found);
}

function send(request: IncomingMessage, response: ServerResponse, { mediaType, digest }: Descriptor): void {
  response.writeHead(200, {
    "content-type": mediaType,
    "content-length": statSync(blob(digest)).size,
    "docker-content-digest": digest,
  });
  if (request.method === "HEAD") response.end();
  else createReadStream(blob(digest)).pipe(response);
}

function blob(digest: string): string {
  const [, hex = ""] = /^sha256:([0-9a-f]{64})$/.exec(digest) ?? [];
  return join(layout, "blobs/sha256", hex || "none");
}

createServer(answer).listen(Number(port), "127.0.0.1", () => process.stdout.write("serves\n"));
