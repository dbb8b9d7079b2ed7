/**
 * A VM does not keep the program that holds it running: one that forgets to close it comes to its end, and the VM with
 * it. What somebody waits for does.
 */
let pending = 0;
let timer: NodeJS.Timeout | undefined;

// The longest time that a timer can have; it has nothing to do.
const longestMs = 2 ** 31 - 1;

/** Keeps the program running until `work` has settled; returns `work`. */
export function keepAlive<T>(work: Promise<T>): Promise<T> {
  pending++;
  timer ??= setInterval(() => {}, longestMs);
  const settled = () => {
    if (--pending > 0) return;
    clearInterval(timer);
    timer = undefined;
  };
  work.then(settled, settled);
  return work;
}
