/**
 * Like `Promise.all`, but waits for all also when one has failed, so that nothing is still being made while the caller
 * cleans up. Throws the first failure in the order of the list.
 */
export async function settleAll<T extends readonly unknown[]>(
  work: {
    readonly [K in keyof T]: Promise<T[K]>;
  },
): Promise<T> {
  const results = await Promise.allSettled(work);
  for (const result of results) {
    if (result.status === "rejected") throw result.reason;
  }
  return results.map((result) => (result as PromiseFulfilledResult<unknown>).value) as unknown as T;
}
