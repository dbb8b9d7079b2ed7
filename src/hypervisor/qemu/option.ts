export type Properties = Readonly<Record<string, string | number>>;

/** `head,key=value,…` as QEMU's option parser reads it. The only place that writes a comma, and that escapes one. */
export function option(head: string | undefined, properties: Properties): string {
  const pairs = Object.entries(properties).map(
    ([key, value]) => `${key}=${String(value).replaceAll(",", ",,")}`,
  );
  return [...(head === undefined ? [] : [head]), ...pairs].join(",");
}
