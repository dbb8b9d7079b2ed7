//! The line that opens a stream: `<token> <container id> <exec id or "-"> <stdin|stdout|stderr>\n` for one of a process,
//! `<token> tcp <port>\n` and `<token> tcp-output <number>\n` for the two of a connection to a port of the guest's loopback;
//! `<token> <container id> <exec id or "-"> <number>\n` in place of the first for a connection to a descriptor.

use super::TOKEN_BYTES;
use crate::ids;

/// Longest line, its newline included.
pub const LIMIT: usize = 256;

/// Which of the three streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Host to process.
    Stdin,
    /// Process to host; the terminal's output when there is one.
    Stdout,
    /// Process to host.
    Stderr,
}

/// A parsed line.
#[derive(Debug, PartialEq, Eq)]
pub struct Hello {
    /// The secret as it was presented.
    pub token: [u8; TOKEN_BYTES],
    /// What is to be at our end.
    pub target: Target,
}

/// What a stream leads to.
#[derive(Debug, PartialEq, Eq)]
pub enum Target {
    /// A stream of a process.
    Stdio(ProcessStream),
    /// What goes to a TCP port of the guest's loopback.
    Tcp(u16),
    /// What goes to a descriptor of a process. Empty `exec_id` is init.
    Descriptor {
        /// Whose descriptor.
        container_id: String,
        /// Whose descriptor within the container.
        exec_id: String,
        /// Its number in the process.
        number: u32,
    },
    /// What comes from there, of the connection with this number.
    TcpOutput(u32),
}

/// One stream of one process. Empty `exec_id` is init.
#[derive(Debug, PartialEq, Eq)]
pub struct ProcessStream {
    /// Whose stream.
    pub container_id: String,
    /// Whose stream within the container.
    pub exec_id: String,
    /// Which one.
    pub kind: Kind,
}

/// Parses a line without its newline. The error is the reason for the peer.
pub fn parse(line: &[u8]) -> Result<Hello, &'static str> {
    let line = str::from_utf8(line)
        .ok()
        .filter(|line| line.is_ascii())
        .ok_or("the line is not ASCII")?;
    let words: Vec<&str> = line.split(' ').collect();
    let (token, target) = match words[..] {
        [token, "tcp", port] => (token, Target::Tcp(parse_port(port)?)),
        [token, "tcp-output", number] => (
            token,
            Target::TcpOutput(parse_number(number).ok_or("the number is malformed")?),
        ),
        [token, container_id, exec_id, number] if number.starts_with(|first: char| first.is_ascii_digit()) => {
            (token, parse_descriptor(container_id, exec_id, number)?)
        }
        [token, container_id, exec_id, kind] => (token, Target::Stdio(parse_stream(container_id, exec_id, kind)?)),
        _ => return Err("the line has too few or too many words"),
    };
    let token = parse_token(token).ok_or("the token is malformed")?;
    Ok(Hello { token, target })
}

fn parse_descriptor(container_id: &str, exec_id: &str, number: &str) -> Result<Target, &'static str> {
    Ok(Target::Descriptor {
        container_id: checked_container_id(container_id)?,
        exec_id: checked_exec_id(exec_id)?,
        number: parse_number(number).ok_or("the number is malformed")?,
    })
}

fn checked_container_id(container_id: &str) -> Result<String, &'static str> {
    ids::check_container_id(container_id).map_err(|_| "the container id is malformed")?;
    Ok(container_id.to_owned())
}

fn checked_exec_id(exec_id: &str) -> Result<String, &'static str> {
    if exec_id == "-" {
        return Ok(String::new());
    }
    ids::check_exec_id(exec_id).map_err(|_| "the exec id is malformed")?;
    Ok(exec_id.to_owned())
}

fn parse_port(port: &str) -> Result<u16, &'static str> {
    parse_number(port)
        .and_then(|number| u16::try_from(number).ok())
        .ok_or("the port must be a number from 1 to 65535")
}

/// From 1 on; `parse` alone takes a sign and leading zeroes, too.
fn parse_number(text: &str) -> Option<u32> {
    text.starts_with(|first| matches!(first, '1'..='9'))
        .then(|| text.parse().ok())?
}

fn parse_stream(container_id: &str, exec_id: &str, kind: &str) -> Result<ProcessStream, &'static str> {
    let container_id = checked_container_id(container_id)?;
    let exec_id = checked_exec_id(exec_id)?;
    let kind = match kind {
        "stdin" => Kind::Stdin,
        "stdout" => Kind::Stdout,
        "stderr" => Kind::Stderr,
        _ => return Err("the stream must be stdin, stdout or stderr"),
    };
    Ok(ProcessStream {
        container_id,
        exec_id,
        kind,
    })
}

/// Lower-case hex of exactly [`TOKEN_BYTES`] bytes.
fn parse_token(hex: &str) -> Option<[u8; TOKEN_BYTES]> {
    let digits: Vec<u8> = hex.bytes().map(digit).collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    if digits.len() != 2 * TOKEN_BYTES {
        return None;
    }
    bytes.try_into().ok()
}

fn digit(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        _ => None,
    }
}

/// Compares without telling by its time where the difference is.
pub fn same_token(left: &[u8; TOKEN_BYTES], right: &[u8; TOKEN_BYTES]) -> bool {
    left.iter()
        .zip(right)
        .fold(0, |difference, (a, b)| difference | (a ^ b))
        == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "000102030405060708090a0b0c0d0eff";

    fn stream_of(words: &str) -> ProcessStream {
        match parse(format!("{TOKEN} {words}").as_bytes())
            .expect("a good line")
            .target
        {
            Target::Stdio(stream) => stream,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn init_and_exec_lines() {
        let got = stream_of("c1 - stdout");
        assert_eq!(
            (got.container_id.as_str(), got.exec_id.as_str(), got.kind),
            ("c1", "", Kind::Stdout)
        );
        let got = stream_of("c1 e-1 stdin");
        assert_eq!((got.exec_id.as_str(), got.kind), ("e-1", Kind::Stdin));
        // A container may have this name: its line has four words.
        assert_eq!(stream_of("tcp - stderr").container_id, "tcp");
    }

    #[test]
    fn tcp_lines() {
        for port in [1, 8080, 65535] {
            let got = parse(format!("{TOKEN} tcp {port}").as_bytes()).expect("a good line");
            assert_eq!(got.target, Target::Tcp(port));
            assert_eq!((got.token[1], got.token[15]), (1, 0xff));
        }
        let got = parse(format!("{TOKEN} tcp-output 4294967295").as_bytes()).expect("a good line");
        assert_eq!(got.target, Target::TcpOutput(u32::MAX));
    }

    #[test]
    fn descriptor_lines() {
        let got = parse(format!("{TOKEN} tcp - 64").as_bytes()).expect("a good line");
        let container_id = "tcp".to_owned();
        assert_eq!(
            got.target,
            Target::Descriptor {
                container_id,
                exec_id: String::new(),
                number: 64
            }
        );
        let got = parse(format!("{TOKEN} c1 e1 3").as_bytes()).expect("a good line");
        assert!(matches!(got.target, Target::Descriptor { exec_id, .. } if exec_id == "e1"));
    }

    #[test]
    fn malformed_lines() {
        for line in [
            String::new(),
            "a b c".into(),
            format!("{TOKEN} c1 - stdout x"),
            format!("{TOKEN}  c1 - stdout"),
            format!("{TOKEN}00 c1 - stdout"),
            format!("{} c1 - stdout", TOKEN.to_uppercase()),
            format!("{TOKEN} ../c - stdout"),
            format!("{TOKEN} c1 -- stdout"),
            format!("{TOKEN} c1  stdout"),
            format!("{TOKEN} c1 - stdlog"),
            format!("{TOKEN} c1 e/1 3"),
            format!("{TOKEN} c1 - 0"),
            format!("{TOKEN} c1 - 3x"),
            format!("{TOKEN} ../c - 3"),
            format!("{TOKEN} c1 - stdout\r"),
            format!("{TOKEN} é - stdout"),
            format!("{TOKEN} tcp 0"),
            format!("{TOKEN} tcp 65536"),
            format!("{TOKEN} tcp +80"),
            format!("{TOKEN} tcp 080"),
            format!("{TOKEN} tcp"),
            format!("{TOKEN} udp 80"),
            format!("{TOKEN} tcp-output 0"),
            format!("{TOKEN} tcp-output 4294967296"),
            "tcp 80".into(),
        ] {
            assert!(parse(line.as_bytes()).is_err(), "{line:?}");
        }
        assert!(parse(b"\xff\xfe").is_err());
    }

    #[test]
    fn tokens_compare_by_value() {
        assert!(same_token(&[7; 16], &[7; 16]));
        assert!(!same_token(&[7; 16], &[8; 16]));
    }
}
