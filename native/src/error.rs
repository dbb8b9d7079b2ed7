//! System errors as JavaScript sees them: `code` is the errno's name, as on Node's own system errors.

use nix::errno::Errno;

/// The result of an exported function.
pub type Result<T> = std::result::Result<T, napi::Error<Code>>;

/// Becomes the `code` of the JavaScript error, for example "EBUSY".
pub struct Code(String);

impl AsRef<str> for Code {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// An error of a system call; `call` names the call and its object.
pub fn failed(call: impl std::fmt::Display, errno: Errno) -> napi::Error<Code> {
    let code = format!("{errno:?}");
    napi::Error::new(
        Code(code.clone()),
        format!("{code}: {}, {call}", errno.desc()),
    )
}
