use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use serde_json::Value;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;

use crate::bundle::{Additions, adapt_config, adapt_process, check_object};
use crate::console::Size;
use crate::error::Error;
use crate::ids;
use crate::polled;
use crate::stdio::frame::{Head, PAYLOAD_LIMIT, parse_head};
use crate::stdio::hello::{self as line, Target};
use crate::stdio::pump;
use crate::vsock::Stream;

/// More than any input has.
const PIPE_BYTES: i32 = 1024 * 1024;
const LIMIT: Duration = Duration::from_secs(5);

/// Stdin of a process as the host sends it, cut in two anywhere (the first byte says where): what arrives is what the
/// frames hold, up to the first one that is none.
pub fn frames(data: &[u8]) {
    let Some((&cut, wire)) = data.split_first() else { return };
    let wire = &wire[..wire.len().min(256 * 1024)];
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let received = runtime.block_on(pumped(wire, usize::from(cut) * wire.len() / 255));
    assert_eq!(received, payload_of(wire));
}

async fn pumped(wire: &[u8], cut: usize) -> Vec<u8> {
    let (mut host, guest) = UnixStream::pair().expect("a pair of sockets");
    let (reader, writer) = pipe();
    let sink = polled::register(writer, Interest::WRITABLE | Interest::ERROR).expect("a pipe can be polled");
    let send = async move {
        let (first, second) = wire.split_at(cut);
        // The other side closes at the first bad frame.
        if host.write_all(first).await.is_ok() {
            tokio::task::yield_now().await;
            let _ = host.write_all(second).await;
        }
        let _ = host.shutdown().await;
    };
    let both = async { tokio::join!(send, pump::input(sink, Stream(guest))) };
    tokio::time::timeout(LIMIT, both)
        .await
        .expect("stdin ends with its stream");
    drain(reader)
}

/// A reader that keeps its end open, and a writer that does not block.
fn pipe() -> (OwnedFd, OwnedFd) {
    let (reader, writer) = nix::unistd::pipe().expect("a pipe");
    for end in [&reader, &writer] {
        fcntl(end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("a flag");
    }
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES)).expect("a large pipe");
    (reader, writer)
}

fn drain(reader: OwnedFd) -> Vec<u8> {
    let mut received = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = nix::unistd::read(&reader, &mut buffer) {
        received.extend_from_slice(&buffer[..count]);
    }
    received
}

/// The same, read without the agent's loops.
fn payload_of(mut wire: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    while let Some((head, rest)) = wire.split_first_chunk::<4>() {
        let Some(Head::Data(length)) = parse_head(*head) else {
            break;
        };
        assert!((1..=PAYLOAD_LIMIT).contains(&length));
        payload.extend_from_slice(&rest[..length.min(rest.len())]);
        wire = &rest[length.min(rest.len())..];
    }
    payload
}

/// The line that opens a stream: one that is taken is exactly the one that says the same.
pub fn hello(data: &[u8]) {
    let Ok(hello) = line::parse(data) else { return };
    let token: String = hello.token.iter().map(|byte| format!("{byte:02x}")).collect();
    let words = match hello.target {
        Target::Tcp(port) => format!("tcp {port}"),
        Target::TcpOutput(number) => format!("tcp-output {number}"),
        Target::Descriptor {
            container_id,
            exec_id,
            number,
        } => format!("{} {number}", owner(&container_id, &exec_id)),
        Target::Stdio(stream) => {
            let kind = format!("{:?}", stream.kind).to_lowercase();
            format!("{} {kind}", owner(&stream.container_id, &stream.exec_id))
        }
    };
    assert_eq!(data, format!("{token} {words}").as_bytes());
}

/// The words that name a process, both of which are to be good ones.
fn owner(container_id: &str, exec_id: &str) -> String {
    assert!(ids::check_container_id(container_id).is_ok());
    assert!(exec_id.is_empty() || ids::check_exec_id(exec_id).is_ok());
    let exec_id = if exec_id.is_empty() { "-" } else { exec_id };
    format!("{container_id} {exec_id}")
}

/// The OCI documents: what the agent passes on to crun says the same as what it was given, except for what is the
/// agent's to say. The first byte chooses the terminal.
pub fn spec(data: &[u8]) {
    let Some((&choice, document)) = data.split_first() else {
        return;
    };
    let terminal = match choice % 3 {
        0 => None,
        1 => Some(Size::default()),
        _ => Some(Size {
            columns: 80,
            rows: u16::from(choice),
        }),
    };
    check_config(document, terminal);
    check_process(document, terminal);
    assert_eq!(
        check_object("it", document).is_ok(),
        parse(document).is_some_and(|value| value.is_object())
    );
}

fn check_config(document: &[u8], terminal: Option<Size>) {
    let additions = Additions::default();
    let adapted = match adapt_config("c1", document, terminal, &additions) {
        Ok(adapted) => adapted,
        Err(error) => return assert!(matches!(error, Error::InvalidArgument(_)), "{error}"),
    };
    let (mut given, mut got) = (parse(document).expect("JSON"), parse(&adapted).expect("JSON"));
    assert!(
        got["root"]["path"]
            .as_str()
            .is_some_and(|path| path.starts_with('/') && path.len() > 1)
    );
    assert_eq!(got["linux"]["cgroupsPath"], "/caisson/c1");
    check_user(&got["process"]);
    check_terminal(&got["process"], terminal);
    for config in [&mut given, &mut got] {
        config["linux"]
            .as_object_mut()
            .expect("an object")
            .remove("cgroupsPath");
        forget_terminal(&mut config["process"]);
    }
    assert!(is_same(&given, &got), "{given} became {got}");
    adapt_config("c1", &adapted, terminal, &additions).expect("accepted again");
}

fn check_process(document: &[u8], terminal: Option<Size>) {
    let adapted = match adapt_process(document, terminal) {
        Ok(adapted) => adapted,
        Err(error) => return assert!(matches!(error, Error::InvalidArgument(_)), "{error}"),
    };
    let (mut given, mut got) = (parse(document).expect("JSON"), parse(&adapted).expect("JSON"));
    assert!(got["args"].as_array().is_some_and(|args| !args.is_empty()));
    check_user(&got);
    check_terminal(&got, terminal);
    for process in [&mut given, &mut got] {
        forget_terminal(process);
    }
    assert!(is_same(&given, &got), "{given} became {got}");
}

/// Equal, integers of 64 bits exactly. No field of the specification is a fraction or larger, so that one of these may be
/// rounded: crun refuses it.
fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) if one.is_f64() && other.is_f64() => {
            let (one, other) = (one.as_f64().unwrap_or(0.0), other.as_f64().unwrap_or(0.0));
            (one - other).abs() <= one.abs() * 1e-12
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .all(|(key, value)| other.get(key).is_some_and(|other| is_same(value, other)))
        }
        _ => one == other,
    }
}

/// No id that the kernel reads as "leave it as it is", which is root.
fn check_user(process: &Value) {
    for name in ["uid", "gid"] {
        let id = &process["user"][name];
        assert!(
            id.is_null() || id.as_u64().is_some_and(|id| id < u64::from(u32::MAX)),
            "{name} {id}"
        );
    }
}

fn check_terminal(process: &Value, terminal: Option<Size>) {
    assert_eq!(process["terminal"], terminal.is_some());
    match terminal {
        None => assert!(process.get("consoleSize").is_none()),
        Some(size) if size != Size::default() => {
            assert_eq!(process["consoleSize"]["width"], size.columns);
            assert_eq!(process["consoleSize"]["height"], size.rows);
        }
        Some(_) => {}
    }
}

fn forget_terminal(process: &mut Value) {
    let process = process.as_object_mut().expect("an object");
    process.remove("terminal");
    process.remove("consoleSize");
}

fn parse(document: &[u8]) -> Option<Value> {
    serde_json::from_slice(document).ok()
}
