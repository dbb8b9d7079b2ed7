//! The agent's one error type and its one conversion to an RPC status.

use std::io;

use tonic::{Code, Status};

/// What went wrong, by what the host can do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request itself is wrong: fix it.
    #[error("{0}")]
    InvalidArgument(String),
    /// The named object is unknown or already gone.
    #[error("{0}")]
    NotFound(String),
    /// The id is taken.
    #[error("{0}")]
    AlreadyExists(String),
    /// The object is in the wrong state for this call.
    #[error("{0}")]
    FailedPrecondition(String),
    /// A limit of the agent is reached.
    #[error("{0}")]
    ResourceExhausted(String),
    /// The agent does not do this.
    #[error("{0}")]
    Unimplemented(String),
    /// A bounded wait ran out.
    #[error("{0}")]
    DeadlineExceeded(String),
    /// The guest is broken, or the agent is.
    #[error("{0}")]
    Internal(String),
    /// A system call failed.
    #[error("Cannot {action}: {cause}")]
    Io {
        /// What was being done, with its object.
        action: String,
        /// The kernel's answer.
        #[source]
        cause: io::Error,
    },
}

/// Result with the agent's error.
pub type Result<T> = std::result::Result<T, Error>;

/// Longest error text that leaves the agent, in bytes.
const MESSAGE_LIMIT: usize = 1024;

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::InvalidArgument(_) => Code::InvalidArgument,
            Error::NotFound(_) => Code::NotFound,
            Error::AlreadyExists(_) => Code::AlreadyExists,
            Error::FailedPrecondition(_) => Code::FailedPrecondition,
            Error::ResourceExhausted(_) => Code::ResourceExhausted,
            Error::Unimplemented(_) => Code::Unimplemented,
            Error::DeadlineExceeded(_) => Code::DeadlineExceeded,
            Error::Internal(_) | Error::Io { .. } => Code::Internal,
        };
        Status::new(code, clean(&error.to_string(), MESSAGE_LIMIT))
    }
}

/// Adds the action to a system error.
pub trait Context<T> {
    /// Turns the error into [`Error::Io`]; `action` completes the sentence "Cannot …".
    fn context(self, action: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, action: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|cause| Error::Io {
            action: action(),
            cause: cause.into(),
        })
    }
}

/// Makes foreign text fit for a log line or a status message: no control characters, at most `limit` bytes.
pub fn clean(text: &str, limit: usize) -> String {
    let mut out = String::with_capacity(text.len().min(limit));
    for character in text.trim().chars() {
        let shown = if is_plain(character) { character } else { ' ' };
        if out.len() + shown.len_utf8() > limit {
            break;
        }
        out.push(shown);
    }
    out
}

/// False for control characters and for the ones that reorder text on a terminal.
fn is_plain(character: char) -> bool {
    !character.is_control()
        && !matches!(character, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clean_drops_control_characters_and_bounds_the_length() {
        assert_eq!(clean("a\x1b[31mb\nc\u{202e}d\n", 100), "a [31mb c d");
        assert_eq!(clean("ééé", 5), "éé");
        assert_eq!(clean("  ", 5), "");
    }

    #[test]
    fn status_carries_the_kind() {
        assert_eq!(Status::from(Error::NotFound("x".into())).code(), Code::NotFound);
        let io = Err::<(), _>(io::Error::from_raw_os_error(libc::ENOENT)).context(|| "open \"/x\"".into());
        let status = Status::from(io.expect_err("it is an error"));
        assert_eq!(status.code(), Code::Internal);
        assert!(status.message().starts_with("Cannot open \"/x\": No such file"));
    }
}
