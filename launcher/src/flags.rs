//! The command line that containerd gives, in the syntax of Go's `flag`.

/// What was given. Absent texts are empty.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// Namespace of containerd.
    pub namespace: String,
    /// Id of the container.
    pub id: String,
    /// containerd's socket; empty when our own command line is the caller.
    pub address: String,
    /// Bundle directory.
    pub bundle: String,
    /// Whether the version is asked for.
    pub version: bool,
    /// Whether the runtime's description is asked for.
    pub info: bool,
    /// The first argument that is no flag.
    pub action: String,
}

/// Parses `-name value` and `-name=value`, with one dash or two, up to the action. Unknown flags are taken to have no value: a
/// later containerd may pass more. `src/shim/flags.ts` has the same rules.
pub fn parse(arguments: impl IntoIterator<Item = String>) -> Flags {
    let mut flags = Flags::default();
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let Some((name, value)) = split(&argument) else {
            flags.action = if argument == "--" {
                arguments.next().unwrap_or_default()
            } else {
                argument
            };
            break;
        };
        let on = || !matches!(value.map(str::to_lowercase).as_deref(), Some("0" | "f" | "false"));
        match name {
            "v" | "version" => flags.version = on(),
            "info" => flags.info = on(),
            "socket" | "debug-socket" | "publish-binary" if value.is_none() => drop(arguments.next()),
            _ => {
                let place = match name {
                    "namespace" => &mut flags.namespace,
                    "id" => &mut flags.id,
                    "address" => &mut flags.address,
                    "bundle" => &mut flags.bundle,
                    _ => continue,
                };
                *place = value
                    .map(str::to_owned)
                    .or_else(|| arguments.next())
                    .unwrap_or_default();
            }
        }
    }
    flags
}

/// Name and value of a flag, or nothing when it is none.
fn split(argument: &str) -> Option<(&str, Option<&str>)> {
    let name = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-'))?;
    if name.is_empty() || name.starts_with(['-', '=']) {
        return None;
    }
    Some(match name.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (name, None),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Flags {
        parse(text.split(' ').map(str::to_owned))
    }

    #[test]
    fn containerds_command_line() {
        let got =
            words("-namespace k8s.io -address /a.sock -publish-binary /bin/containerd -id c1 -bundle /b -debug delete");
        let want = Flags {
            namespace: "k8s.io".into(),
            id: "c1".into(),
            address: "/a.sock".into(),
            bundle: "/b".into(),
            action: "delete".into(),
            ..Flags::default()
        };
        assert_eq!(got, want);
    }

    #[test]
    fn other_ways_to_write_a_flag() {
        let got = words("--id=a=b -address= -future -info=false --v -- start");
        assert_eq!((got.id.as_str(), got.address.as_str()), ("a=b", ""));
        assert_eq!((got.info, got.version, got.action.as_str()), (false, true, "start"));
    }
}
