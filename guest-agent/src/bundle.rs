//! The bundle that crun reads, made from the host's OCI configuration.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::cgroup::Cgroup;
use crate::console::Size;
use crate::error::{Context, Error, Result};

/// The wanted terminal with its size, if any.
pub type Terminal = Option<Size>;

const DIRECTORY: &str = "/run/caisson/bundles";

/// What the agent adds to a configuration.
#[derive(Default)]
pub struct Additions {
    /// Types of namespaces with the paths of those that are joined.
    pub namespaces: Vec<(String, String)>,
    /// Device nodes.
    pub devices: Vec<Device>,
    /// Directory of the notify socket, if there is one.
    pub notify: Option<String>,
    /// Further variables of the process.
    pub environment: Vec<String>,
}

/// A device node with the access that the container gets to it.
pub struct Device {
    /// In the container.
    pub path: String,
    /// "b" or "c".
    pub kind: &'static str,
    /// Of the guest's device.
    pub major: u64,
    /// Of the guest's device.
    pub minor: u64,
    /// Permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Owner.
    pub gid: u32,
    /// Letters of "rwm".
    pub access: &'static str,
}

/// A bundle directory, removed when dropped.
pub struct Bundle(PathBuf);

impl Bundle {
    /// Writes the bundle of the container `id`. The configuration keeps its values, only the terminal, the cgroup and the additions are ours to say.
    pub fn create(id: &str, config: &[u8], terminal: Terminal, additions: &Additions) -> Result<Self> {
        let config = adapt_config(id, config, terminal, additions)?;
        let path = Path::new(DIRECTORY).join(id);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(DIRECTORY)
            .context(|| format!("create {DIRECTORY}"))?;
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .context(|| format!("create {}", path.display()))?;
        let bundle = Self(path);
        fs::write(bundle.0.join("config.json"), config)
            .context(|| format!("write the configuration of container \"{id}\""))?;
        Ok(bundle)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Bundle {
    /// Known names only: nothing is deleted that might lie behind a mount.
    fn drop(&mut self) {
        let _ = fs::remove_file(self.0.join("config.json"));
        if let Err(error) = fs::remove_dir(&self.0) {
            crate::log::warn(&format!("Cannot remove {}: {error}", self.0.display()));
        }
    }
}

/// Adapts an OCI configuration.
pub fn adapt_config(id: &str, config: &[u8], terminal: Terminal, additions: &Additions) -> Result<Vec<u8>> {
    let mut config = parse_object("the OCI configuration", config)?;
    let root = config
        .get("root")
        .and_then(|root| root.get("path"))
        .and_then(Value::as_str);
    if !root.is_some_and(|path| path.starts_with('/') && path.len() > 1) {
        return Err(Error::InvalidArgument(format!(
            "Cannot create container \"{id}\": root.path must be an absolute guest path"
        )));
    }
    let process = object(&mut config, "process")?;
    check_user(process)?;
    set_terminal(process, terminal);
    let linux = object(&mut config, "linux")?;
    linux.insert("cgroupsPath".into(), Value::String(Cgroup::oci_path(id)));
    add_namespaces(linux, &additions.namespaces)?;
    add_devices(linux, &additions.devices)?;
    if let Some(directory) = &additions.notify {
        add_notify(&mut config, directory)?;
    }
    for variable in &additions.environment {
        push(object(&mut config, "process")?, "env", json!(variable))?;
    }
    to_bytes(&config)
}

/// As runc does it.
fn add_notify(config: &mut Map<String, Value>, directory: &str) -> Result<()> {
    let mount = json!({ "destination": "/run/notify", "type": "bind", "source": directory,
        "options": ["bind", "nosuid", "nodev", "noexec", "ro"] });
    push(config, "mounts", mount)?;
    let process = object(config, "process")?;
    push(process, "env", json!("NOTIFY_SOCKET=/run/notify/notify.sock"))
}

/// Adds to a list that need not be there.
fn push(object: &mut Map<String, Value>, name: &str, item: Value) -> Result<()> {
    let list = object.entry(name).or_insert_with(|| Value::Array(Vec::new()));
    let list = list
        .as_array_mut()
        .ok_or_else(|| Error::InvalidArgument(format!("Cannot use the OCI configuration: \"{name}\" is no list")))?;
    list.push(item);
    Ok(())
}

fn add_namespaces(linux: &mut Map<String, Value>, namespaces: &[(String, String)]) -> Result<()> {
    if namespaces.is_empty() {
        return Ok(());
    }
    let list = list(linux, "namespaces")?;
    list.extend(
        namespaces
            .iter()
            .map(|(name, path)| json!({ "type": name, "path": path })),
    );
    Ok(())
}

fn add_devices(linux: &mut Map<String, Value>, devices: &[Device]) -> Result<()> {
    if devices.is_empty() {
        return Ok(());
    }
    list(linux, "devices")?.extend(devices.iter().map(|device| {
        json!({
            "path": device.path, "type": device.kind, "major": device.major, "minor": device.minor,
            "fileMode": device.mode, "uid": device.uid, "gid": device.gid,
        })
    }));
    // Without rules everything is allowed.
    let resources = linux.get_mut("resources").and_then(Value::as_object_mut);
    let rules = resources.and_then(|resources| resources.get_mut("devices"));
    if let Some(rules) = rules.and_then(Value::as_array_mut).filter(|rules| !rules.is_empty()) {
        rules.extend(devices.iter().map(|device| {
            json!({
                "allow": true, "type": device.kind, "major": device.major, "minor": device.minor, "access": device.access,
            })
        }));
    }
    Ok(())
}

/// The list called `name`, made when missing.
fn list<'a>(linux: &'a mut Map<String, Value>, name: &str) -> Result<&'a mut Vec<Value>> {
    let value = linux.entry(name).or_insert(Value::Null);
    if value.is_null() {
        *value = Value::Array(Vec::new());
    }
    value
        .as_array_mut()
        .ok_or_else(|| Error::InvalidArgument(format!("Cannot use the OCI configuration: \"linux.{name}\" is no list")))
}

/// Adapts an OCI `Process`.
pub fn adapt_process(process: &[u8], terminal: Terminal) -> Result<Vec<u8>> {
    let mut process = parse_object("the OCI process", process)?;
    if process.get("args").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        return Err(Error::InvalidArgument(
            "Cannot use the OCI process: it has no arguments".into(),
        ));
    }
    check_user(&process)?;
    set_terminal(&mut process, terminal);
    to_bytes(&process)
}

/// Refuses what is not a JSON object, for data that is passed on as it came.
pub fn check_object(what: &str, data: &[u8]) -> Result<()> {
    parse_object(what, data).map(drop)
}

/// Integers of 64 bits keep their value; nesting is bounded by the parser (128).
fn parse_object(what: &str, data: &[u8]) -> Result<Map<String, Value>> {
    serde_json::from_slice(data).map_err(|error| Error::InvalidArgument(format!("Cannot parse {what}: {error}")))
}

fn object<'a>(config: &'a mut Map<String, Value>, name: &str) -> Result<&'a mut Map<String, Value>> {
    config.get_mut(name).and_then(Value::as_object_mut).ok_or_else(|| {
        Error::InvalidArgument(format!(
            "Cannot use the OCI configuration: \"{name}\" is missing or no object"
        ))
    })
}

/// Refuses user and group ids that the kernel reads as "leave unchanged", which would be root.
fn check_user(process: &Map<String, Value>) -> Result<()> {
    let user = process.get("user");
    for name in ["uid", "gid"] {
        let id = user.and_then(|user| user.get(name));
        if id.is_some_and(|id| id.as_u64().is_none_or(|id| id >= u64::from(u32::MAX))) {
            return Err(Error::InvalidArgument(format!(
                "Cannot use the OCI process: user.{name} must be 0..=4294967294"
            )));
        }
    }
    Ok(())
}

/// The request's word overrides the configuration's. crun sets the size before the process runs; without a terminal a
/// size makes no sense.
fn set_terminal(process: &mut Map<String, Value>, terminal: Terminal) {
    process.insert("terminal".into(), Value::Bool(terminal.is_some()));
    match terminal {
        None => {
            process.remove("consoleSize");
        }
        Some(size) if size != Size::default() => {
            process.insert(
                "consoleSize".into(),
                json!({ "width": size.columns, "height": size.rows }),
            );
        }
        Some(_) => {}
    }
}

fn to_bytes(value: &Map<String, Value>) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| Error::Internal(format!("Cannot write JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapted(config: &[u8], additions: &Additions) -> Result<Vec<u8>> {
        adapt_config("c1", config, None, additions)
    }

    #[test]
    fn namespaces_and_devices_are_added_with_their_rules() {
        let additions = || Additions {
            notify: None,
            environment: vec!["LISTEN_FDS=1".into()],
            namespaces: vec![("ipc".into(), "/proc/1/fd/9".into())],
            devices: vec![Device {
                path: "/dev/data".into(),
                kind: "b",
                major: 254,
                minor: 16,
                mode: 0o660,
                uid: 1,
                gid: 2,
                access: "rm",
            }],
        };
        let config = |linux: &str| {
            let config = format!(r#"{{"root":{{"path":"/x"}},"process":{{}},"linux":{linux}}}"#);
            let bytes = adapted(config.as_bytes(), &additions())?;
            Ok::<Value, Error>(serde_json::from_slice(&bytes).expect("JSON"))
        };
        let got = config(r#"{"namespaces":[{"type":"mount"}],"resources":{"devices":[{"allow":false}]}}"#);
        let got = got.expect("a good configuration");
        assert_eq!(got["process"]["env"], json!(["LISTEN_FDS=1"]));
        let linux = &got["linux"];
        assert_eq!(
            linux["namespaces"],
            json!([{ "type": "mount" }, { "type": "ipc", "path": "/proc/1/fd/9" }])
        );
        assert_eq!(linux["devices"][0]["path"], "/dev/data");
        assert_eq!(
            linux["resources"]["devices"][1],
            json!({ "allow": true, "type": "b", "major": 254, "minor": 16, "access": "rm" })
        );

        let free = config(r#"{"resources":{}}"#).expect("a good configuration");
        assert!(free["linux"]["resources"]["devices"].is_null());
        assert!(config(r#"{"devices":{}}"#).is_err());
    }

    #[test]
    fn config_gets_terminal_and_cgroup_and_keeps_large_integers() {
        let config = br#"{"root":{"path":"/run/caisson/shared/c1/rootfs"},"process":{"args":["a"],"consoleSize":{}},
            "linux":{"cgroupsPath":"/host","resources":{"memory":{"limit":9223372036854771712,"swap":18446744073709551615}}}}"#;
        let text = String::from_utf8(adapted(config, &Additions::default()).expect("a good configuration"))
            .expect("JSON is UTF-8");
        assert!(text.contains("\"cgroupsPath\":\"/caisson/c1\""));
        assert!(text.contains("\"terminal\":false"));
        assert!(!text.contains("consoleSize"));
        assert!(text.contains("\"limit\":9223372036854771712") && text.contains("\"swap\":18446744073709551615"));
    }

    #[test]
    fn config_without_what_is_needed_is_refused() {
        for config in [
            "",
            "[]",
            "{}",
            r#"{"root":{"path":"rootfs"},"process":{},"linux":{}}"#,
            r#"{"root":{"path":"/"},"process":{},"linux":{}}"#,
            r#"{"root":{"path":"/x"},"linux":{}}"#,
            r#"{"root":{"path":"/x"},"process":{}}"#,
        ] {
            assert!(
                matches!(
                    adapted(config.as_bytes(), &Additions::default()),
                    Err(Error::InvalidArgument(_))
                ),
                "{config}"
            );
        }
    }

    #[test]
    fn user_ids_that_mean_unchanged_are_refused() {
        for user in [
            r#"{"uid":4294967295}"#,
            r#"{"gid":4294967295}"#,
            r#"{"uid":-1}"#,
            r#"{"uid":"0"}"#,
            r#"{"uid":1e3}"#,
            r#"{"uid":4294967296}"#,
        ] {
            let process = format!(r#"{{"args":["a"],"user":{user}}}"#);
            assert!(
                matches!(adapt_process(process.as_bytes(), None), Err(Error::InvalidArgument(_))),
                "{user}"
            );
        }
        assert!(adapt_process(br#"{"args":["a"],"user":{"uid":4294967294,"gid":0}}"#, None).is_ok());
    }

    #[test]
    fn process_needs_arguments() {
        assert!(adapt_process(br#"{"args":[]}"#, None).is_err());
        assert_eq!(
            adapt_process(
                br#"{"args":["a"],"terminal":false}"#,
                Some(Size { columns: 80, rows: 24 })
            )
            .ok(),
            Some(br#"{"args":["a"],"consoleSize":{"height":24,"width":80},"terminal":true}"#.to_vec())
        );
    }
}
