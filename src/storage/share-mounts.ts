import { closeSync, openSync, statSync } from "node:fs";
import { join } from "node:path";
import { RuntimeError } from "../base/errors.ts";
import type { MountTree } from "./mount-tree.ts";
import { detach } from "./mount.ts";

/**
 * The mounts of a share, which are in the mount namespace of its server only: there the share is the root. In the host's own
 * namespace a copy of what is mounted below a volume would keep the mount points busy, so that the host could not remove
 * them (vfs_rmdir of the kernel: is_local_mountpoint). All of them go with the namespace's last process.
 */
export class ShareMounts implements Disposable {
  readonly #share: string;
  readonly #namespace = Promise.withResolvers<number>();
  #fd: number | undefined;

  constructor(share: string) {
    this.#share = share;
    this.#namespace.promise.catch(() => {
      // Whoever waits for it is told.
    });
  }

  /**
   * Tells who the server is: a process that has made the share its root. What was attached before has waited for this.
   *
   * @throws internal  it has another root
   */
  serve(pid: number): void {
    const [root, share] = [`/proc/${pid}/root`, this.#share].map((path) => statSync(path, { bigint: true }));
    if (root === undefined || root.dev !== share?.dev || root.ino !== share.ino) {
      throw new RuntimeError("internal", `Cannot mount in process ${pid}: "${this.#share}" is not its root`);
    }
    this.#fd = openSync(`/proc/${pid}/ns/mnt`, "r");
    this.#namespace.resolve(this.#fd);
  }

  /** Attaches a tree on `path` in the share, a file or directory as its root is. The tree stays the caller's to dispose. */
  async attach(tree: MountTree, path: string): Promise<void> {
    tree.attach(join("/", path), await this.#namespace.promise);
  }

  /** Detaches what is mounted at `path` in the share. Success when nothing is. */
  detach(path: string): void {
    if (this.#fd !== undefined) detach(join("/", path), this.#fd);
  }

  /** Nothing is attached from now on; what waits for the server fails with the reason. Idempotent. */
  close(reason: unknown): void {
    this.#namespace.reject(reason);
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#fd = undefined;
  }

  [Symbol.dispose](): void {
    this.close(new RuntimeError("unavailable", `"${this.#share}" is not served any more`));
  }
}
