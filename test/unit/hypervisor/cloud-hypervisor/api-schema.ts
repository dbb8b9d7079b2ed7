/**
 * The part of Cloud Hypervisor's OpenAPI description (vmm/src/api/openapi/cloud-hypervisor.yaml of release 53) that our
 * requests touch: the properties by name with their types, and those that are required. Written by hand.
 */
type Type = "string" | "integer" | "boolean" | { readonly list: string } | { readonly object: string };

interface Schema {
  readonly required: readonly string[];
  readonly properties: Readonly<Record<string, Type>>;
}

export const schemas: Readonly<Record<string, Schema>> = {
  VmConfig: {
    required: ["payload"],
    properties: {
      cpus: { object: "CpusConfig" },
      memory: { object: "MemoryConfig" },
      payload: { object: "PayloadConfig" },
      disks: { list: "DiskConfig" },
      net: { list: "NetConfig" },
      rng: { object: "RngConfig" },
      fs: { list: "FsConfig" },
      serial: { object: "SerialConfig" },
      console: { object: "ConsoleConfig" },
      vsock: { object: "VsockConfig" },
      landlock_enable: "boolean",
      landlock_rules: { list: "LandlockConfig" },
    },
  },
  CpusConfig: {
    required: ["boot_vcpus", "max_vcpus"],
    properties: { boot_vcpus: "integer", max_vcpus: "integer", nested: "boolean" },
  },
  MemoryConfig: {
    required: ["size"],
    properties: { size: "integer", shared: "boolean", hotplug_method: "string", hotplug_size: "integer" },
  },
  PayloadConfig: { required: [], properties: { kernel: "string", cmdline: "string", initramfs: "string" } },
  DiskConfig: {
    required: [],
    properties: { id: "string", serial: "string", path: "string", readonly: "boolean", image_type: "string" },
  },
  FsConfig: {
    required: ["num_queues", "queue_size", "socket", "tag"],
    properties: {
      id: "string",
      tag: "string",
      socket: "string",
      num_queues: "integer",
      queue_size: "integer",
    },
  },
  NetConfig: {
    required: [],
    properties: { id: "string", mac: "string", num_queues: "integer", queue_size: "integer" },
  },
  LandlockConfig: { required: ["path", "access"], properties: { path: "string", access: "string" } },
  VmResize: { required: [], properties: { desired_vcpus: "integer", desired_ram: "integer" } },
  VmRemoveDevice: { required: [], properties: { id: "string" } },
  RngConfig: { required: ["src"], properties: { src: "string" } },
  SerialConfig: { required: ["mode"], properties: { mode: "string", socket: "string" } },
  ConsoleConfig: { required: ["mode"], properties: { mode: "string" } },
  VsockConfig: { required: ["cid", "socket"], properties: { cid: "integer", socket: "string" } },
};

/** What of a body is not as the description says. */
export function violations(body: unknown, name: string, path = name): string[] {
  const schema = schemas[name];
  if (schema === undefined) return [`${path}: there is no schema ${name}`];
  const entries = Object.entries(body as Record<string, unknown>);
  const given = new Set(entries.map(([key]) => key));
  return [
    ...schema.required.filter((key) => !given.has(key)).map((key) => `${path}.${key} is missing`),
    ...entries.flatMap(([key, value]) => check(value, schema.properties[key], `${path}.${key}`)),
  ];
}

function check(value: unknown, type: Type | undefined, path: string): string[] {
  if (type === undefined) return [`${path} is no property`];
  if (typeof type === "object" && "object" in type) return violations(value, type.object, path);
  if (typeof type === "object") {
    if (!Array.isArray(value)) return [`${path} is no list`];
    return value.flatMap((item, index) => violations(item, type.list, `${path}[${index}]`));
  }
  const fits = type === "integer" ? Number.isInteger(value) : typeof value === type;
  return fits ? [] : [`${path} is ${JSON.stringify(value)}, expected ${type}`];
}
