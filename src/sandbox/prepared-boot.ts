import { isDeepStrictEqual } from "node:util";
import { RuntimeError } from "../base/errors.ts";
import { loadSpec, type Spec } from "../oci/spec.ts";

/**
 * The boot of a VM for a container that has been announced, and that nobody has asked for yet. Whoever creates the container takes it
 * when the bundle still says the same. The owner ends it by `abort`, and then has what became of `booted` to release.
 */
export class PreparedBoot<Booted> {
  readonly booted: Promise<Booted>;
  readonly #spec: Promise<Spec>;
  readonly #controller = new AbortController();

  /** @param boot  is not called when the bundle cannot be read */
  constructor(bundle: string, boot: (spec: Spec, signal: AbortSignal) => Promise<Booted>) {
    this.#spec = loadSpec(bundle);
    this.booted = this.#spec.then((spec) => boot(spec, this.#controller.signal));
    this.booted.catch(() => {
      // Whoever creates the container finds the same fault.
    });
  }

  /** Whether it is the boot that a container of this specification asks for. */
  async suits(spec: Spec): Promise<boolean> {
    return isDeepStrictEqual(await this.#spec.catch(() => undefined), spec);
  }

  /** The container has been asked for: what ends the request ends the boot. */
  take(signal: AbortSignal): Promise<Booted> {
    const onAbort = () => this.#controller.abort(signal.reason);
    if (signal.aborted) onAbort();
    signal.addEventListener("abort", onAbort, { once: true });
    return this.booted.finally(() => signal.removeEventListener("abort", onAbort));
  }

  abort(): void {
    this.#controller.abort(
      new RuntimeError("canceled", "Cannot boot the VM: the container that it was for does not come"),
    );
  }
}
