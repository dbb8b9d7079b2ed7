//! The line that opens a stream: `<token> <container id> <exec id or "-"> <stdin|stdout|stderr>\n`.

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

/// A parsed line. Empty `exec_id` is init.
#[derive(Debug, PartialEq, Eq)]
pub struct Hello {
    /// The secret as it was presented.
    pub token: [u8; TOKEN_BYTES],
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
    let [token, container_id, exec_id, kind] = words[..] else {
        return Err("the line must have four words");
    };
    let token = parse_token(token).ok_or("the token is malformed")?;
    ids::check_container_id(container_id).map_err(|_| "the container id is malformed")?;
    let exec_id = if exec_id == "-" {
        ""
    } else {
        ids::check_exec_id(exec_id).map_err(|_| "the exec id is malformed")?;
        exec_id
    };
    let kind = match kind {
        "stdin" => Kind::Stdin,
        "stdout" => Kind::Stdout,
        "stderr" => Kind::Stderr,
        _ => return Err("the stream must be stdin, stdout or stderr"),
    };
    Ok(Hello {
        token,
        container_id: container_id.to_owned(),
        exec_id: exec_id.to_owned(),
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

    #[test]
    fn init_and_exec_lines() {
        let got = parse(format!("{TOKEN} c1 - stdout").as_bytes()).expect("a good line");
        assert_eq!(
            (got.container_id.as_str(), got.exec_id.as_str(), got.kind),
            ("c1", "", Kind::Stdout)
        );
        assert_eq!((got.token[1], got.token[15]), (1, 0xff));

        let got = parse(format!("{TOKEN} c1 e-1 stdin").as_bytes()).expect("a good line");
        assert_eq!((got.exec_id.as_str(), got.kind), ("e-1", Kind::Stdin));
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
            format!("{TOKEN} c1 - stdout\r"),
            format!("{TOKEN} é - stdout"),
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
